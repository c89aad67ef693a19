"""Learning to detect and outline objects: Mask R-CNN over the encoder, trained with large-scale jitter, scored as COCO
does it (arXiv 1405.0312)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from perceptual_mae.augment.jitter import LargeScaleJitter
from perceptual_mae.data.coco import CocoSource, open_coco
from perceptual_mae.data.coco_masks import INSTALL, encode
from perceptual_mae.data.labelled import Sample
from perceptual_mae.data.types import BrokenImage, Skip
from perceptual_mae.encoders import open_encoder
from perceptual_mae.encoders.skips import has_skips
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.models.detector import Detector, Pyramid
from perceptual_mae.models.task_network import Prediction, TaskNetwork
from perceptual_mae.seeds import Stream, permutation
from perceptual_mae.transfer.config import DetectionConfig
from perceptual_mae.transfer.task import open_validation

HELD_OUT = 0.2
"""Share of the images that is validated on where the data has one split only."""
_AT_ONCE = 8
"""Validation images that the network sees together."""
_ENDS = {"": "", "50": "_50", "75": "_75", "_small": "_small", "_medium": "_medium", "_large": "_large"}
"""How the names of average precisions end: ours, torchmetrics'."""


@dataclass(frozen=True)
class Jittered:
    """Large-scale jitter of a sample; see `augment.jitter`."""

    jitter: LargeScaleJitter

    def __call__(self, sample: Sample) -> Sample:
        """Draws from PyTorch's generator."""
        assert isinstance(sample.target, dict)
        image, objects = self.jitter(sample.image, sample.target)
        return Sample(image, objects, sample.name)


class Detection:
    """The task over images with COCO annotations; see `Task`.

    Args:
        network: of as many classes as the images have, in training on squares of its side.
        train, validation: images whose categories are the same.
        scale: least and greatest scale of large-scale jitter.
    """

    name: ClassVar[str] = "detection"
    metric: ClassVar[str] = "box_ap"

    def __init__(
        self, network: Detector, train: CocoSource, validation: CocoSource, scale: tuple[float, float] = (0.1, 2.0)
    ) -> None:
        self.network, self.train, self.validation = network, train, validation
        self.description: Mapping[str, Any] = {**network.describe(), "category_ids": list(train.category_ids)}
        self.augment = Jittered(LargeScaleJitter(network.side, scale))
        self.skipped: list[Skip] = []

    def mix(self, images: Tensor, targets: list[Any]) -> tuple[Tensor, list[Any]]:
        """Nothing."""
        return images, targets

    def evaluate(self, network: TaskNetwork, device: torch.device) -> dict[str, float]:
        """Average precision of boxes and of masks (`box_ap`, `mask_ap`), over IoU 0.5 to 0.95.

        Also at IoU 0.5 and 0.75 (`box_ap50`, ...), and of objects of less than 32, 32 to 96 and more pixels a side
        (`box_ap_small`, ...), and of each class (`box_ap/NAME`, ...); left out where there is no such object. Crowds do
        not count.

        Raises:
            PmaeError: no validation image can be read.
        """
        metric = _average_precision()
        empty = True
        for images, truths in self._batches():
            empty = False
            said = network.predict([image.to(device) for image in images])
            metric.update([one | {"masks": one["masks"].to(torch.uint8)} for one in said], truths)
        if empty:
            raise PmaeError(f"no validation image of {self.validation.name} can be read")
        values = metric.compute()
        kinds = {"box_ap": "bbox", "mask_ap": "segm"}
        found = {
            ours + own: float(values[f"{kind}_map{end}"]) for ours, kind in kinds.items() for own, end in _ENDS.items()
        }
        for ours, kind in kinds.items():
            precision = values[f"{kind}_precision"][:, :, :, 0, -1]  # IoU, recall, class; objects of all sizes
            for place, label in enumerate(values["classes"].reshape(-1).tolist()):  # a scalar where there is one class
                found[f"{ours}/{self.train.classes[label - 1]}"] = float(precision[:, :, place].mean())
        # -1 is COCO's word for "there is no such object".
        return {name: max(value, 0.0) for name, value in found.items() if value >= 0 or name in kinds}

    def export(self, network: TaskNetwork, folder: Path) -> None:
        """Nothing: nobody else has this network."""

    def _batches(self) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
        """Validation images with the truth of each; those that cannot be read are noted."""
        images: list[Tensor] = []
        truths: list[dict[str, Tensor]] = []
        self.skipped = []
        for index in range(len(self.validation)):
            try:
                image, truth = self.validation.truth(index)
            except BrokenImage as broken:
                self.skipped.append(Skip(self.validation.title(index), str(broken)))
                continue
            images.append(image)
            truths.append(truth)
            if len(images) == _AT_ONCE:
                yield images, truths
                images, truths = [], []
        if images:
            yield images, truths


