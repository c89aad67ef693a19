"""The one signature of every loss term."""

from typing import NamedTuple, Protocol

from torch import Tensor

from perceptual_mae.models import Reconstruction
from perceptual_mae.models.judgement import Judgement

Judged = tuple[Tensor, dict[str, Tensor]]
"""A scalar to minimise, and named scalars for the log (parts of it; constants to autograd)."""


class Seen(NamedTuple):
    """What a loss network sees in the images and in their reconstructions.

    Attributes:
        real: of the images. A constant to every loss of the generator.
        fake: of the reconstructions; the gradient reaches the generator through it.
    """

    real: Judgement
    fake: Judgement


class LossTerm(Protocol):
    """A loss of the generator. Weights and schedules are the trainer's business, not the term's."""

    def __call__(self, reconstruction: Reconstruction, images: Tensor, seen: Seen | None = None) -> Judged:
        """Judge a reconstruction of `images`, `(B, C, H, W)` in [0, 1].

        Args:
            reconstruction: what is judged.
            images: what it should be.
            seen: what the method's loss network makes of both; None where the method has none.
        """
        ...
