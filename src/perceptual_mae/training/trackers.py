"""Where else a run is followed: TensorBoard, Weights & Biases, MLflow, Trackio, each through accelerate.

`metrics.jsonl` and `figures/` have everything that trackers are told: none of them can end a run that has begun.
"""

import importlib.util
import logging
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, TrackioTracker, WandBTracker
from PIL import Image

from perceptual_mae.credentials import public
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.settings import to_dict
from perceptual_mae.training.folder import TrainingFolder
from perceptual_mae.training.signals import Interrupted

_log = logging.getLogger(__name__)
Run = TrainingFolder[Any]


@contextmanager
def tracking(accelerator: Accelerator, run: Run, step: int) -> Iterator[None]:
    """Trackers that the settings asked for, for a run that goes on after `step` steps; use on the main process.

    Raises:
        UsageError: the package of a tracker is not installed.
        PmaeError: a tracker cannot be started, for a new run; one that goes on leaves it out with a warning.
    """
    usual = threading.excepthook
    threading.excepthook = lambda failure: None if _is_ours(failure) else usual(failure)
    try:
        for name in _asked_for(run):
            _start(accelerator, name, run, step)
        yield
    finally:
        for tracker in tuple(accelerator.trackers):
            with _or_left_out(accelerator, tracker):
                _END[tracker.name](tracker, sys.exception())
        accelerator.trackers.clear()
        threading.excepthook = usual


def track(accelerator: Accelerator, values: Mapping[str, float], step: int) -> None:
    """Tell trackers what was logged after `step` steps."""
    for tracker in tuple(accelerator.trackers):
        with _or_left_out(accelerator, tracker):
            tracker.log(dict(values), step=step)


def track_picture(accelerator: Accelerator, file: Path, step: int) -> None:
    """Show trackers a picture that was drawn after `step` steps, under its name less the step: `reconstruction`."""
    if not accelerator.trackers or not file.is_file():
        return
    name = file.stem.rpartition("-")[0] or file.stem
    with Image.open(file) as opened:
        drawn = opened.convert("RGBA")
    # Trackers show their own ground through what is transparent, or none.
    picture = np.asarray(Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB"))
    for tracker in tuple(accelerator.trackers):
        with _or_left_out(accelerator, tracker):
            _SHOW[tracker.name](tracker, name, picture, step)


def check_installed(trackers: Sequence[str]) -> None:
    """Refuse trackers whose package is not there: accelerate would leave them out without a word.

    Raises:
        UsageError: one line with what installs them.
    """
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            advice = "pip install 'perceptual-mae[trackers]' brings all of them"
            raise UsageError(f"--log.trackers {name}: {name} is not installed; pip install {name} ({advice})")


# -- one row a tracker -------------------------------------------------------------------------------------------------

Start = Callable[[Run, int, str | None], GeneralTracker]
"""From a run, its steps done and the tracker's name for it (None: a new one) to a tracker to be started."""


def _tensorboard(run: Run, step: int, identity: str | None) -> GeneralTracker:
    # What was logged after the checkpoint comes again: TensorBoard is told to forget it.
    return TensorBoardTracker("tensorboard", run.path, purge_step=step + 1)


def _wandb(run: Run, step: int, identity: str | None) -> GeneralTracker:
    # Another mode than online has nothing to resume from, and W&B would say so.
    named = {"id": identity or uuid.uuid4().hex[:8], "resume": "allow"}
    return WandBTracker(run.config.log.project, name=_name(run), dir=str(run.path), **named)


def _mlflow(run: Run, step: int, identity: str | None) -> GeneralTracker:
    return MLflowTracker(run.config.log.project, run_id=identity, run_name=_name(run))


def _trackio(run: Run, step: int, identity: str | None) -> GeneralTracker:
    # Trackio knows a run by its name alone.
    name = identity or f"{_name(run)}-{uuid.uuid4().hex[:8]}"
    return TrackioTracker(run.config.log.project, name=name, resume="allow")


_START: dict[str, Start] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}