def coco_results(
    predictions: Sequence[Prediction], image_ids: Sequence[int], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """What was detected in some images, in COCO's format of results, ready for JSON.

    Args:
        predictions: of each image.
        image_ids: what the images are called.
        category_ids: of the labels 1, 2, ...
    """
    return [
        {
            "image_id": int(image),
            "category_id": int(category_ids[int(one["labels"][i]) - 1]),
            "bbox": torch.cat([one["boxes"][i, :2], one["boxes"][i, 2:] - one["boxes"][i, :2]]).tolist(),
            "score": float(one["scores"][i]),
            "segmentation": encode(one["masks"][i].numpy()),
        }
        for one, image in zip(predictions, image_ids, strict=True)
        for i in range(len(one["boxes"]))
    ]


def open_detection(config: DetectionConfig) -> tuple[Detection, list[str]]:
    """The task that settings describe, its network on the CPU and its heads drawn from PyTorch's generator.

    Returns:
        the task, and what a user should know of it, a sentence each.

    Raises:
        UsageError, PmaeError: an encoder or images that cannot be had, or packages that are not installed.
    """
    _average_precision()
    encoder, matched = open_encoder(config.encoder, config.image_size)
    train, validation, notes = _open_images(config, encoder.in_channels)
    automatic: Pyramid = "several" if has_skips(config.encoder) else "last"
    try:
        network = Detector.of(
            encoder,
            len(train.classes),
            pyramid=automatic if config.pyramid == "auto" else config.pyramid,
            window=config.window if config.backbone == "windowed" else None,
            drop_path=config.rules.drop_path if config.drop_path is None else config.drop_path,
            sampled=config.sampled,
        )
    except ValueError as error:
        raise UsageError(f"ENCODER {config.encoder}: {error}") from error
    return Detection(network, train, validation, config.jitter), [matched, *notes]


def _open_images(config: DetectionConfig, channels: int) -> tuple[CocoSource, CocoSource, list[str]]:
    """Training and validation images with the same categories, and what is to be said of them."""
    notes: list[str] = []
    opened = partial(open_coco, channels=channels, max_pixels=config.loader.max_pixels)
    train = opened(config.data, "train")
    if train is None:
        raise UsageError(f"--data {config.data}: there are no training images")
    validation = open_validation(config, opened)
    if validation is None:
        if len(train) < 2:
            raise UsageError(f"--data {config.data}: there is one image only, and none to validate on: give --val-data")
        shuffled = permutation(len(train), config.seed, Stream.HELD_OUT)
        count = max(1, round(HELD_OUT * len(train)))
        train, validation = train.subset(np.sort(shuffled[count:])), train.subset(np.sort(shuffled[:count]))
        notes.append(f"there is no validation split: {HELD_OUT:.0%} of the images are held out")
    if (validation.category_ids, validation.classes) != (train.category_ids, train.classes):
        where = f"--data {config.data}" if config.val_data is None else f"--val-data {config.val_data}"
        raise UsageError(f"{where}: the categories of the validation images are not those of the training images")
    for images in (train, validation):
        if images.problems:
            first = images.problems[0]
            notes.append(f"{len(images.problems)} images or annotations are left out: {first.name}: {first.reason}")
    return train, validation, notes


def _average_precision() -> Any:
    """torchmetrics' COCO metric of boxes and masks, of this process alone.

    Raises:
        PmaeError: its packages are not installed.
    """
    try:
        import faster_coco_eval  # noqa: F401
        import pycocotools  # noqa: F401
    except ImportError:
        raise PmaeError(INSTALL) from None
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(
        iou_type=("bbox", "segm"),
        # COCO's own numbers. torchmetrics' defaults are these in float32, a little above or below, and whether a recall
        # of 0.51 reaches 0.51 is worth 0.001 of average precision.
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0.0, 1.0, 101).tolist(),
        extended_summary=True,
        backend="faster_coco_eval",
        sync_on_compute=False,
    )
    metric.warn_on_many_detections = False
    return metric
