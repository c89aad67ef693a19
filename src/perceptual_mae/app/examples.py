"""Images to begin with: some of those that a run was validated on."""

import itertools

from perceptual_mae.data import BrokenImage, Source, StreamSettings, decode, open_validation_or_all
from perceptual_mae.data.types import Item
from perceptual_mae.data.views import across_classes
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.pretraining.config import PretrainConfig

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
        spec, stream = data or config.val_data or config.data, StreamSettings.of(config.loader)
        source = open_validation_or_all(spec, channels=channels, stream=stream)
        found = _readable(source, config, count)
        if not found:
            raise UsageError(f"--data {spec}: none of its images can be read")
        return found
    except PmaeError:
        if data is not None:
            raise
        return _readable(open_validation_or_all("photos", channels=channels), config, count)


def _readable(source: Source, config: PretrainConfig, count: int) -> list[Item]:
    """Images in a random order, of which those of new classes come first."""
    found: list[Item] = []
    for item in itertools.islice(across_classes(source, count, config.seed), count * TRIED):
        if len(found) == count:
            break
        try:
            decode(item.data, config.pixels.channels, config.loader.max_pixels)
        except BrokenImage:  # there are others
            continue
        found.append(item)
    return found
