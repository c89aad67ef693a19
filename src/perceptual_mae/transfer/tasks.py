"""From settings to a task."""

from collections.abc import Callable
from typing import Any

import torch

from perceptual_mae.seeds import Stream, mixed
from perceptual_mae.transfer.config import FinetuneConfig
from perceptual_mae.transfer.task import Task


def open_task(config: FinetuneConfig) -> tuple[Task, list[str]]:
    """The task that settings describe, its network on the CPU, with a head that depends on the seed alone.

    Returns:
        the task, and what a user should know of it, a sentence each.

    Raises:
        UsageError, PmaeError: an encoder or images that cannot be had, or that do not fit each other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed(config.seed, Stream.HEAD))
        return _OPEN[config.task](config)


def _classification(config: Any) -> tuple[Task, list[str]]:
    from perceptual_mae.transfer.classification import open_classification

    return open_classification(config)


def _detection(config: Any) -> tuple[Task, list[str]]:
    from perceptual_mae.transfer.detection import open_detection

    return open_detection(config)


def _segmentation(config: Any) -> tuple[Task, list[str]]:
    from perceptual_mae.transfer.segmentation import open_segmentation

    return open_segmentation(config)


_OPEN: dict[str, Callable[[Any], tuple[Task, list[str]]]] = {
    # each imports what it needs when it is asked: not everybody has the packages of every task
    "classification": _classification,
    "detection": _detection,
    "segmentation": _segmentation,
}
