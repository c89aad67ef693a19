"""Images to look at and to measure on: the central part of each, or a fixed number of random crops."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perceptual_mae.augment.crops import CropConfig, center_crop_resize, draw_crops, random_crop
from perceptual_mae.data.choice import seeded_order
from perceptual_mae.data.decode import MAX_PIXELS, decode
from perceptual_mae.data.stream import BatchStream
from perceptual_mae.data.types import Batch, BrokenImage, Item, Skip, Source, Streamed
from perceptual_mae.errors import PmaeError
from perceptual_mae.seeds import Stream, generator

CANDIDATES = 32
"""Images looked through, for each one wanted, to find different classes."""
_TRIED = 10_000
"""Images of a stream that are looked through for one that can be read."""
PROBE_CROPS = CropConfig(scale=(0.08, 1.0))
"""What linear probes of the literature train on (He et al., arXiv 2111.06377)."""


def first_readable(source: Source, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The first image of a source that can be read, `(C, H, W)` uint8: what to try before a long run.

    Raises:
        PmaeError: there is none, with the reason for the first.
    """
    first = None
    # Where nothing can be read a stream would be fetched to its end to say so.
    tried = min(len(source), _TRIED) if isinstance(source, Streamed) else len(source)
    for index in range(tried):
        item = source[index]
        try:
            return decode(item.data, channels, max_pixels)
        except BrokenImage as broken:
            first = first or f"{item.name}: {broken}"
    raise PmaeError(f"no image in {source.name} could be read ({tried} tried); the first, {first}")


def eval_batches(
    source: Source,
    indices: Sequence[int] | Tensor | None = None,
    *,
    image_size: tuple[int, int],
    channels: int = 3,
    batch_size: int = 64,
    max_pixels: int = MAX_PIXELS,
    workers: int = 0,
    pin_memory: bool = False,
) -> "EvalStream":
    """The images `indices` of a source (None: all), in that order, in their central crops.

    Broken images are left out and reported in `Batch.skipped`, so a batch may be smaller than `batch_size`; one that
    would be empty is left out, and a batch beside it reports its images.

    Raises:
        PmaeError: (while iterating) none of the images can be read.
    """
    chosen = range(len(source)) if indices is None else indices
    chosen = chosen.tolist() if isinstance(chosen, Tensor) else chosen
    maker = ViewBatches(source, image_size, channels, max_pixels)
    requests = cut(chosen, batch_size)
    return EvalStream(maker, requests, workers=workers, pin_memory=pin_memory, name=source.name)


def cut(indices: Sequence[int], size: int) -> list[Sequence[int]]:
    """Indices in pieces of `size`, the last one perhaps smaller."""
    return [indices[first : first + size] for first in range(0, len(indices), size)]


@dataclass(frozen=True)
class RandomViews:
    """Random resized crops of every image: what a probe trains on in place of one central crop.

    They are drawn from (seed, index of the image) alone.

    Attributes:
        count: crops of an image.
        seed: of the draws.
        crop: how they are drawn.
    """

    count: int
    seed: int = 0
    crop: CropConfig = PROBE_CROPS

    def of(self, image: Tensor, index: int, size: tuple[int, int]) -> list[Tensor]:
        """The crops of `image: (C, H, W)` uint8, which is number `index` of its source: `count` times `(C, *size)`."""
        draws = draw_crops(self.count, generator(self.seed, Stream.VIEWS, index), self.crop, size)
        return [random_crop(image, draw, size) for draw in draws]


def view_batches(
    source: Source,
    requests: Sequence[Sequence[int]],
    *,
    image_size: tuple[int, int],
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    views: RandomViews | None = None,
    workers: int = 0,
    pin_memory: bool = False,
) -> BatchStream[Batch]:
    """A batch for each of `requests`, the indices of its images: in central crops, or each in several random ones.

    Unlike `eval_batches` it gives the batches that come out empty, too, and does not mind if nothing can be read: for
    those who count what they have seen. The views of an image follow each other, each with its label and name.
    """
    maker = ViewBatches(source, image_size, channels, max_pixels, views)
    return BatchStream(maker, requests, workers=workers, pin_memory=pin_memory)


