"""Linear probe on features that are computed once: many learning rates at once, the best one chosen without the test.

The rates are trained side by side as ONE linear layer with a block of outputs for each. Each block has its own softmax
and its own rate, so it is what it would be alone; and a matrix product with many columns costs little more than one
with few. All start at zero weights: the problem is convex, and nothing but the order of the images is random.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perceptual_mae.errors import PmaeError
from perceptual_mae.evaluation.probe_config import LinearProbeConfig
from perceptual_mae.evaluation.scores import Scores, check_labels, labelled, score
from perceptual_mae.seeds import Stream, mixed, permutation

JUDGES = 500
"""At least so many images choose the learning rate, where there are so many: by cross-validation in small sets."""
STEPS = 300
"""At least so many steps are made: small sets are passed over more often."""
_CONSTANT = 1e-6
"""A feature that varies by less than this share of its size says nothing."""


@dataclass(frozen=True)
class ProbeResult:
    """What a linear probe found.

    Attributes:
        scores: on the test images.
        lr: the (peak) learning rate.
        held_out: learning rates that were tried and their accuracy on the held-out part; empty where none was chosen.
        notes: what a reader has to know about the choice, a sentence each.
    """

    scores: Scores
    lr: float
    held_out: tuple[tuple[float, float], ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and texts, ready for JSON."""
        chosen = {"lr": self.lr, "held_out": [list(pair) for pair in self.held_out]}
        return self.scores.as_dict() | chosen | {"notes": [*self.scores.notes, *self.notes]}


@dataclass(frozen=True)
class LinearProbe:
    """A classifier, and how it came about.

    Attributes:
        mean, std: `(D,)` of the training features.
        weights: `(D + 1, C)`; the last row is the bias.
        lr, held_out, notes: see `ProbeResult`.
    """

    mean: Tensor
    std: Tensor
    weights: Tensor
    lr: float
    held_out: tuple[tuple[float, float], ...]
    notes: tuple[str, ...]

    def __call__(self, features: Tensor) -> Tensor:
        """Logits `(n, C)` of features `(n, D)`."""
        return standardised(features, self.mean, self.std) @ self.weights


def cached_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    config: LinearProbeConfig | None = None,
) -> ProbeResult:
    """Train a linear layer on frozen features and test it.

    Images without a label (-1) are left out.

    Args:
        train: `(n, D)` float, or `(V, n, D)`: several views of each image.
        train_labels: `(n,)` int64.
        test, test_labels: `(m, D)`, `(m,)`.
        config: `LinearProbeConfig()` where None.

    Raises:
        NothingToClassify: there are not two labelled classes, or no labelled test image.
        PmaeError: a feature is not a finite number.
    """
    known = train_labels >= 0
    train, train_labels = train[..., known, :], train_labels[known]
    test, test_labels = labelled(test, test_labels)
    classes = check_labels(train_labels, test_labels)
    probe = fit_probe(train, train_labels, classes, config or LinearProbeConfig())
    return ProbeResult(score(probe(test), test_labels, train_labels), probe.lr, probe.held_out, probe.notes)


def fit_probe(train: Tensor, labels: Tensor, classes: int, config: LinearProbeConfig) -> LinearProbe:
    """Choose the learning rate on a held-out part of the training images, then train on all of them with it.

    Of equally accurate rates the one with the lower cross-entropy is taken. Where every class has one image only,
    nothing can be held out, and the middle rate is taken.

    Args:
        train: `(n, D)` or `(V, n, D)` float; all views of an image are held out together.
        labels: `(n,)` int64 in 0 .. `classes` - 1.

    Raises:
        PmaeError: a feature is not a finite number.
    """
    if not train.isfinite().all():
        raise PmaeError("features are not finite: are the encoder's weights damaged?")
    views = train.float().reshape(-1, len(labels), train.shape[-1])
    rates = tuple(sorted(config.learning_rates))
    fold = folds(labels, config.held_out, config.seed)
    notes: tuple[str, ...] = ()
    tried: tuple[tuple[float, float], ...] = ()
    chosen = len(rates) // 2
    if len(rates) > 1 and fold.max() < 0:
        notes = ("Every class has one training image: no learning rate could be chosen, the middle one was taken.",)
    elif len(rates) > 1:
        accuracies, losses = _try(views, labels, fold, classes, rates, config)
        chosen = max(range(len(rates)), key=lambda i: (accuracies[i], -losses[i]))
        tried = tuple(zip(rates, accuracies, strict=True))
        if chosen in {0, len(rates) - 1}:
            side = "lowest" if chosen == 0 else "highest"
            notes = (f"The {side} learning rate was the best on the held-out images: one beyond it may be better.",)
    mean, std = statistics(views)
    weights = train_rates(standardised(views, mean, std), labels, classes, rates[chosen : chosen + 1], config)
    return LinearProbe(mean, std, weights[:, 0], rates[chosen], tried, notes)


