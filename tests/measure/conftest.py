"""Two short runs and labelled images to measure them on."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from perceptual_mae.api import pretrain
from perceptual_mae.measure import comparison
from perceptual_mae.pretraining.config import PretrainConfig


@pytest.fixture(scope="session")
def labelled(photographs: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of crops of a photograph, in folders; the last class has one image."""
    folder = tmp_path_factory.mktemp("labelled")
    for index, picture in enumerate(photographs):
        name = "rare" if index == 0 else ("left", "right")[index % 2]
        for shift in range(1 if name == "rare" else 4):
            (folder / name).mkdir(exist_ok=True)
            pixels = picture.roll(shift * 3, dims=-1).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / name / f"{index:02}-{shift}.png")
    return folder


@pytest.fixture(scope="session")
def run(config_for: Callable[..., PretrainConfig], labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on the labelled images."""
    return pretrain(config_for(tmp_path_factory.mktemp("measured") / "mine", data=str(labelled), max_steps=2))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings run here and not in processes of their own; which ones were started."""
    from perceptual_mae.cli.main import main

    started: list[str] = []

    class Started:
        def __init__(self, command: list[str], **_: Any) -> None:
            assert command[:3] == [sys.executable, "-m", "perceptual_mae.cli.main"]
            started.append(Path(command[-1]).stem)
            self.code = main(command[3:])

        def wait(self, timeout: float) -> int:
            return self.code

    monkeypatch.setattr(comparison.subprocess, "Popen", Started)
    return started