@dataclass(frozen=True)
class EvalStream(BatchStream[Batch]):
    """A stream whose batches may come out empty: those are left out, and it may be shorter than its length says.

    Attributes:
        name: of the source, for messages.
    """

    name: str = ""

    def __iter__(self) -> Iterator[Batch]:
        held: Batch | None = None
        for batch in super().__iter__():
            if held is None:
                held = batch
            elif len(batch) == 0:
                held.skipped += batch.skipped
            elif len(held) == 0:
                batch.skipped = held.skipped + batch.skipped
                held = batch
            else:
                yield held
                held = batch
        if held is not None and len(held) == 0:
            first = held.skipped[0]
            raise PmaeError(
                f"no image in {self.name} could be read ({len(held.skipped)} tried); "
                f"the first, {first.name}: {first.reason}"
            )
        if held is not None:
            yield held


@dataclass(frozen=True)
class ViewBatches:
    """Makes the batches of `eval_batches` and `view_batches`; runs in the workers."""

    source: Source
    size: tuple[int, int]
    channels: int
    max_pixels: int
    views: RandomViews | None = None

    def __getitem__(self, request: Sequence[int]) -> Batch | PmaeError:
        try:
            return self.make(request)
        except PmaeError as error:  # raised in the main process instead: there it is one line
            return error

    def make(self, request: Sequence[int]) -> Batch:
        """The images of one request, broken ones left out."""
        images: list[Tensor] = []
        labels: list[int] = []
        names: list[str] = []
        skipped: list[Skip] = []
        for index in request:
            item = self.source[int(index)]
            try:
                image = decode(item.data, self.channels, self.max_pixels)
            except BrokenImage as broken:
                skipped.append(Skip(item.name, str(broken)))
                continue
            seen = self.views.of(image, int(index), self.size) if self.views else [center_crop_resize(image, self.size)]
            images += seen
            labels += [item.label] * len(seen)
            names += [item.name] * len(seen)
        empty = torch.empty(0, self.channels, *self.size, dtype=torch.uint8)
        return Batch(torch.stack(images) if images else empty, torch.tensor(labels, dtype=torch.int64), names, skipped)


def fixed_images(
    source: Source,
    count: int,
    *,
    image_size: tuple[int, int],
    channels: int = 3,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Tensor, list[str]]:
    """A seeded choice of images for the pictures of a run: `(n, C, H, W)` uint8 and their n names.

    Where there are labels, as many classes as possible are shown. n is `count`, or fewer where the source has not so
    many that can be read (see `first_readable`).
    """
    images: list[Tensor] = []
    names: list[str] = []
    for item in across_classes(source, count, seed):
        if len(images) == count:
            break
        try:
            images.append(center_crop_resize(decode(item.data, channels, max_pixels), image_size))
        except BrokenImage:  # reported by the training batches that meet it
            continue
        names.append(item.name)
    if not images:
        return torch.empty(0, channels, *image_size, dtype=torch.uint8), []
    return torch.stack(images), names


def across_classes(source: Source, count: int, seed: int) -> Iterator[Item]:
    """All items in a random order in which, among the first ones, every class comes before any comes again."""
    order = seeded_order(source, seed, Stream.PICTURES)
    if not source.classes:
        return (source[index] for index in order)
    first = list(itertools.islice(order, CANDIDATES * count))
    seen: Counter[int] = Counter()
    turns = []
    for index in first:
        label = source[index].label
        turns.append((seen[label], index))
        seen[label] += 1
    turns.sort(key=lambda turn: turn[0])  # stable: within a turn the order stays random
    return (source[index] for index in itertools.chain((index for _, index in turns), order))
