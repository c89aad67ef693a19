"""What a person sees of a run, when observers look, and which device and precision are chosen."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from perceptual_mae.errors import UsageError
from perceptual_mae.pretraining.moment import every_epochs
from perceptual_mae.training.device import choose_device, choose_precision
from perceptual_mae.training.progress import ProgressDisplay
from perceptual_mae.training.schedule import Clock


def shown(steps: int, done: int = 0, terminal: bool = False) -> str:
    """What a display of a run writes."""
    file = io.StringIO()
    with ProgressDisplay(Console(file=file, force_terminal=terminal, width=120), steps, done) as display:
        for step in range(done + 1, steps + 1):
            display.step(step, step / 10, loss=2.0, rate=50.0 if step % 2 == 0 else None)
    return file.getvalue()


def test_a_log_file_gets_the_first_and_the_last_step() -> None:
    first, last = shown(30).splitlines()
    assert first.startswith("step 1/30  epoch 0.10  loss 2.0000")
    assert last.startswith("step 30/30  epoch 3.00  loss 2.0000  50 images/s")
    assert last.endswith("0:00 left")
    assert shown(30, done=28).splitlines()[0].startswith("step 29/30")
    assert shown(30, done=30) == ""


def test_a_terminal_gets_a_bar() -> None:
    text = shown(30, terminal=True)
    assert "30/30" in text
    assert "images/s" in text


def test_other_processes_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(None, 3, 0) as display:
        display.step(3, 1.0, loss=2.0)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("epochs", "steps"),
    [(1.0, [10, 20, 25]), (0.5, [5, 10, 15, 20, 25]), (2, [20, 25]), (0.01, list(range(1, 26))), (99, [25]), (0, [])],
)
def test_every_so_many_epochs_and_at_the_end(epochs: float, steps: list[int]) -> None:
    def moment(step: int) -> Any:
        return SimpleNamespace(step=step, total=25, clock=Clock(step, 10))

    assert [step for step in range(26) if every_epochs(moment(step), epochs)] == steps


def test_devices_and_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    assert [choose_precision(asked, "cpu") for asked in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]
    with pytest.raises(UsageError, match="--device cuda: PyTorch finds no GPU here"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert [choose_device(asked) for asked in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    assert [choose_precision(asked, "cuda") for asked in ("auto", "fp32", "bf16")] == ["bf16", "fp32", "bf16"]
    assert choose_precision("auto", "cpu") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert choose_precision("auto", "cuda") == "fp32"
    with pytest.raises(UsageError, match="--precision bf16: this GPU does not have it"):
        choose_precision("bf16", "cuda")
