"""Which images a step sees: a function of (seed, step) and of nothing else, so a resumed run needs no saved state."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from perceptual_mae.errors import UsageError
from perceptual_mae.seeds import Stream, mixed, permutation

_RANDOM_TRIES = 16
"""Stand-ins drawn for a broken image before all images are tried in turn."""


@dataclass(frozen=True)
class SamplePlan:
    """Which image each place of each step's batch gets.

    An epoch is a new permutation of all images, cut into batches; what does not fill a batch is left to another epoch.

    Attributes:
        length: number of images.
        batch_size: images a step, over all processes and accumulated micro-batches. A source smaller than that gives
            batches of `length` images.
        seed: any integer.
    """

    length: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UsageError("there is no image to train on")
        if self.batch_size < 1:
            raise UsageError(f"batch size is {self.batch_size}: give 1 or more")

    @property
    def images_per_step(self) -> int:
        """Images a step really sees."""
        return min(self.batch_size, self.length)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; at least 1."""
        return max(1, self.length // self.batch_size)

    def indices(self, step: int) -> Tensor:
        """The images of one step (from 0), in the order of their places: `(images_per_step,)` int64."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        start = batch * self.images_per_step
        return _permutation(self.length, self.seed, epoch)[start : start + self.images_per_step]

    def check_pieces(self, name: str, world_size: int, micro_batches: int) -> None:
        """Refuse to cut a batch into more pieces than it has images.

        Raises:
            UsageError: there are fewer; the line names the source.
        """
        if self.images_per_step < world_size * micro_batches:
            raise UsageError(
                f"{name}: a batch of {self.images_per_step} images cannot be shared by {world_size} processes x "
                f"{micro_batches} micro-batches: give more images, a larger batch or fewer processes"
            )

    def piece(self, piece: int, pieces: int) -> range:
        """The places of a batch that one of its `pieces` has, numbered from 0."""
        total = self.images_per_step
        return range(total * piece // pieces, total * (piece + 1) // pieces)

    def candidates(self, index: int, step: int, place: int) -> Iterator[int]:
        """An image and, for as long as what is given is broken, others in its place: some drawn, then all in turn."""
        for attempt in range(_RANDOM_TRIES + self.length):
            yield index
            if attempt < _RANDOM_TRIES:
                index = mixed(self.seed, Stream.STAND_INS, step, place, attempt) % self.length
            else:
                index = (index + 1) % self.length


@lru_cache(maxsize=2)
def _permutation(length: int, seed: int, epoch: int) -> Tensor:
    return torch.from_numpy(permutation(length, seed, Stream.PERMUTATION, epoch))
