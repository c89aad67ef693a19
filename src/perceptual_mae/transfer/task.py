"""What a labelled task is to the loop that trains it, and to those who use what was trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from perceptual_mae.data.labelled import LabelledSource, Sample
from perceptual_mae.data.types import Skip
from perceptual_mae.errors import said_of
from perceptual_mae.models.task_network import TaskNetwork
from perceptual_mae.transfer.config import FinetuneConfig

Opened = TypeVar("Opened")


@dataclass(frozen=True)
class Learnt:
    """A fine-tuned network with everything that is needed to use it, or to build it again.

    Attributes:
        task: classification, detection or segmentation.
        network: in eval mode.
        classes: names by label.
        description: plain values that build the network again.
    """

    task: str
    network: TaskNetwork
    classes: tuple[str, ...]
    description: Mapping[str, Any]


class Task(Protocol):
    """A labelled task over its data."""

    name: ClassVar[str]
    metric: ClassVar[str]
    """The number of `evaluate` that the best checkpoint has most of."""

    @property
    def network(self) -> TaskNetwork:
        """What is trained, in place."""
        ...

    @property
    def description(self) -> Mapping[str, Any]:
        """Plain values that build the network again; `image_size`, `mean` and `std` among them."""
        ...

    @property
    def train(self) -> LabelledSource:
        """What is learnt from."""
        ...

    @property
    def validation(self) -> LabelledSource:
        """What the best network is chosen by."""
        ...

    @property
    def augment(self) -> Callable[[Sample], Sample]:
        """For training; see `data.labelled.labelled_loader`."""
        ...

    @property
    def skipped(self) -> Sequence[Skip]:
        """Validation images that could not be read in the last evaluation."""
        ...

    def mix(self, images: Tensor, targets: list[Any]) -> tuple[Tensor, list[Any]]:
        """What is done to a whole batch on the device before the network sees it; the generators are seeded."""
        ...

    def evaluate(self, network: TaskNetwork, device: torch.device) -> dict[str, float]:
        """Metrics on the validation images, by name, each in [0, 1] where more is better."""
        ...

    def export(self, network: TaskNetwork, folder: Path) -> None:
        """Write the best network for other people's tools, where they have a form for it."""
        ...


def open_validation(config: FinetuneConfig, opened: Callable[[str, str], Opened | None]) -> Opened | None:
    """The validation images of `--val-data`, or its images where it is not split; without it, those of `--data`.

    Args:
        config: of the run.
        opened: opens a split of a data argument; None where that has no such split.

    Raises:
        UsageError, PmaeError: as `opened`; what it says of `--data` is said of the flag that was given.
    """
    if config.val_data is None:
        return opened(config.data, "validation")
    with said_of("--val-data"):
        validation = opened(config.val_data, "validation")
        return opened(config.val_data, "train") if validation is None else validation
