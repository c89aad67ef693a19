"""How well a classifier did on labelled images: the same numbers for k-NN and for both linear probes."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from perceptual_mae.errors import PmaeError

TOP = 5
"""The second accuracy counts an image as right whose class is among so many guesses."""


class NothingToClassify(PmaeError):  # noqa: N818 (a property of the data, and no mistake of anybody)
    """The data has too few labels for a classifier; reconstructions and attention can still be looked at."""


@dataclass(frozen=True)
class Scores:
    """What a classifier got right. All shares are in [0, 1].

    Attributes:
        top1: share of images whose class is the first guess.
        top5: share whose class is among the first five guesses, or among all where there are fewer classes.
        interval: 95 % confidence interval of `top1` (Wilson's score interval), for the choice of test images alone.
        per_class: share of each class's images that are recognised (recall), C of them; None without a test image.
        confusion: `(C, C)` int64: images by true class (rows) and first guess (columns).
        count: test images.
        notes: what a reader has to know, a sentence each.
    """

    top1: float
    top5: float
    interval: tuple[float, float]
    per_class: list[float | None]
    confusion: Tensor
    count: int
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and texts, ready for JSON."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "interval": list(self.interval),
            "count": self.count,
            "per_class": self.per_class,
            "confusion": self.confusion.tolist(),
            "notes": list(self.notes),
        }


def score(logits: Tensor, labels: Tensor, train_labels: Tensor | None = None) -> Scores:
    """Count what is right.

    Args:
        logits: `(n, C)`, the larger the likelier; any scale.
        labels: `(n,)` int64 in 0 .. C - 1.
        train_labels: of the images that were learnt from: classes without any are told in the notes.

    Raises:
        PmaeError: a logit is not a finite number.
        NothingToClassify: n is 0.
    """
    if not len(labels):
        raise NothingToClassify("no image to test on has a label: give test images with labels")
    if not logits.isfinite().all():
        raise PmaeError("the classifier's output is not finite: are the encoder's weights damaged?")
    classes, count = logits.shape[1], len(labels)
    predicted = logits.argmax(dim=1)
    confusion = multiclass_confusion_matrix(predicted, labels, num_classes=classes).cpu()
    right, images = confusion.diag().tolist(), confusion.sum(dim=1)
    top1 = sum(right) / count
    return Scores(
        top1=top1,
        top5=_top(logits, labels, predicted),
        interval=wilson(top1, count),
        per_class=[hits / there if there else None for hits, there in zip(right, images.tolist(), strict=True)],
        confusion=confusion,
        count=count,
        notes=_notes(images, None if train_labels is None else train_labels.cpu()),
    )


def _top(logits: Tensor, labels: Tensor, predicted: Tensor) -> float:
    """Share of images whose class is among the first guesses; of equal logits the wrong ones come first.

    torchmetrics gives ties to whichever class `topk` happens to name. Most classes get no vote of any neighbour, so
    that would count images as right for no reason.
    """
    own = logits.gather(1, labels[:, None])
    rank = (logits >= own).sum(dim=1)
    return float(((rank <= TOP) | (predicted == labels)).double().mean())


def wilson(share: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share among `count` images (Wilson 1927): unlike the normal one it stays in [0, 1]."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def _notes(images: Tensor, train_labels: Tensor | None) -> tuple[str, ...]:
    """What is peculiar about the classes; `images: (C,)` test images of each."""
    notes = []
    if len(images) <= TOP:
        notes.append(f"There are {len(images)} classes: every image counts as right for top-{TOP}.")
    if absent := int((images == 0).sum()):
        notes.append(f"{_count(absent, 'class has', 'classes have')} no test image.")
    if train_labels is not None:
        learnt = torch.bincount(train_labels, minlength=len(images))
        if unseen := int(((learnt == 0) & (images > 0)).sum()):
            lost = int(images[learnt == 0].sum())
            which = f"{_count(unseen, 'tested class has', 'tested classes have')} no training image"
            notes.append(f"{which}: {_count(lost, 'test image', 'test images')} cannot be recognised.")
    return tuple(notes)


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


# -- labels ------------------------------------------------------------------------------------------------------------


def labelled(vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors `(n, D)` and labels of the images that have a label (0 or more)."""
    known = labels >= 0
    return (vectors, labels) if known.all() else (vectors[known], labels[known])


def check_labels(train_labels: Tensor, test_labels: Tensor) -> int:
    """Refuse data that no classifier can be measured on; both hold known labels only.

    Returns:
        C, the number of classes: one more than the greatest label.

    Raises:
        NothingToClassify: there are not two classes to learn, or there is nothing to test.
    """
    found = len(train_labels.unique())
    if found < 2:
        has = "no labels" if found == 0 else "one class"
        raise NothingToClassify(f"k-NN and the linear probe need at least two classes with labels; this data has {has}")
    if not len(test_labels):
        raise NothingToClassify("no image to test on has a label: give test images with labels")
    return int(torch.cat([train_labels, test_labels]).max()) + 1
