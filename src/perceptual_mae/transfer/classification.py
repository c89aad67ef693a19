"""Learning to classify, with the augmentations of MAE's fine-tuning, from timm's parts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.data import Mixup
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from timm.models import VisionTransformer
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from perceptual_mae.augment.crops import CropConfig, draw_crops, random_crop
from perceptual_mae.data import (
    Source,
    choose_workers,
    decode,
    eval_batches,
    open_source,
    open_validation_or_all,
    to_float,
)
from perceptual_mae.data.labelled import Sample
from perceptual_mae.data.subset import Relabelled, Subset, held_out, labels_of
from perceptual_mae.data.types import Skip, Streamed
from perceptual_mae.encoders import open_encoder
from perceptual_mae.errors import UsageError, printable, said_of
from perceptual_mae.evaluation.scores import Scores, score
from perceptual_mae.files import write_atomically
from perceptual_mae.models.classifier import Classifier
from perceptual_mae.models.task_network import TaskNetwork
from perceptual_mae.transfer.config import ClassificationConfig, MixConfig
from perceptual_mae.weight_files import encoder_metadata

TIMM = "timm.safetensors"
"""File in the run folder: the best network as timm loads it."""
HELD_OUT = 0.2
"""Share of the images of each class that is validated on where the data has one split only."""


class LabelledImages:
    """The images of a source that have a label."""

    def __init__(self, source: Source, channels: int, max_pixels: int) -> None:
        labels = labels_of(source)
        self.source = source if (labels >= 0).all() else Subset(source, (labels >= 0).nonzero()[0])
        self.name, self.classes, self.channels, self.max_pixels = source.name, source.classes, channels, max_pixels

    def __len__(self) -> int:
        return len(self.source)

    def title(self, index: int) -> str:
        """See `LabelledSource`."""
        return self.source[index].name

    def read(self, index: int) -> Sample:
        """See `LabelledSource`."""
        item = self.source[index]
        return Sample(decode(item.data, self.channels, self.max_pixels), torch.tensor(item.label), item.name)

    def fingerprint(self) -> str:
        """See `LabelledSource`."""
        return self.source.fingerprint()


@dataclass(frozen=True)
class CropAndAugment:
    """A random resized crop, perhaps flipped, and RandAugment.

    Attributes:
        size: `(height, width)` of the output in pixels.
        crop: how crops are drawn.
        policy: RandAugment in timm's words; None: none. For RGB images.
        mean: per channel, of images in [0, 1]: fills what is moved in from outside.
    """

    size: tuple[int, int]
    crop: CropConfig
    policy: str | None
    mean: tuple[float, ...]

    def __call__(self, sample: Sample) -> Sample:
        """Draws from PyTorch's, NumPy's and Python's generators."""
        (draw,) = draw_crops(1, torch.default_generator, self.crop, self.size)
        image = random_crop(sample.image, draw, self.size)
        if self.policy is not None:
            hints = {
                "translate_const": int(0.45 * min(self.size)),
                "img_mean": tuple(min(255, round(255 * value)) for value in self.mean),
                # At magnitude 10 timm asks Pillow to keep 0 bits of each colour, which Pillow 12 refuses.
                "magnitude_max": 9.99,
            }
            image = pil_to_tensor(rand_augment_transform(self.policy, hints)(to_pil_image(image)))
        return Sample(image, sample.target, sample.name)


def _check_policy(words: str) -> None:
    """Refuse what is no RandAugment. Raises UsageError."""
    try:
        rand_augment_transform(words, {})
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        example = "such as rand-m9-mstd0.5-inc1, or null"
        raise UsageError(
            f"--mix.auto-augment {printable(words)}: give RandAugment in timm's words, {example}"
        ) from error


class Classification:
    """The task over labelled images; see `Task`.

    Attributes:
        scores: of the last evaluation, with the confusion of classes.
        skipped: validation images that could not be read in it.
    """

    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = "top1"

    def __init__(
        self, network: Classifier, train: LabelledImages, validation: LabelledImages, config: ClassificationConfig
    ) -> None:
        self.network, self.train, self.validation = network, train, validation
        self.description: Mapping[str, Any] = network.describe()
        rgb = train.channels == 3
        if config.mix.auto_augment is not None:
            _check_policy(config.mix.auto_augment)
        self.augment = CropAndAugment(
            network.image_size, config.crop, config.mix.auto_augment if rgb else None, tuple(self.description["mean"])
        )
        self._mixing = Mixing(config.mix, network)
        self.workers = config.workers
        self.scores: Scores | None = None
        self.skipped: list[Skip] = []

    def mix(self, images: Tensor, targets: list[Any]) -> tuple[Tensor, list[Any]]:
        """Random erasing, then mixup or CutMix with label smoothing: targets become `(K,)`, shares of the classes."""
        return self._mixing(images, targets)

    @torch.no_grad()
    def evaluate(self, network: TaskNetwork, device: torch.device) -> dict[str, float]:
        """`top1` and `top5` on central crops."""
        assert isinstance(network, Classifier)
        logits, labels, self.skipped = [], [], []
        for batch in eval_batches(
            self.validation.source,
            image_size=network.image_size,
            channels=self.validation.channels,
            max_pixels=self.validation.max_pixels,
            workers=choose_workers(self.workers, device.type == "cuda"),
        ):
            logits.append(network.logits(to_float(batch.images.to(device))).float().cpu())
            labels.append(batch.labels)
            self.skipped += batch.skipped
        self.scores = score(torch.cat(logits), torch.cat(labels))
        return {"top1": self.scores.top1, "top5": self.scores.top5}

    def export(self, network: TaskNetwork, folder: Path) -> None:
        """`timm.safetensors`: the state dict of timm's network, and in the metadata the line that makes the network."""
        assert isinstance(network, Classifier)
        encoder = network.encoder
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
        size, mean, std = (self.description[name] for name in ("image_size", "mean", "std"))
        heads = encoder.blocks[0].attn.num_heads if isinstance(encoder, VisionTransformer) else None
        metadata = {"format": "pt", "classes": json.dumps(self.train.classes), "timm": network.timm_line(TIMM)}
        metadata |= encoder_metadata(size, mean, std, heads)
        write_atomically(folder / TIMM, lambda temporary: save_file(tensors, temporary, metadata))