_IDENTITY: dict[str, Callable[[Any], str]] = {
    "wandb": lambda tracker: tracker.run.id,
    "mlflow": lambda tracker: tracker.active_run.info.run_id,
    "trackio": lambda tracker: tracker.run.name,
}
"""What a tracker calls a run, to go on with it; TensorBoard goes by the folder."""


def _show_in_mlflow(tracker: Any, name: str, picture: np.ndarray, step: int) -> None:
    import mlflow

    mlflow.log_image(picture, key=name, step=step)


def _show_in_trackio(tracker: Any, name: str, picture: np.ndarray, step: int) -> None:
    import trackio

    tracker.log({name: trackio.Image(picture)}, step=step)


_SHOW: dict[str, Callable[[Any, str, np.ndarray, int], None]] = {
    "tensorboard": lambda tracker, name, picture, step: tracker.log_images(
        {name: picture[None]}, step, dataformats="NHWC"
    ),
    "wandb": lambda tracker, name, picture, step: tracker.log_images({name: [picture]}, step),
    "mlflow": _show_in_mlflow,
    "trackio": _show_in_trackio,
}


def _end_mlflow(tracker: Any, error: BaseException | None) -> None:
    import mlflow

    mlflow.end_run("KILLED" if isinstance(error, Interrupted) else "FAILED" if error else "FINISHED")


_END: dict[str, Callable[[Any, BaseException | None], None]] = {
    "tensorboard": lambda tracker, error: tracker.finish(),
    "wandb": lambda tracker, error: tracker.run.finish(exit_code=int(error is not None)),
    "mlflow": _end_mlflow,
    "trackio": lambda tracker, error: tracker.finish(),
}


# -- what holds for all of them ----------------------------------------------------------------------------------------


def _asked_for(run: Run) -> list[str]:
    log = run.config.log
    check_installed(log.trackers)
    return [*(["tensorboard"] if log.tensorboard else []), *dict.fromkeys(log.trackers)]


def _start(accelerator: Accelerator, name: str, run: Run, step: int) -> None:
    # What was done after no checkpoint is done anew, and is another run to a tracker.
    known = run.facts().get("trackers", {}) if step else {}
    tracker = _START[name](run, step, known.get(name))
    try:
        tracker.start()
        if name not in known and name in _IDENTITY:
            tracker.store_init_configuration(_flat(public(to_dict(run.config))))
            run.describe(trackers=run.facts().get("trackers", {}) | {name: _IDENTITY[name](tracker)})
    except Exception as error:  # each has its own, and whatever it is, training can do without
        if step or name == "tensorboard":
            _leave_out(accelerator, tracker, error)
            return
        raise PmaeError(f"--log.trackers {name}: it cannot be started: {_reason(error)}") from error
    accelerator.trackers.append(tracker)


@contextmanager
def _or_left_out(accelerator: Accelerator, tracker: GeneralTracker) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # see above
        _leave_out(accelerator, tracker, error)


def _leave_out(accelerator: Accelerator, tracker: GeneralTracker, error: Exception) -> None:
    what = "TensorBoard files cannot be written" if tracker.name == "tensorboard" else f"{tracker.name} cannot be told"
    _log.warning("%s: %s (training does not need it, and goes on)", what, _reason(error))
    accelerator.trackers = [one for one in accelerator.trackers if one is not tracker]


def _reason(error: Exception) -> str:
    words = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(words.split())[:300] or type(error).__name__


def _name(run: Run) -> str:
    return run.path.resolve().name


def _flat(settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested settings under the names that flags have: `optimizer.weight_decay`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{path}{name}.")
        else:
            found[path + name] = str(value) if isinstance(value, list) else value
    return found


def _is_ours(failure: threading.ExceptHookArgs) -> bool:
    """Whether a thread that died is the one that writes for TensorBoard: `track` is told of its error as well."""
    return isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard")
