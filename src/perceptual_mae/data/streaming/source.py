"""A stream as a source of images."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from perceptual_mae.data.digest import digest_all
from perceptual_mae.data.streaming.address import shown_spec
from perceptual_mae.data.streaming.cache import Cache
from perceptual_mae.data.streaming.settings import StreamSettings
from perceptual_mae.data.streaming.shards import find_shards
from perceptual_mae.data.streaming.shelf import Shelf
from perceptual_mae.data.streaming.units import OpenUnit, Unit, count_units, counts_of, open_unit, sample_name
from perceptual_mae.data.types import BrokenImage, Item
from perceptual_mae.errors import UsageError


class StreamSource:
    """The images of shards, reached by number like those of any source, and fetched shard by shard.

    It has no labels: a stream is for pre-training.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, name: str, units: Sequence[Unit], settings: StreamSettings, since: float | None = None) -> None:
        self.name, self._units, self._settings = name, list(units), settings
        self._since = time.time() if since is None else since
        self.counts = counts_of(self._units)
        self._edges = np.concatenate([[0], np.cumsum(self.counts)])
        self._cache = Cache(settings.folder, settings.limit)
        self._shelf = Shelf(name, self._open)

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "units": self._units, "settings": self._settings, "since": self._since}

    def __setstate__(self, state: dict[str, Any]) -> None:
        StreamSource.__init__(self, **state)

    def __len__(self) -> int:
        return int(self._edges[-1])

    def __getitem__(self, index: int) -> Item:
        """Sample `index`; where its unit cannot be had, its data says why.

        Raises:
            PmaeError: nothing can be had any more, or the cache cannot be written.
        """
        number = int(np.searchsorted(self._edges, index, side="right")) - 1
        row = index - int(self._edges[number])
        try:
            data, name = self._shelf.get(number).read(row)
        except BrokenImage as broken:
            data, name = broken, sample_name(self._units[number], row)
        return Item(data, name)

    def expect(self, units: Sequence[int]) -> None:
        """See `Streamed`."""
        self._shelf.expect(units)

    def fingerprint(self) -> str:
        """Digest of the names of the units and of how many samples each has: it survives a move to another host."""
        return digest_all(f"{unit.name} {unit.count}".encode() for unit in self._units)

    def _open(self, number: int, wait: bool) -> OpenUnit | None:
        return open_unit(self._units[number], self._cache, self._settings, since=self._since, wait=wait)


def open_stream(spec: str, split: str, settings: StreamSettings) -> StreamSource | None:
    """Open the shards of one split; None where there is no validation split.

    Raises:
        UsageError: no such shards, or none with an image.
        PmaeError: they cannot be reached.
    """
    shards = find_shards(spec, split, settings)
    if shards is None:
        return None
    units = count_units(shards, Cache(settings.folder, settings.limit), settings)
    if not units:
        raise UsageError(
            f"{shown_spec(spec)}: no image is in these {len(shards)} shards (a sample is KEY.jpg, KEY.png, ...)"
        )
    return StreamSource(shown_spec(spec), units, settings)