class Mixing:
    """What is done to a batch: random erasing by pixel, mixup and CutMix, label smoothing."""

    def __init__(self, config: MixConfig, network: Classifier) -> None:
        self.config, self.network = config, network
        self._mixup = None
        if config.mixup or config.cutmix:
            self._mixup = Mixup(
                config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=network.classes
            )

    def __call__(self, images: Tensor, targets: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Images `(B, C, H, W)` in [0, 1]; draws from NumPy's, Python's and PyTorch's generators."""
        config, labels = self.config, torch.stack(targets)
        if config.erasing:
            mean, std = self.network.mean, self.network.std
            erase = RandomErasing(config.erasing, mode="pixel", device=str(images.device))
            images = erase((images - mean) / std) * std + mean
        if self._mixup is not None and len(images) > 1:
            even = len(images) - len(images) % 2  # Mixup wants pairs: of an odd batch the last image stays as it is
            mixed, shares = self._mixup(images[:even].clone(), labels[:even])
            rest = self._smoothed(labels[even:]).to(shares)
            return torch.cat([mixed, images[even:]]), list(torch.cat([shares, rest]))
        return images, list(self._smoothed(labels))

    def _smoothed(self, labels: Tensor) -> Tensor:
        """`(b,)` classes to `(b, K)` shares."""
        classes, off = self.network.classes, self.config.smoothing / self.network.classes
        return F.one_hot(labels, classes).float() * (1 - self.config.smoothing) + off


def open_classification(config: ClassificationConfig) -> tuple[Classification, list[str]]:
    """The task that settings describe, its network on the CPU and its head drawn from PyTorch's generator.

    Returns:
        the task, and what a user should know of it, a sentence each.

    Raises:
        UsageError, PmaeError: an encoder or images that cannot be had.
    """
    encoder, matched = open_encoder(config.encoder, config.image_size)
    train, validation, notes = open_labelled(config, encoder.in_channels)
    drop_path = config.rules.drop_path if config.drop_path is None else config.drop_path
    try:
        network = Classifier.of(encoder, len(train.classes), drop_path)
    except ValueError as error:
        raise UsageError(f"ENCODER {config.encoder}: {error}") from error
    return Classification(network, train, validation, config), [matched, *notes]


def open_labelled(config: ClassificationConfig, channels: int) -> tuple[LabelledImages, LabelledImages, list[str]]:
    """Training and validation images whose labels mean the same, and what is to be said of them.

    Raises:
        UsageError: there are not two classes to learn, or nothing to validate on.
    """
    notes: list[str] = []
    train = open_source(config.data, "train", channels=channels)
    if train is None:
        raise UsageError(f"--data {config.data}: there are no training images")
    if len(train.classes) < 2:
        has = "one class" if train.classes else "no labels"
        advice = "put those of each class into a folder of its own"
        if isinstance(train, Streamed):
            advice = "a stream carries none; name shards of this machine as wds:PATTERN"
        raise UsageError(f"--data {config.data}: there is nothing to tell apart (the images have {has}): {advice}")
    if config.val_data is not None:
        with said_of("--val-data"):
            validation: Source | None = open_validation_or_all(config.val_data, channels=channels)
    else:
        validation = open_source(config.data, "validation", channels=channels)
    if validation is None:
        train, validation = held_out(train, HELD_OUT, config.seed)
        notes.append(f"there is no validation split: {HELD_OUT:.0%} of the images of each class are held out")
    if validation.classes != train.classes:
        strangers = sorted(set(validation.classes) - set(train.classes))
        if strangers:
            notes.append(f"validation images of classes that are not learnt are left out: {', '.join(strangers[:8])}")
        validation = Relabelled(validation, train.classes)
    limit = config.loader.max_pixels
    pair = LabelledImages(train, channels, limit), LabelledImages(validation, channels, limit)
    for images, flag in zip(pair, ("--data", "--val-data" if config.val_data else "--data"), strict=True):
        if not len(images):
            raise UsageError(f"{flag} {images.name}: no image has a label of a class that is learnt")
    return *pair, notes
