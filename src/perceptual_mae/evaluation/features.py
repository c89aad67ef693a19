"""Features of the images of a source, computed once: what k-NN, linear probes and distances are made from."""

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from perceptual_mae.data import MAX_PIXELS, Batch, Skip, Source, to_float
from perceptual_mae.data.views import RandomViews, cut, view_batches
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.evaluation import feature_cache
from perceptual_mae.evaluation.feature_cache import Line, Stored
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.training.device import has_bf16

VERSION = 1
"""Of the features themselves: another one makes what is in caches worthless."""

Pool = Literal["cls", "mean", "both"]
"""What stands for an image: the [CLS] token, the mean of the patch tokens, or both side by side."""
Progress = Callable[[int, int], None]
"""Called with the number of images that are done, and of all."""


@dataclass(frozen=True)
class Features:
    """Features of the images of a source, in its order.

    Attributes:
        vectors: `(n, 2D)` float16, a read-only memory map where they come from a cache: [CLS], then the mean of the
            patch tokens. K views of an image follow each other: `vectors.reshape(-1, K, 2D)`.
        labels: `(n,)` int64, -1 where unknown.
        names: n names.
        broken: images that could not be read; they have no features.
    """

    vectors: np.ndarray
    labels: Tensor
    names: list[str]
    broken: list[Skip]

    @property
    def skipped(self) -> int:
        """How many images could not be read."""
        return len(self.broken)

    def pooled(self, pool: Pool) -> Tensor:
        """`(n, D)` float32, or `(n, 2D)` for `both`; a copy in memory."""
        return torch.from_numpy(self.vectors[:, part_of(pool, self.vectors.shape[1])].astype(np.float32))


def part_of(pool: Pool, width: int) -> slice:
    """Which of the `width` = 2D numbers of a vector a pooling takes."""
    half = width // 2
    return {"cls": slice(0, half), "mean": slice(half, width), "both": slice(0, width)}[pool]


