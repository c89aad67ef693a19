"""What tests of several packages share: the built-in photographs, a run that takes a second, the golden tensors."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# No test may need the network. And two threads that wait for each other on busy cores are a hundred times slower than
# one: the models here are tiny. Both hold for the processes that tests start, too.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from torch import Tensor

from perceptual_mae.pretraining.config import CheckpointConfig, LogConfig, PretrainConfig

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
MakeConfig = Callable[..., PretrainConfig]


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of reference tensors that lies beside the repository."""
    folder = ROOT.parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("no ../shared/golden beside the repository")
    return folder


@pytest.fixture(scope="session")
def photographs() -> Tensor:
    """Twelve real 32 x 48 pictures, `(12, 3, 32, 48)` uint8."""
    from skimage import data

    tiles = torch.from_numpy(data.astronaut()[96:224, 96:240].copy())
    return tiles.reshape(4, 32, 3, 48, 3).permute(0, 2, 4, 1, 3).reshape(12, 3, 32, 48)


def tiny(out: Path | str, **settings: Any) -> PretrainConfig:
    """A run that takes a second; settings of `log` go by their names, everything else by its own."""
    defaults: dict[str, Any] = {
        "data": "photos",
        "model": "micro",
        "image_size": 32,
        "patch_size": 8,
        "batch_size": 16,
        "max_steps": 6,
        "lr": 1e-3,
        "save_every": 1000,
        "device": "cpu",
        "workers": 0,
        "log": LogConfig(every=1, pictures=0, validate_every=0, tensorboard=False),
        "checkpoint": CheckpointConfig(minutes=1e9, keep=2),
    }
    return PretrainConfig(out=str(out), **(defaults | settings))


@pytest.fixture(scope="session")
def config_for() -> MakeConfig:
    """`config_for(folder, ...)`: the settings of a run that takes a second."""
    return tiny


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """`make_config("name", ...)`: the same, in a folder of the test's own."""
    return lambda name="run", **settings: tiny(tmp_path / name, **settings)
