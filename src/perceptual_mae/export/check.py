"""Whether what was written gives the features that ours gives: measured on a fixed input, with the target's library."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from perceptual_mae.errors import PmaeError

_SEED = 0


@dataclass(frozen=True)
class Check:
    """A comparison with our own encoder.

    Attributes:
        what: was compared, in words.
        largest: absolute difference of any two numbers.
        allowed: how large it may be.
    """

    what: str
    largest: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the two are the same; a difference that is not finite is none that passes."""
        return self.largest <= self.allowed

    def __str__(self) -> str:
        return f"{self.what}: largest difference {self.largest:.1e} (allowed: {self.allowed:.1e})"


def fixed_images(batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    """`(B, C, H, W)` in [0, 1], the same ones everywhere."""
    return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(_SEED))


def compare(what: str, theirs: Tensor, ours: Tensor, tolerance: float) -> Check:
    """Compare two tensors of the same shape.

    Args:
        what: they are, in words.
        theirs, ours: the values.
        tolerance: of numbers up to 1. Where ours are larger, rounding errors are, too: it grows with the largest.

    Raises:
        PmaeError: their shapes differ.
    """
    if theirs.shape != ours.shape:
        raise PmaeError(f"{what}: {tuple(theirs.shape)} was written, {tuple(ours.shape)} is ours")
    largest = (theirs.double() - ours.double()).abs().max().item()
    allowed = tolerance * max(1.0, ours.abs().max().item())
    return Check(what, math.inf if math.isnan(largest) else largest, allowed)


def demand(checks: list[Check]) -> list[Check]:
    """The same checks, all of which passed.

    Raises:
        PmaeError: one did not.
    """
    for check in checks:
        if not check.passed:
            raise PmaeError(f"what was written is not the encoder, and is thrown away: {check}")
    return checks
