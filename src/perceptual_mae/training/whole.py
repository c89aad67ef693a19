"""What surrounds the loop of any training: its device before it, trackers beside it, reports during and after it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from accelerate import Accelerator

from perceptual_mae.files import if_possible
from perceptual_mae.training.config import TrainingSettings
from perceptual_mae.training.device import make_accelerator
from perceptual_mae.training.folder import TrainingFolder
from perceptual_mae.training.loop import TrainingLoop
from perceptual_mae.training.memory import keep_freed_memory
from perceptual_mae.training.signals import StopNow, StopRequest
from perceptual_mae.training.trackers import check_installed, tracking

FIRST_REPORT = 60.0
"""Seconds that a run has before its first report; what is over by then has one at its end."""
SHARE = 0.01
"""Of a run's time that its reports may take."""


def accelerator_for(settings: TrainingSettings, *, compiled: bool = False) -> Accelerator:
    """Where a run computes; its settings, and what they need, are looked at first.

    Args:
        settings: of the run.
        compiled: whether it is to be compiled.

    Raises:
        UsageError: settings that cannot be right, a device that is not there, a tracker that is not installed.
    """
    settings.check()
    check_installed(settings.log.trackers)
    accelerator = make_accelerator(settings.device, settings.precision, compiled=compiled)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    return accelerator


@contextmanager
def open_until_the_end(run: TrainingFolder[Any], accelerator: Accelerator) -> Iterator[None]:
    """Within, a folder that was claimed is the run's, which all processes begin together."""
    try:
        accelerator.wait_for_everyone()
        yield
    finally:
        accelerator.end_training()
        run.close()


def train_and_report(loop: TrainingLoop[Any, Any], report: Callable[[], object]) -> None:
    """Train, with a report beside the checkpoints, and leave one that says how it ended.

    Args:
        loop: of the run.
        report: writes it; on the main process.

    Raises:
        PmaeError: as `TrainingLoop.fit`.
    """
    main = loop.accelerator.is_main_process
    if main:
        loop.tell = Seldom(report, loop.stop)
    try:
        with tracking(loop.accelerator, loop.run, loop.step) if main else nullcontext():
            loop.fit_and_tell()
    finally:
        if main:
            with if_possible():
                report()


class Seldom:
    """Writes reports of a run that goes on, in a hundredth of its time at most; a signal ends one that is begun.

    Args:
        report: writes one.
        stop: who asks the run to stop.
    """

    def __init__(self, report: Callable[[], object], stop: StopRequest) -> None:
        self._report, self._stop = report, stop
        self._next = time.monotonic() + FIRST_REPORT

    def __call__(self) -> None:
        """Write one, if it is time to."""
        begun = time.monotonic()
        if begun < self._next:
            return
        with suppress(StopNow), if_possible(), self._stop.hurries():
            self._report()
        ended = time.monotonic()
        self._next = ended + (ended - begun) / SHARE
