"""TensorBoard, which a run can do without: where its files cannot be written, it is left out with a warning."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from accelerate import Accelerator

_log = logging.getLogger(__name__)


@contextmanager
def tracking(accelerator: Accelerator, step: int) -> Iterator[None]:
    """Trackers that the settings asked for, for a run that goes on after `step` steps; use on the main process."""
    usual = threading.excepthook
    threading.excepthook = lambda failure: None if _is_ours(failure) else usual(failure)
    try:
        if accelerator.log_with:
            try:
                # What was logged after the checkpoint comes again: TensorBoard is told to forget it.
                accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": step + 1}})
            except OSError as error:
                _leave_out(accelerator, error)
        yield
        for tracker in accelerator.trackers:
            try:
                tracker.finish()
            except OSError as error:
                _leave_out(accelerator, error)
    finally:
        accelerator.trackers.clear()
        threading.excepthook = usual


def track(accelerator: Accelerator, values: Mapping[str, float], step: int) -> None:
    """Tell trackers what was logged after `step` steps."""
    try:
        accelerator.log(dict(values), step=step)
    except OSError as error:
        _leave_out(accelerator, error)


def _leave_out(accelerator: Accelerator, error: OSError) -> None:
    reason = (error.strerror or str(error)).lower()
    _log.warning("TensorBoard files cannot be written: %s (training does not need them, and goes on)", reason)
    accelerator.trackers.clear()


def _is_ours(failure: threading.ExceptHookArgs) -> bool:
    """Whether a thread that died is the one that writes for TensorBoard: `track` is told of its error as well."""
    return isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard")
