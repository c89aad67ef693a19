"""A seeded choice of images, from few shards where they come in shards."""

from collections.abc import Iterator

import numpy as np

from perceptual_mae.data.types import Source, Streamed
from perceptual_mae.seeds import Stream, permutation

UNITS_TOGETHER = 4
"""Units of a stream that are looked into at a time: one alone may hold images of one kind."""


def seeded_order(source: Source, seed: int, stream: Stream) -> Iterator[int]:
    """All images of a source in a seeded order.

    Those of a stream come unit by unit, so that the first few hundred are in a few units.
    """
    if not isinstance(source, Streamed):
        yield from permutation(len(source), seed, stream).tolist()
        return
    counts = source.counts
    units, firsts = permutation(len(counts), seed, stream), np.cumsum(counts) - counts
    for start in range(0, len(units), UNITS_TOGETHER):
        some = units[start : start + UNITS_TOGETHER]
        images = np.concatenate([np.arange(firsts[unit], firsts[unit] + counts[unit]) for unit in some])
        yield from images[permutation(len(images), seed, stream, start + 1)].tolist()
