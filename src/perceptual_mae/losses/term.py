"""The one signature of every loss term."""

from typing import Protocol

from torch import Tensor

from perceptual_mae.models import Reconstruction

Judged = tuple[Tensor, dict[str, Tensor]]
"""A scalar to minimise, and named scalars for the log (parts of it; constants to autograd)."""


class LossTerm(Protocol):
    """A loss of the generator. Weights and schedules are the trainer's business, not the term's."""

    def __call__(self, reconstruction: Reconstruction, images: Tensor) -> Judged:
        """Judge a reconstruction of `images`, `(B, C, H, W)` in [0, 1]."""
        ...
