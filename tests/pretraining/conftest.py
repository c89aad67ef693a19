"""A whole run to compare others with, and how two runs are compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from perceptual_mae.pretraining.config import LogConfig, PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.training.checkpoint import checkpoints, load

LOG = LogConfig(every=4, pictures=0, validate_every=0.1, validation_images=32, tensorboard=False)
LONG: dict[str, Any] = {"max_steps": 110, "save_every": 7, "lr": 2e-3, "log": LOG}
"""Settings under which interruptions fall between log lines, between checkpoints and between validations."""


@pytest.fixture
def long_config(make_config: Callable[..., PretrainConfig]) -> PretrainConfig:
    """The settings of `uninterrupted`, in a folder of the test's own."""
    return make_config("long", **LONG)


@pytest.fixture(scope="session")
def uninterrupted(config_for: Callable[..., PretrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 110 steps that nothing has disturbed."""
    from perceptual_mae.api import pretrain

    return pretrain(config_for(tmp_path_factory.mktemp("runs") / "uninterrupted", **LONG))


@pytest.fixture
def few_photos(tmp_path: Path, photographs: Tensor) -> Path:
    """A folder of twelve PNG files."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, picture in enumerate(photographs):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{index:02}.png")
    return folder


def metrics(run: Path) -> list[dict[str, Any]]:
    """A run's log without the times, which no two runs share."""
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in record.items() if k not in timed} for record in RunFolder.read(run).records()]


def last_state(run: Path) -> dict[str, Any]:
    """The newest checkpoint, flat: every tensor and number that the next step depends on."""
    newest = load(checkpoints(run / "checkpoints")[-1])
    flat: dict[str, Any] = {"step": newest.step}

    def flatten(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                flatten(item, f"{path}/{key}")
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                flatten(item, f"{path}/{index}")
        else:
            flat[path] = value

    flatten({"networks": newest.networks, "training": newest.training}, "")
    del flat["/training/seconds"]
    return flat


@pytest.fixture
def assert_same_run() -> Callable[[Path, Path], None]:
    """Asserts that two runs ended in the same state, bit by bit, and logged the same."""

    def check(one: Path, other: Path) -> None:
        first, second = last_state(one), last_state(other)
        assert first.keys() == second.keys()
        for name, value in first.items():
            same = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
            assert same, name
        assert sum("exp_avg" in name for name in first) > 50  # the optimiser's moments are among them
        assert metrics(one) == metrics(other)

    return check
