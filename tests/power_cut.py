"""Runs that end without warning, for tests of what comes after."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from perceptual_mae import api
from perceptual_mae.api import pretrain
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.moment import Moment


class At:
    """An observer that does something when a number of steps is done, and remembers the model."""

    def __init__(self, step: int, act: Callable[[Moment], dict[str, float]]) -> None:
        self.step, self.act = step, act
        self.model: Any = None

    def due(self, moment: Moment) -> bool:
        self.model = moment.model
        return moment.step == self.step

    def __call__(self, moment: Moment) -> dict[str, float]:
        return self.act(moment)


@contextmanager
def watched_by(observer: At) -> Iterator[None]:
    """Adds an observer to the runs within."""
    usual = api.observers_for
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "observers_for", lambda *args: [*usual(*args), observer])
        yield


class PowerCut(Exception):  # noqa: N818
    """Stands for whatever ends a process without warning."""


def pretrain_until_power_cut(config: PretrainConfig, step: int) -> Path:
    """Ends when so many steps are done and the last of them is not saved yet."""

    def cut(moment: Moment) -> dict[str, float]:
        raise PowerCut

    with watched_by(At(step, cut)), pytest.raises(PowerCut):
        pretrain(config)
    return Path(config.out)
