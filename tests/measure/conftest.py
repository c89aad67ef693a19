"""Two short runs and labelled images to measure them on."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from perceptual_mae.api import pretrain
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
