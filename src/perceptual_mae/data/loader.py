"""Training batches: decoded, randomly cropped, in an order that is a function of (seed, step) alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from perceptual_mae.augment.crops import CropConfig, draw_crops, random_crop
from perceptual_mae.data.decode import MAX_PIXELS, decode
from perceptual_mae.data.plan import SamplePlan
from perceptual_mae.data.stream import BatchStream
from perceptual_mae.data.streaming.plan import StreamPlan
from perceptual_mae.data.types import Batch, BrokenImage, Item, Skip, Source, Streamed
from perceptual_mae.errors import PmaeError
from perceptual_mae.seeds import Stream, generator


def train_loader(
    source: Source,
    plan: SamplePlan,
    *,
    image_size: tuple[int, int],
    channels: int = 3,
    crop: CropConfig | None = None,
    first_step: int = 0,
    last_step: int,
    rank: int = 0,
    world_size: int = 1,
    micro_batches: int = 1,
    workers: int = 0,
    max_pixels: int = MAX_PIXELS,
    pin_memory: bool = False,
) -> BatchStream[Batch]:
    """The batches of this process for the steps `first_step .. last_step - 1`, `micro_batches` of them a step.

    The images of a step are cut into `world_size * micro_batches` pieces, the same images in the same crops whatever
    the numbers of processes, pieces and workers. A broken image is replaced by another, drawn from (seed, step, place),
    and reported in `Batch.skipped`.

    Args:
        image_size: (height, width) of the output in pixels.
        crop: what crops to take; `CropConfig()` where None.

    Raises:
        UsageError: there are fewer images than pieces of a batch.
        PmaeError: (while iterating) no image can be read.
    """
    pieces = world_size * micro_batches
    plan.check_pieces(source.name, world_size, micro_batches)
    mine = range(rank * micro_batches, (rank + 1) * micro_batches)
    maker = TrainBatches(source, plan, image_size, channels, crop or CropConfig(), pieces, max_pixels, mine)
    requests = Requests(range(first_step, last_step), mine)
    return BatchStream(maker, requests, workers=workers, pin_memory=pin_memory)


@dataclass(frozen=True)
class Requests:
    """(step, piece) for each batch of a process, in order: a sampler that takes no memory."""

    steps: range
    pieces: range

    def __len__(self) -> int:
        return len(self.steps) * len(self.pieces)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((step, piece) for step in self.steps for piece in self.pieces)


@dataclass(frozen=True)
class TrainBatches:
    """Makes one piece of one step's batch; runs in the workers."""

    source: Source
    plan: SamplePlan
    size: tuple[int, int]
    channels: int
    crop: CropConfig
    pieces: int
    max_pixels: int
    mine: range
    """The pieces of this process."""

    def __getitem__(self, request: tuple[int, int]) -> Batch | PmaeError:
        try:
            return self.make(*request)
        except PmaeError as error:  # raised in the main process instead: there it is one line
            return error

    def make(self, step: int, piece: int) -> Batch:
        """Piece `piece` of the batch of `step`. Raises PmaeError where no image can be read."""
        indices = self.plan.indices(step)
        places = self.plan.piece(piece, self.pieces)
        if isinstance(self.plan, StreamPlan) and isinstance(self.source, Streamed):
            # For all pieces of the process: else each piece would let go of what the next one needs.
            first, last = (self.plan.piece(one, self.pieces) for one in (self.mine[0], self.mine[-1]))
            self.source.expect(self.plan.units_at(step, range(first.start, last.stop)))
        stream = generator(self.plan.seed, Stream.CROPS, step)
        # For the whole batch, then cut: the crops do not depend on the number of pieces.
        draws = draw_crops(len(indices), stream, self.crop, self.size)[places.start : places.stop]

        images = torch.empty(len(places), self.channels, *self.size, dtype=torch.uint8)
        labels: list[int] = []
        names: list[str] = []
        skipped: list[Skip] = []
        for at, index in enumerate(indices[places.start : places.stop].tolist()):
            image, item = self._read(index, step, places[at], skipped)
            images[at] = random_crop(image, draws[at], self.size)
            labels.append(item.label)
            names.append(item.name)
        return Batch(images, torch.tensor(labels), names, skipped)

    def _read(self, index: int, step: int, place: int, skipped: list[Skip]) -> tuple[Tensor, Item]:
        """Image `index`, or a stand-in where it is broken."""
        for candidate in self.plan.candidates(index, step, place):
            item = self.source[candidate]
            try:
                return decode(item.data, self.channels, self.max_pixels), item
            except BrokenImage as broken:
                skipped.append(Skip(item.name, str(broken)))
        raise PmaeError(f"no image in {self.source.name} can be read; the last, {item.name}: {skipped[-1].reason}")
