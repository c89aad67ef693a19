"""Images to begin with: some of those that a run was validated on."""

import itertools

from perceptual_mae.data import BrokenImage, Source, decode, open_source
from perceptual_mae.data.types import Item
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.seeds import Stream, permutation

TRIED = 10
"""Images that are looked at for every example that is wanted: some may be broken."""


def find_examples(config: PretrainConfig, data: str | None, count: int) -> list[Item]:
    """Some images that can be read, each ready to decode.

    Args:
        config: of the run whose validation images are taken, or its training images where it has none.
        data: a data argument to take them from instead; what is wrong with it is an error.
        count: how many.

    Returns:
        up to `count` images. Those of a run that has moved may be gone: the built-in photographs stand in for them, and
        for a run on images of many channels there are none.

    Raises:
        UsageError, PmaeError: `data` cannot be had or read.
    """
    channels = config.pixels.channels
    try:
        source = _open(data or config.val_data or config.data, channels)
        found = _readable(source, config, count)
        if not found:
            raise UsageError(f"--data {data or config.data}: none of its images can be read")
        return found
    except PmaeError:
        if data is not None:
            raise
        return _readable(_open("photos", channels), config, count)


def _open(spec: str, channels: int) -> Source:
    source = open_source(spec, "validation", channels=channels) or open_source(spec, "train", channels=channels)
    if source is None:
        raise UsageError(f"--data {spec}: there are no images")
    return source


def _readable(source: Source, config: PretrainConfig, count: int) -> list[Item]:
    """Images in a random order, of which those of new classes come first."""
    order = permutation(len(source), config.seed, Stream.PICTURES)[: count * TRIED].tolist()
    items = [source[index] for index in order]
    turn: dict[int, itertools.count[int]] = {}
    ranks = [next(turn.setdefault(item.label, itertools.count())) for item in items]
    found: list[Item] = []
    for _, item in sorted(zip(ranks, items, strict=True), key=lambda pair: pair[0]):
        if len(found) == count:
            break
        try:
            decode(item.data, config.pixels.channels, config.loader.max_pixels)
        except BrokenImage:  # there are others
            continue
        found.append(item)
    return found
