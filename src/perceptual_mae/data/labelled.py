"""Images with what is to be said of them: one by one, and in batches that are a function of (seed, step) alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from perceptual_mae.data.loader import Requests
from perceptual_mae.data.plan import SamplePlan
from perceptual_mae.data.stream import BatchStream
from perceptual_mae.data.types import BrokenImage, Skip
from perceptual_mae.errors import PmaeError
from perceptual_mae.seeds import Stream, mixed, seeded

Target = Tensor | dict[str, Tensor]
"""To classify, a scalar int64: the class. To segment, `(H, W)` int64: the class of every pixel, 255 where it does not
count. To detect, by name `boxes` `(n, 4)` float32 as x1, y1, x2, y2 in pixels, `labels` `(n,)` int64 from 1 on,
`masks` `(n, H, W)` uint8."""


@dataclass(frozen=True)
class Sample:
    """An image `(C, H, W)` uint8 with its target, and its name for people."""

    image: Tensor
    target: Target
    name: str


class LabelledSource(Protocol):
    """Random access to a finite set of labelled images."""

    name: str
    """What the user typed, for messages."""
    classes: tuple[str, ...]
    """Class names by label."""

    def __len__(self) -> int: ...

    def title(self, index: int) -> str:
        """What a person calls an image: a path relative to the source, or a row number."""
        ...

    def read(self, index: int) -> Sample:
        """Decode one image and its target.

        Raises:
            BrokenImage: it cannot be used, with the reason.
        """
        ...

    def fingerprint(self) -> str:
        """A short digest of which images these are, in which order, and what is said of them."""
        ...


@dataclass
class Examples:
    """Labelled images of a training step.

    Attributes:
        images: `(B, C, H, W)` uint8.
        targets: B of them.
        names: B names.
        skipped: images that could not be read while this batch was made (others stand in their place).
    """

    images: Tensor
    targets: list[Target]
    names: list[str]
    skipped: list[Skip] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def pin_memory(self) -> "Examples":
        """Called by the DataLoader when batches travel to a GPU."""
        return Examples(
            self.images.pin_memory(), [_each(t, Tensor.pin_memory) for t in self.targets], self.names, self.skipped
        )

    def to(self, device: torch.device) -> "Examples":
        """The same on a device."""
        targets = [_each(target, lambda tensor: tensor.to(device, non_blocking=True)) for target in self.targets]
        return Examples(self.images.to(device, non_blocking=True), targets, self.names, self.skipped)


def labelled_loader(
    source: LabelledSource,
    plan: SamplePlan,
    augment: Callable[[Sample], Sample],
    *,
    first_step: int = 0,
    last_step: int,
    rank: int = 0,
    world_size: int = 1,
    micro_batches: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> BatchStream[Examples]:
    """The batches of this process for the steps `first_step .. last_step - 1`, `micro_batches` of them a step.

    Augmented by `augment`, which draws from the generators of Python, NumPy and PyTorch: they are seeded for every
    image, so a batch depends on (seed, step) alone. A broken image is replaced by another and reported.

    Args:
        augment: a sample to one of the size that the network takes.

    Raises:
        UsageError: there are fewer images than pieces of a batch.
        PmaeError: (while iterating) no image can be read.
    """
    plan.check_pieces(source.name, world_size, micro_batches)
    maker = _ExampleMaker(source, plan, augment, world_size * micro_batches)
    requests = Requests(range(first_step, last_step), range(rank * micro_batches, (rank + 1) * micro_batches))
    return BatchStream(maker, requests, workers=workers, pin_memory=pin_memory)


@dataclass(frozen=True)
class _ExampleMaker:
    """Makes one piece of one step's batch; runs in the workers."""

    source: LabelledSource
    plan: SamplePlan
    augment: Callable[[Sample], Sample]
    pieces: int

    def __getitem__(self, request: tuple[int, int]) -> Examples | PmaeError:
        try:
            return self.make(*request)
        except PmaeError as error:  # raised in the main process instead: there it is one line
            return error

    def make(self, step: int, piece: int) -> Examples:
        """Piece `piece` of the batch of `step`. Raises PmaeError where no image can be read."""
        indices = self.plan.indices(step)
        samples: list[Sample] = []
        skipped: list[Skip] = []
        for place in self.plan.piece(piece, self.pieces):
            sample = self._read(int(indices[place]), step, place, skipped)
            with seeded(mixed(self.plan.seed, Stream.LABELLED_VIEWS, step, place)):
                samples.append(self.augment(sample))
        images = torch.stack([sample.image for sample in samples])
        return Examples(images, [s.target for s in samples], [s.name for s in samples], skipped)

    def _read(self, index: int, step: int, place: int, skipped: list[Skip]) -> Sample:
        """Sample `index`, or a stand-in where it is broken."""
        for candidate in self.plan.candidates(index, step, place):
            try:
                return self.source.read(candidate)
            except BrokenImage as broken:
                skipped.append(Skip(self.source.title(candidate), str(broken)))
        raise PmaeError(
            f"no image of {self.source.name} can be read; the last, {skipped[-1].name}: {skipped[-1].reason}"
        )


def _each(target: Target, change: Callable[[Tensor], Tensor]) -> Any:
    """A target with every tensor of it changed."""
    if isinstance(target, Tensor):
        return change(target)
    return {name: change(tensor) for name, tensor in target.items()}
