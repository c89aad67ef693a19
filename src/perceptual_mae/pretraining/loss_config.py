"""Settings of the losses and of the adversary: part of `PretrainConfig`. Imports no torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LossesConfig:
    """Weights of the generator's loss.

    Attributes:
        alpha: weight of MS-SSIM against L1 in the ms-ssim row.
        delta_f: weight of the distance of features in feature matching.
        delta_s: weight of the distance of their Gram matrices.
        adversarial: weight of the adversarial term.
        adversarial_balance: the adversarial term pulls at the reconstruction (norm of the gradient) at most so many
            times as hard as the pixel terms do; default: 0.1 (with --recipe paper: no limit); .inf: no limit.
        feature_balance: the same of feature matching; default: 0.3 in a discriminator, no limit in a fixed network.
        perceptual_every: in rows that match features of the discriminator, they are matched in epochs divisible by
            this, counted from 1; 1: always.
    """

    alpha: float = 0.85
    delta_f: float = 0.05
    delta_s: float = 40.0
    adversarial: float = 1.0
    adversarial_balance: float | None = None
    feature_balance: float | None = None
    perceptual_every: int = 2


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The adversary and its optimiser.

    Attributes:
        lr: learning rate of its Adam at the peak; default: the method's.
        betas: decay rates of Adam's moments; default: the method's.
        channel_base: width: a map of r pixels a side has channel_base / r channels; default: a 48th of the
            generator's width (base: 16) x the side of the images.
        channel_max: most channels of a map.
        update: simultaneous: both players learn from one look of the discriminator; alternating: it learns first, and
            the generator meets the new one (slower).
        r1_gamma: weight of the R1 penalty; default: 0.0002 x pixels of an image / images of a step; 0: none.
        r1_every: steps between R1 penalties, each then weighted by as much.
    """

    lr: float | None = None
    betas: tuple[float, float] | None = None
    channel_base: int | None = None
    channel_max: int = 512
    update: Literal["simultaneous", "alternating"] = "simultaneous"
    r1_gamma: float | None = None
    r1_every: int = 16


@dataclass(frozen=True)
class AdaConfig:
    """Adaptive augmentation of what the discriminator sees.

    Attributes:
        enabled: false: no augmentation.
        start: probability p of each augmentation at the beginning.
        target: p rises while the mean of sign(D(real) - 1/2) is above this, and falls while it is below.
        images: images in which p can rise from 0 to 1; fewer for small data sets.
        every: steps between adjustments of p.
    """

    enabled: bool = True
    start: float = 0.0
    target: float = 0.6
    images: int = 500_000
    every: int = 4


@dataclass(frozen=True)
class PathConfig:
    """Perceptual path-length regularisation of the decoder.

    Attributes:
        weight: its weight; 0: none.
        every: steps between penalties, each then weighted by as much.
        decay: how fast the mean length follows.
        estimator: finite-difference: two more passes of half of the images; exact: second derivatives (slow).
    """

    weight: float = 2.0
    every: int = 4
    decay: float = 0.01
    estimator: Literal["finite-difference", "exact"] = "finite-difference"
