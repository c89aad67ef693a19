"""Accelerate set up from the settings."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from perceptual_mae.training import device
from perceptual_mae.training.device import make_accelerator, tf32_products


@pytest.fixture
def other_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with a GPU that computes in bf16, for which `meta` stands."""
    with monkeypatch.context() as patch:
        patch.setattr(PartialState, "default_device", property(lambda state: torch.device("meta")))
        patch.setattr(device, "choose_device", lambda asked: "cuda" if asked == "auto" else asked)
        patch.setattr(device, "has_bf16", lambda kind: kind == "cuda")
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("other_device")
def test_every_run_of_a_process_has_the_device_and_precision_that_it_asks_for() -> None:
    found = []
    for asked in ("cpu", "auto", "cpu"):
        accelerator = make_accelerator(asked, "auto")
        found.append((accelerator.device.type, accelerator.mixed_precision))
    assert found == [("cpu", "no"), ("meta", "bf16"), ("cpu", "no")]


@pytest.mark.parametrize(
    ("kind", "precision", "within"), [("cuda", "bf16", "high"), ("cuda", "no", "highest"), ("cpu", "bf16", "highest")]
)
def test_float32_products_are_quick_within_a_step_in_bf16_on_a_gpu(kind: str, precision: str, within: str) -> None:
    accelerator: Any = SimpleNamespace(device=torch.device(kind), mixed_precision=precision)
    with contextlib.suppress(KeyError), tf32_products(accelerator):
        found = torch.get_float32_matmul_precision()
        raise KeyError
    assert (found, torch.get_float32_matmul_precision()) == (within, "highest")


def test_a_choice_by_the_newer_settings_of_pytorch_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed() -> str:
        raise RuntimeError("a mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", pytest.fail)
    with tf32_products(SimpleNamespace(device=torch.device("cuda"), mixed_precision="bf16")):  # type: ignore[arg-type]
        pass
