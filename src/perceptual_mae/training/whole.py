"""What surrounds the loop of any training: its device before it, trackers beside it, a report after it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from accelerate import Accelerator

from perceptual_mae.files import if_possible
from perceptual_mae.training.config import TrainingSettings
from perceptual_mae.training.device import make_accelerator
from perceptual_mae.training.folder import TrainingFolder
from perceptual_mae.training.loop import TrainingLoop
from perceptual_mae.training.memory import keep_freed_memory
from perceptual_mae.training.trackers import check_installed, tracking


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
    """Train, and leave a report that says how it ended.

    Args:
        loop: of the run.
        report: writes it; on the main process.

    Raises:
        PmaeError: as `TrainingLoop.fit`.
    """
    main = loop.accelerator.is_main_process
    try:
        with tracking(loop.accelerator, loop.run, loop.step) if main else nullcontext():
            loop.fit_and_tell()
    finally:
        if main:
            with if_possible():
                report()