def _try(
    views: Tensor, labels: Tensor, fold: Tensor, classes: int, rates: tuple[float, ...], config: LinearProbeConfig
) -> tuple[list[float], list[float]]:
    """Accuracy and cross-entropy of each learning rate on held-out images, as many folds of them as it takes."""
    right, loss = torch.zeros(2, len(rates), dtype=torch.float64)
    judges = 0
    for number in range(int(fold.max()) + 1):
        held = fold == number
        mean, std = statistics(views[:, ~held])
        weights = train_rates(standardised(views[:, ~held], mean, std), labels[~held], classes, rates, config)
        # Of several views the first is judged.
        judged, truth = standardised(views[0, held], mean, std), labels[held]
        for index in range(len(rates)):  # one by one: all their logits at once could be many
            logits = judged @ weights[:, index]
            right[index] += int((logits.argmax(dim=1) == truth).sum())
            loss[index] += float(F.cross_entropy(logits, truth, reduction="sum"))
        judges += len(truth)
        if judges >= JUDGES:
            break
    return (right / judges).tolist(), (loss / judges).tolist()


def train_rates(
    features: Tensor, labels: Tensor, classes: int, rates: tuple[float, ...], config: LinearProbeConfig
) -> Tensor:
    """SGD with momentum on the softmax cross-entropy, the learning rate falling to 0 along half a cosine.

    Args:
        features: `(V, n, D + 1)` float32, standardised; each epoch takes a random view of each image.
        labels: `(n,)` int64.
        rates: L learning rates.

    Returns:
        Weights `(D + 1, L, C)` float32.
    """
    views, n, dim = features.shape
    flat, device = features.reshape(-1, dim), features.device
    outputs, steps_per_epoch = len(rates) * classes, math.ceil(n / config.batch_size)
    epochs = max(config.epochs, math.ceil(STEPS / steps_per_epoch))
    steps = epochs * steps_per_epoch

    weights = torch.zeros(dim, outputs, device=device)
    velocity = torch.zeros_like(weights)
    rate = torch.tensor(rates, device=device).repeat_interleave(classes)
    for epoch in range(epochs):
        order = torch.from_numpy(permutation(n, config.seed, Stream.PERMUTATION, epoch)).to(device)
        view = np.random.default_rng(mixed(config.seed, Stream.SAMPLE, epoch)).integers(views, size=n)
        rows = order + n * torch.from_numpy(view).to(device)
        for index in range(steps_per_epoch):
            # Batches of about the same size: a small last one would be all noise.
            place = slice(n * index // steps_per_epoch, n * (index + 1) // steps_per_epoch)
            x, y = flat[rows[place]], F.one_hot(labels[order[place]], classes)
            # The gradient of the cross-entropy by the logits is softmax - onehot.
            error = (x @ weights).view(len(x), len(rates), classes).softmax(dim=-1).sub_(y[:, None])
            velocity.addmm_(x.T, error.view(len(x), outputs), beta=config.momentum, alpha=1 / len(x))
            fall = 0.5 * (1 + math.cos(math.pi * (epoch * steps_per_epoch + index) / steps))
            weights.addcmul_(velocity, rate, value=-fall)
    return weights.view(dim, len(rates), classes)


# -- what is trained on ------------------------------------------------------------------------------------------------


def folds(labels: Tensor, share: float, seed: int) -> Tensor:
    """Cut the training images into parts of about `share` of every class, to be held out in turn.

    Returns:
        The part `(n,)` int64 that an image belongs to, from 0; -1 for the only image of a class, which is never held
        out. No part has all images of a class.
    """
    order = torch.from_numpy(permutation(len(labels), seed, Stream.SAMPLE)).to(labels.device)
    order = order[labels[order].argsort(stable=True)]  # class by class, in random order within each
    order = order[torch.bincount(labels)[labels[order]] > 1]
    fold = torch.full_like(labels, -1)
    fold[order] = torch.arange(len(order), device=labels.device) % round(1 / share)
    return fold


def statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `(D,)` over everything but the last axis; infinite for features that are constant.

    The probe is then BatchNorm without affine, with the statistics of the whole training set, and a linear layer.
    """
    flat = features.reshape(-1, features.shape[-1])
    std, mean = torch.std_mean(flat, dim=0, correction=0)
    low, high = flat.aminmax(dim=0)
    constant = std <= _CONSTANT * torch.maximum(low.abs(), high.abs())
    return mean, std.masked_fill(constant, math.inf)


def standardised(features: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """`(..., D)` features to `(..., D + 1)` float32: mean 0, deviation 1, and a one, whose weight is the bias."""
    return F.pad((features.float() - mean) / std, (0, 1), value=1.0)
