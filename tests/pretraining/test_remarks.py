"""What a user is told of settings that a run cannot follow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from perceptual_mae.api import pretrain
from perceptual_mae.data.arrays import to_uint8
from perceptual_mae.pretraining.config import LogConfig, PretrainConfig
from perceptual_mae.pretraining.loss_config import LossesConfig
from perceptual_mae.pretraining.remarks import remark_on_brightness, remarks


def test_nothing_is_said_of_most_runs() -> None:
    assert remarks(PretrainConfig(data="photos", method="stylegan2-ada-p"), 1024, 4) == []


@pytest.mark.parametrize(
    ("settings", "epochs", "said"),
    [
        ({"max_steps": 10}, 9, True),
        ({"max_steps": 11}, 9, False),
        ({}, 1, True),
        ({}, 2, False),
        ({"losses": LossesConfig(perceptual_every=1)}, 1, False),
        ({"losses": LossesConfig(perceptual_every=4)}, 3, True),
        ({"method": "msg-gan"}, 1, False),
    ],
)
def test_features_that_are_never_matched(settings: dict[str, Any], epochs: int, said: bool) -> None:
    config = PretrainConfig(data="photos", epochs=epochs, **({"method": "msg-gan-p"} | settings))
    assert any("--losses.perceptual-every 1" in one for one in remarks(config, 2560, 10)) is said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 99}, True),
        ({"epochs": 100}, False),
        ({"epochs": 99, "max_steps": 50}, False),  # somebody who counts steps knows how many
        ({"epochs": 99, "init": "timm:vit_tiny_patch16_224"}, False),
    ],
)
def test_few_steps(settings: dict[str, Any], said: bool) -> None:
    found = remarks(PretrainConfig(data="photos", **settings), 2560, 10)
    assert any("This run has only 990 steps" in one for one in found) is said


def test_images_that_are_nearly_black() -> None:
    """As 12-bit values are of which the upper 8 of 16 bits are kept."""
    photograph = np.tile(np.linspace(0, 4095, 64).astype(np.uint16), (64, 1))
    assert "0 .. 65535" in remark_on_brightness(to_uint8(photograph // 2).mean() / 255)[0]
    assert remark_on_brightness(to_uint8(photograph * 16).mean() / 255) == []


def test_a_run_with_few_images_says_so(
    make_config: Callable[..., PretrainConfig], few_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LogConfig(pictures=0, validate_every=0, tensorboard=False)
    pretrain(make_config(data=str(few_photos), batch_size=13, max_steps=1, log=log), Console(width=1000))
    assert "There are fewer images (12) than --batch-size 13" in capsys.readouterr().out
