"""The methods of the paper's Table 2, as data.

Each row names its generators, the terms of its loss and its adversary; nothing else in the package knows a method by
name. Names on the right are looked up in `pretraining/build.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Term:
    """One term of the generator's loss.

    Attributes:
        name: the term in logs: `loss/<name>`.
        loss: which loss, a key of `pretraining.build.LOSSES`.
        through: "network" if it looks through the discriminator or the fixed loss network, "pixels" if not.
        patient: acts only in epochs divisible by `--losses.perceptual-every`, counted from 1, so that the discriminator
            has learnt something when the term looks through it.
    """

    name: str
    loss: str
    through: Literal["pixels", "network"] = "pixels"
    patient: bool = False


@dataclass(frozen=True)
class Published:
    """What the paper reports for a row on ImageNet; None where it has no number.

    Attributes:
        linear_probe: top-1 in %, ViT-B (Table 2), as are the next two.
        vit_base: fine-tuned, ViT-B.
        vit_large: fine-tuned, ViT-L.
        l1: of ViT-B's reconstructions of the validation images (Table 1), as are the next three.
        ssim: structural similarity.
        inception_score: of the reconstructions.
        fid: Fréchet Inception distance. (The table's PSNR is left out: its numbers cannot be dB.)
    """

    linear_probe: float | None = None
    vit_base: float | None = None
    vit_large: float | None = None
    l1: float | None = None
    ssim: float | None = None
    inception_score: float | None = None
    fid: float | None = None


@dataclass(frozen=True)
class Row:
    """A method with one of its architectures.

    Attributes:
        generator: a key of `pretraining.build.GENERATORS`.
        paper: the paper's figures.
    """

    generator: str
    paper: Published


@dataclass(frozen=True)
class Adversary:
    """Who plays against the generator.

    Attributes:
        discriminator: a key of `pretraining.build.DISCRIMINATORS`.
        lr: its default learning rate.
        betas: its default decay rates of Adam's moments.
        regularised: whether R1, the perceptual path length and ADA act.
    """

    discriminator: str
    lr: float
    betas: tuple[float, float]
    regularised: bool = False


@dataclass(frozen=True)
class Method:
    """A row of Table 2, or two that differ in the architecture.

    Attributes:
        summary: one line for `--help` and reports.
        rows: by the name that `--architecture` takes; the first is the default.
        terms: the generator's loss, a sum.
        adversary: the discriminator that it plays against, if any; terms look through it.
        loss_network: the kind of fixed network that terms look through, if any: `dvae` or `timm`.
    """

    summary: str
    rows: Mapping[str, Row]
    terms: tuple[Term, ...]
    adversary: Adversary | None = None
    loss_network: Literal["dvae", "timm"] | None = None

    def row(self, architecture: str | None) -> Row:
        """The row with an architecture; None: the default one."""
        return self.rows[architecture or next(iter(self.rows))]


Architecture = Literal["mae", "msg-mae"]
"""What `--architecture` takes."""


def parts_of(row: str) -> tuple[str, Architecture | None]:
    """Method and architecture (None: its first) of a row, `METHOD` or `METHOD+ARCHITECTURE`; neither is checked."""
    method, _, architecture = row.partition("+")
    return method, architecture or None  # type: ignore[return-value] # the settings' check refuses others


# -- parts that rows share ---------------------------------------------------------------------------------------------

L1 = Term("l1", loss="l1")
ADVERSARIAL = Term("adversarial", loss="adversarial", through="network")
D_FEATURES = Term("features", loss="feature-matching", through="network", patient=True)
FIXED_FEATURES = Term("features", loss="feature-matching", through="network")

SINGLE_SCALE = Adversary("single-scale", lr=2e-4, betas=(0.5, 0.999))
MSG = Adversary("msg", lr=2e-4, betas=(0.5, 0.999))
STYLEGAN2 = Adversary("stylegan2", lr=2e-3, betas=(0.0, 0.99), regularised=True)


# -- Table 2 -----------------------------------------------------------------------------------------------------------

METHODS: dict[str, Method] = {
    "mse": Method(
        summary="masked autoencoder, mean squared error on removed patches",
        rows={"mae": Row("mae", Published(67.8, 83.6, 85.9, 0.25, 0.76, 6.33, 42.7))},
        terms=(Term("mse", loss="masked-mse"),),
    ),
    "ms-ssim": Method(
        summary="multi-scale structural similarity and L1",
        rows={"mae": Row("mae", Published(71.2, 84.1, 86.3, 0.21, 0.82, 8.01, 31.6))},
        terms=(Term("ms_ssim", loss="ms-ssim-l1"),),
    ),
    "ls-gan": Method(
        summary="L1 and a single-scale discriminator",
        rows={"mae": Row("mae", Published(None, 83.3, 85.3))},
        terms=(L1, ADVERSARIAL),
        adversary=SINGLE_SCALE,
    ),
    "ls-gan-p": Method(
        summary="L1, a single-scale discriminator, and feature matching in it",
        rows={"mae": Row("mae", Published(72.5, 84.5, 86.5, 0.16, 0.92, 16.2, 28.2))},
        terms=(L1, ADVERSARIAL, D_FEATURES),
        adversary=SINGLE_SCALE,
    ),
    "msg-gan": Method(
        summary="L1 and a discriminator that sees every scale",
        rows={"msg-mae": Row("msg-mae", Published(None, 84.7, 86.5))},
        terms=(L1, ADVERSARIAL),
        adversary=MSG,
    ),
    "msg-gan-p": Method(
        summary="L1, a discriminator that sees every scale, and feature matching in it",
        rows={
            "msg-mae": Row("msg-mae", Published(75.6, 85.3, 87.2, 0.11, 0.94, 32.1, 19.0)),
            "mae": Row("mae-rgb", Published(None, 83.2, 85.6)),
        },
        terms=(L1, ADVERSARIAL, D_FEATURES),
        adversary=MSG,
    ),
    "stylegan2-ada-p": Method(
        summary="as msg-gan-p, with StyleGAN2's discriminator, R1, path length and adaptive augmentation",
        rows={
            "msg-mae": Row("msg-mae", Published(78.1, 86.2, 88.1, 0.06, 0.91, 36.8, 10.3)),
            "mae": Row("mae-rgb", Published(None, 84.5, 86.2)),
        },
        terms=(L1, ADVERSARIAL, D_FEATURES),
        adversary=STYLEGAN2,
    ),
    "dvae-p": Method(
        summary="L1 and feature matching in DALL-E's image tokeniser",
        rows={"mae": Row("mae", Published(79.8, 86.9, 88.6))},
        terms=(L1, FIXED_FEATURES),
        loss_network="dvae",
    ),
    "timm-p": Method(
        summary="L1 and feature matching in a model of timm's",
        rows={"mae": Row("mae", Published())},
        terms=(L1, FIXED_FEATURES),
        loss_network="timm",
    ),
}
