"""Learning to name every pixel: UperNet, measured by the mean intersection over union."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from perceptual_mae.augment.segment import SegmentationView
from perceptual_mae.data.ade import IGNORED, AdeSource, open_ade
from perceptual_mae.data.labelled import Sample
from perceptual_mae.data.types import BrokenImage, Skip
from perceptual_mae.encoders import open_encoder
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.models.task_network import TaskNetwork
from perceptual_mae.transfer.config import SegmentationConfig
from perceptual_mae.transfer.task import open_validation

if TYPE_CHECKING:
    from perceptual_mae.models.segmenter import Segmenter

_TOGETHER = 8
"""Validation images that are decoded before the network sees them."""


@dataclass(frozen=True)
class SegmentationAugment:
    """One view of a sample; see `SegmentationView`."""

    view: SegmentationView

    def __call__(self, sample: Sample) -> Sample:
        """Draws from PyTorch's generator."""
        assert isinstance(sample.target, Tensor)
        return Sample(*self.view(sample.image, sample.target), sample.name)


class Segmentation:
    """The task over images with masks; see `Task`.

    Attributes:
        confusion: of the last evaluation, `(K, K)` int64: pixels by their class and by what they were called.
        skipped: validation images that could not be read in the last evaluation.
    """

    name: ClassVar[str] = "segmentation"
    metric: ClassVar[str] = "miou"

    def __init__(
        self, network: "Segmenter", train: AdeSource, validation: AdeSource, config: SegmentationConfig
    ) -> None:
        self.network, self.train, self.validation = network, train, validation
        self.description: Mapping[str, Any] = network.describe()
        mean_colour = tuple(min(255, max(0, round(255 * value))) for value in self.description["mean"])
        self.augment = SegmentationAugment(SegmentationView(network.image_size, mean_colour, config.scale))
        self.confusion: Tensor | None = None
        self.skipped: list[Skip] = []

    def mix(self, images: Tensor, targets: list[Any]) -> tuple[Tensor, list[Any]]:
        """Nothing is mixed."""
        return images, targets

    def evaluate(self, network: TaskNetwork, device: torch.device) -> dict[str, float]:
        """On whole images at their own size: `miou`, `pixel_accuracy`, `mean_accuracy` and `iou/CLASS`.

        Raises:
            PmaeError: no validation image can be read.
        """
        source, self.skipped = self.validation, []
        counts = MulticlassConfusionMatrix(len(source.classes), ignore_index=IGNORED, sync_on_compute=False)
        for start in range(0, len(source), _TOGETHER):
            samples = list(filter(None, map(self._read, range(start, min(start + _TOGETHER, len(source))))))
            predictions = network.predict([sample.image for sample in samples])
            for sample, prediction in zip(samples, predictions, strict=True):
                assert isinstance(sample.target, Tensor)
                counts.update(prediction["labels"].long().flatten(), sample.target.flatten())
        if len(self.skipped) == len(source):
            first = f"{self.skipped[0].name}: {self.skipped[0].reason}"
            raise PmaeError(f"no validation image of {source.name} can be read; the first, {first}")
        self.confusion = counts.compute()
        return scores(self.confusion, source.classes)

    def export(self, network: TaskNetwork, folder: Path) -> None:
        """Nothing: nobody else has this network."""

    def _read(self, index: int) -> Sample | None:
        try:
            return self.validation.read(index)
        except BrokenImage as broken:
            self.skipped.append(Skip(self.validation.title(index), str(broken)))
            return None


def scores(confusion: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """The metrics of a confusion matrix over all pixels of all images together.

    Intersection over union of a class is the number of its pixels that were found, over those that are it or were
    called it. Their mean leaves out classes that neither are nor were called anywhere; that of the accuracies, classes
    that are nowhere.

    Args:
        confusion: `(K, K)`: pixels by their class and by what they were called.
        classes: K names.
    """
    found, truth, called = (part.double() for part in (confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)))
    union = truth + called - found
    iou = {name: float(found[k] / union[k]) for k, name in enumerate(classes) if union[k] > 0}
    accuracies = (found / truth)[truth > 0]
    if not len(accuracies):
        raise PmaeError("no pixel of the validation masks has a class: all of them are 0")
    return {
        "miou": sum(iou.values()) / len(iou),
        "pixel_accuracy": float(found.sum() / truth.sum()),
        "mean_accuracy": float(accuracies.mean()),
        **{f"iou/{name}": value for name, value in iou.items()},
    }


def open_segmentation(config: SegmentationConfig) -> tuple[Segmentation, list[str]]:
    """The task that settings describe, its network on the CPU and its head drawn from PyTorch's generator.

    Returns:
        the task, and what a user should know of it, a sentence each.

    Raises:
        UsageError, PmaeError: an encoder or images that cannot be had, or `transformers` is not installed.
    """
    kind = segmenter_class()
    encoder, matched = open_encoder(config.encoder, config.image_size)
    train, validation, notes = open_masks(config, encoder.in_channels)
    drop_path = config.rules.drop_path if config.drop_path is None else config.drop_path
    try:
        network = kind.of(encoder, len(train.classes), drop_path=drop_path, width=config.head_width)
    except ValueError as error:
        raise UsageError(f"ENCODER {config.encoder}: {error}") from error
    return Segmentation(network, train, validation, config), [matched, *notes]


def segmenter_class() -> type["Segmenter"]:
    """`Segmenter`, which needs `transformers`.

    Raises:
        PmaeError: it is not installed; says how to install it.
    """
    try:
        from perceptual_mae.models.segmenter import Segmenter
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise PmaeError("segmentation needs transformers: pip install 'perceptual-mae[segmentation]'") from None
    return Segmenter


def open_masks(config: SegmentationConfig, channels: int) -> tuple[AdeSource, AdeSource, list[str]]:
    """Training and validation images with the same classes, all masks read once, and what is to be said of them.

    Raises:
        UsageError: another layout, nothing to validate on, or no mask that can be used.
    """
    limit = config.loader.max_pixels
    train = open_ade(config.data, "train", channels=channels, max_pixels=limit)
    assert train is not None  # only validation images may be missing
    if len(train.classes) < 2:
        why = "masks have values from 1 on, 0 is where nothing is asked: write 1 and 2 for background and object"
        raise UsageError(f"--data {config.data}: there is one class, and nothing to tell apart ({why})")
    opened = partial(open_ade, classes=train.classes, channels=channels, max_pixels=limit)
    validation = open_validation(config, opened)
    if validation is None:
        advice = "move some images and masks there, or name other data with --val-data"
        raise UsageError(f"--data {config.data}: there is no images/validation to measure on: {advice}")
    notes = []
    for source, what in ((train, "training"), (validation, "validation")):
        source.check()
        if not len(source):
            last = source.problems[-1]
            raise UsageError(f"{source.name}: no {what} image can be used; the last, {last.name}: {last.reason}")
        if source.problems:
            many, first = len(source.problems), source.problems[0]
            are = "images or masks are" if many > 1 else "image or mask is"
            notes.append(f"{many} {what} {are} left out (the first, {first.name}: {first.reason})")
    return train, validation, notes