@dataclass(frozen=True)
class Reading:
    """How images come to an encoder.

    Attributes:
        block: the output of this transformer block, as in `Encoder`; None: of the network.
        batch_size: images that go through the encoder at once.
        workers: processes that read images; 0: none beside this one.
        max_pixels: larger images are skipped unread.
        views: random crops of each image in place of its central one.
    """

    block: int | None = None
    batch_size: int = 64
    workers: int = 0
    max_pixels: int = MAX_PIXELS
    views: RandomViews | None = None

    def images_at_once(self) -> int:
        """Images of a batch: with several views of each, fewer."""
        return max(1, self.batch_size // (self.views.count if self.views else 1))

    def block_index(self, encoder: Encoder) -> int | None:
        """The block counted from 0, whichever way it was counted; None: the end of the network.

        Raises:
            UsageError: the encoder has no such block.
        """
        try:
            return None if self.block is None else encoder.block_index(self.block)
        except ValueError as error:
            raise UsageError(f"--block {self.block}: {error}") from None

    def depends(self, encoder: Encoder) -> dict[str, object]:
        """Everything here that the features depend on, ready for JSON.

        Raises:
            UsageError: the encoder has no such block.
        """
        return {
            "version": VERSION,
            "image_size": list(encoder.image_size),
            "channels": encoder.in_channels,
            "block": self.block_index(encoder),
            "max_pixels": self.max_pixels,
            "views": asdict(self.views) if self.views else None,
            "precision": "bf16" if has_bf16(encoder.mean.device.type) else "fp32",
        }


def extract(
    encoder: Encoder,
    source: Source,
    *,
    block: int | None = None,
    batch_size: int = 64,
    workers: int = 0,
    max_pixels: int = MAX_PIXELS,
    cache: Path | None,
    views: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Features:
    """Features of every readable image of a source, in its central crop, on the encoder's device.

    Args:
        encoder: bf16 where it is on a GPU that has it, else its own precision.
        source: images, in order.
        block: features from this transformer block; None: from the end of the network.
        batch_size, workers: how to go about it; the features do not depend on them.
        max_pixels: larger images are skipped unread.
        cache: folder in which features are kept (see `feature_cache.default_cache`): what is there is not computed
            again, and what was cut off is continued. None: in memory only.
        views: so many random crops of each image, `views.PROBE_CROPS`, in place of the central one.
        seed: of the crops, which depend on nothing else.
        progress: told how far it is.

    Raises:
        UsageError: the encoder has no such block.
        PmaeError: no image can be read, a feature is not finite or too large for float16, the cache cannot be written.
    """
    crops = RandomViews(views, seed) if views else None
    reading = Reading(block, batch_size, workers, max_pixels, crops)
    depends, width = reading.depends(encoder), 2 * encoder.embed_dim
    if cache is None:
        batches = list(_halves(encoder, source, 0, reading, progress))
        vectors = [np.empty((0, width), np.float16), *(vectors for vectors, _ in batches)]
        return _features((np.concatenate(vectors), [line for _, line in batches]), source)
    depends |= {"weights": feature_cache.weights_digest(encoder), "images": feature_cache.images_digest(source)}
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    stored = feature_cache.load(cache, key, width, len(source))
    if stored is None:
        with feature_cache.Growing(cache, key, width) as entry:
            # Another process may have made it while this one waited for its turn.
            stored = feature_cache.load(cache, key, width, len(source))
            if stored is None:
                done = entry.resume()
                with closing(_halves(encoder, source, done, reading, progress)) as batches_left:
                    for half, line in batches_left:
                        entry.append(half, line)
                stored = entry.finish()
    return _features(stored, source)


def _features(stored: Stored, source: Source) -> Features:
    vectors, lines = stored
    broken = [skip for line in lines for skip in line.skipped]
    refuse_nothing(len(vectors), broken, source)
    labels = torch.tensor([label for line in lines for label in line.labels], dtype=torch.int64)
    return Features(vectors, labels, [name for line in lines for name in line.names], broken)


def refuse_nothing(readable: int, broken: Sequence[Skip], source: Source) -> None:
    """Raises PmaeError where not one image could be read."""
    if not readable:
        first = f"; the first, {broken[0].name}: {broken[0].reason}" if broken else ""
        raise PmaeError(f"no image in {source.name} could be read ({len(broken)} tried){first}")


def _halves(
    encoder: Encoder, source: Source, first: int, reading: Reading, progress: Progress | None
) -> Generator[tuple[np.ndarray, Line], None, None]:
    """Vectors `(rows, 2D)` float16 of the images from number `first` on, batch by batch."""
    requests = cut(range(first, len(source)), reading.images_at_once())
    with closing(encoded(encoder, source, requests, reading)) as batches:
        for request, (batch, vectors) in zip(requests, batches, strict=True):
            half = vectors.half()
            if not half.isfinite().all():
                largest = float(vectors.abs().max())
                raise PmaeError(
                    f"{encoder.name} gives features of up to {largest:.3g}, more than float16 can hold (65504): "
                    "take those of another block"
                )
            yield half.numpy(), Line(len(request), batch.labels.tolist(), batch.names, batch.skipped)
            if progress is not None:
                progress(request[-1] + 1, len(source))


def encoded(
    encoder: Encoder, source: Source, requests: Sequence[Sequence[int]], reading: Reading
) -> Generator[tuple[Batch, Tensor], None, None]:
    """A batch for each of `requests` (indices of images), and its vectors `(rows, 2D)` float32 on the CPU.

    Rows are those of the batch: broken images have none. A vector is the [CLS] token, then the mean of patch tokens.

    Raises:
        PmaeError: a feature is not finite.
    """
    on_gpu = encoder.mean.device.type == "cuda"
    stream = view_batches(
        source,
        requests,
        image_size=encoder.image_size,
        channels=encoder.in_channels,
        max_pixels=reading.max_pixels,
        views=reading.views,
        workers=reading.workers,
        pin_memory=on_gpu,
    )
    for batch in stream:
        vectors = image_vectors(encoder, batch.images, reading.block)
        finite = vectors.isfinite().all(dim=1)
        if not finite.all():
            name = batch.names[int(finite.long().argmin())]
            raise PmaeError(f"{encoder.name} gives features of {name} that are not finite: are its weights damaged?")
        yield batch, vectors


@torch.inference_mode()
def image_vectors(encoder: Encoder, images: Tensor, block: int | None) -> Tensor:
    """Images `(B, C, H, W)` uint8 to vectors `(B, 2D)` float32 on the CPU: [CLS], then the mean of the patch tokens.

    Args:
        encoder: bf16 where it is on a GPU that has it.
        images: of the encoder's size; B may be 0.
        block: as in `Encoder`; None: the output of the network.
    """
    if not len(images):
        return torch.empty(0, 2 * encoder.embed_dim)
    device = encoder.mean.device
    with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device.type)):
        tokens = encoder(to_float(images.to(device, non_blocking=True)), block).float()
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1).cpu()
