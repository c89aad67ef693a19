"""The units of a stream: how many samples each has, and their bytes once one is at hand."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perceptual_mae.data.digest import digest
from perceptual_mae.data.folder import printable
from perceptual_mae.data.streaming.address import shown
from perceptual_mae.data.streaming.cache import Cache, Held, says_where
from perceptual_mae.data.streaming.settings import StreamSettings
from perceptual_mae.data.streaming.shards import Shard
from perceptual_mae.data.streaming.tables import (
    TableImages,
    image_leaf,
    open_table,
    read_images,
    write_footer,
    write_images,
)
from perceptual_mae.data.streaming.tar import TarImages, find_images
from perceptual_mae.data.streaming.transfer import Unavailable, download, facts
from perceptual_mae.data.types import BrokenImage
from perceptual_mae.errors import PmaeError, system_words

LARGEST = 2**30
"""Bytes of an image file that is read into memory."""
NOTED = 60.0
"""Seconds for which all processes take the word of one that a unit could not be fetched."""
_AT_ONCE = 8
"""Shards that are looked at together, when their samples have to be counted."""


@dataclass(frozen=True)
class Unit:
    """A tar shard, or a row group of a parquet file.

    Attributes:
        shard: the file, its size known where it is elsewhere.
        version: of that file, see `Facts`.
        group: number of the row group; -1: a tar shard.
        leaf: the column with the images; empty: a tar shard.
        count: its samples.
    """

    shard: Shard
    version: str
    group: int
    leaf: str
    count: int

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.shard.name if self.group < 0 else f"{self.shard.name} row group {self.group}"

    @property
    def key(self) -> str:
        """Its name in the cache: another version of the file is another unit."""
        shard = self.shard
        words = (shard.location, str(shard.size), shard.md5 or "", self.version, str(self.group), self.leaf)
        return digest(*(word.encode("utf-8", "surrogateescape") for word in words))


class OpenUnit:
    """A unit at hand. Reads are safe from several threads, and after a fork.

    Args:
        unit: which.
        held: the file that it is read from, which stays until this is closed.
        images: where in it they are.
    """

    def __init__(self, unit: Unit, held: Held, images: TarImages | TableImages) -> None:
        self.unit, self._held, self.images = unit, held, images

    def close(self) -> None:
        """Let its file go."""
        self._held.close()

    def read(self, row: int) -> tuple[bytes | BrokenImage, str]:
        """The encoded image of a sample, or why there is none, and its name."""
        images, found = self.images, len(self.images)
        if row >= found:
            why = f"the shard has {found} images, not the {self.unit.count} that its index says"
            problem = images.problem if isinstance(images, TarImages) else ""
            return BrokenImage(problem or why), sample_name(self.unit, row)
        if isinstance(images, TableImages):
            return images.read(row), sample_name(self.unit, row)
        name = f"{self.unit.shard.name}/{printable(os.fsdecode(images.names[row]))}"
        size = int(images.sizes[row])
        if size > LARGEST:
            return BrokenImage(f"a file of {size} bytes"), name
        try:
            data = os.pread(self._held.descriptor, size, int(images.offsets[row]))
        except OSError as error:
            return BrokenImage(system_words(error)), name
        return (data if len(data) == size else BrokenImage("the shard has been cut short since it was opened")), name


def sample_name(unit: Unit, row: int) -> str:
    """What a person calls a sample whose own name is not known."""
    return f"{unit.name} sample {row}"


def open_unit(
    unit: Unit, cache: Cache, settings: StreamSettings, *, since: float = 0.0, wait: bool = True
) -> OpenUnit | None:
    """Fetch a unit if need be, and open it; None where another process is fetching it and `wait` is False.

    Args:
        since: time (`time.time`) from which on what other processes could not fetch is not tried again at once.

    Raises:
        BrokenImage: it cannot be had, with the reason.
        PmaeError: the cache cannot be written.
    """
    shard = unit.shard

    def write(part: Path) -> None:
        """Under the lock of the unit: of all processes that want it one asks."""
        _check_failed(unit, cache, since)
        try:
            if unit.group < 0:
                size = shard.size if shard.size is not None else facts(shard.location, settings).size
                where, version, room = shard.location, unit.version, cache.clear
                download(where, part, settings, size=size, md5=shard.md5, version=version, room=room)
            else:
                images = read_images(_table(unit, cache, settings), unit.group, unit.leaf)
                try:
                    write_images(images, part)
                except OSError:  # most often a full disk
                    cache.clear()
                    with says_where(cache.folder):
                        write_images(images, part)
        except Unavailable as error:
            cache.write_note(f"failed-{unit.key}", {"when": time.time(), "reason": error.reason})
            raise

    try:
        if unit.group < 0 and not shard.remote:
            held: Held | None = Held(Path(shard.location), os.open(shard.location, os.O_RDONLY))
        else:
            name = f"{unit.key}.tar" if unit.group < 0 else f"{unit.key}.arrow"
            held = cache.fill(name, (shard.size or 0) if unit.group < 0 else 0, write, wait=wait)
        if held is None:
            return None
        return OpenUnit(unit, held, find_images(held.descriptor) if unit.group < 0 else TableImages(held.path))
    except Unavailable as error:
        raise BrokenImage(error.reason) from None
    except OSError as error:
        raise BrokenImage((error.strerror or _first_line(error)).lower()) from None
    except pa.ArrowException as error:
        raise BrokenImage(f"damaged: {_first_line(error)}") from None


def _table(unit: Unit, cache: Cache, settings: StreamSettings) -> pq.ParquetFile:
    """The parquet file of a unit; the footer of one elsewhere comes from the cache, if it is there still."""
    shard = unit.shard
    footer = cache.hold(f"{_file_key(shard, unit.version)}.footer") if shard.remote else None
    try:
        return open_table(shard.location, shard.size or 0, settings, footer.path if footer else None)
    finally:
        if footer is not None:
            footer.close()


def _file_key(shard: Shard, version: str) -> str:
    return Unit(shard, version, -1, "", 0).key


def _check_failed(unit: Unit, cache: Cache, since: float) -> None:
    """Raises Unavailable where another process has found so, a moment ago."""
    note = cache.note(f"failed-{unit.key}")
    if isinstance(note, dict) and note.get("when", 0) > max(since, time.time() - NOTED):
        raise Unavailable(unit.shard.location, str(note.get("reason")))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# -- counting ----------------------------------------------------------------------------------------------------------


def count_units(shards: Sequence[Shard], cache: Cache, settings: StreamSettings) -> list[Unit]:
    """The units of shards, those without samples left out. What had to be found out is noted in the cache.

    Raises:
        PmaeError: a shard whose samples have to be counted cannot be read: without the number there is no order.
    """
    since = time.time()  # what an earlier run could not fetch may be there again
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        found = list(threads.map(lambda shard: _units_of(shard, cache, settings, since), shards))
    return [unit for units in found for unit in units if unit.count > 0]


def _units_of(shard: Shard, cache: Cache, settings: StreamSettings, since: float) -> list[Unit]:
    if not shard.is_table and shard.samples is not None:
        return [Unit(shard, "", -1, "", shard.samples)]
    if shard.remote:
        known = facts(shard.location, settings)
        size, version = known.size, known.version
    else:
        size, version = _local_facts(shard)
    shard = Shard(shard.location, shard.name, shard.samples, size, shard.md5)
    key = digest(b"counts", _file_key(shard, version).encode())
    note = cache.note(key)
    if not (isinstance(note, dict) and isinstance(note.get("counts"), list) and isinstance(note.get("leaf"), str)):
        note = (
            _count_rows(shard, version, cache, settings)
            if shard.is_table
            else _count_members(shard, version, cache, settings, since)
        )
        cache.write_note(key, note)
    groups = range(len(note["counts"])) if shard.is_table else (-1,)
    return [Unit(shard, version, group, note["leaf"], n) for group, n in zip(groups, note["counts"], strict=True)]


def _local_facts(shard: Shard) -> tuple[int, str]:
    try:
        status = os.stat(shard.location)
    except OSError as error:
        raise PmaeError(f"{shown(shard.location)}: {system_words(error)}") from None
    return status.st_size, str(status.st_mtime_ns)


def _count_rows(shard: Shard, version: str, cache: Cache, settings: StreamSettings) -> dict[str, Any]:
    table = open_table(shard.location, shard.size or 0, settings)
    if shard.remote:
        kept = cache.fill(f"{_file_key(shard, version)}.footer", 0, lambda part: write_footer(table, part))
        if kept is not None:
            kept.close()
    counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    return {"leaf": image_leaf(shard.location, table.schema_arrow), "counts": counts}


def _count_members(shard: Shard, version: str, cache: Cache, settings: StreamSettings, since: float) -> dict[str, Any]:
    """The samples of a tar file. One that is damaged has one more, so that the damage is met, counted and listed."""
    try:
        opened = open_unit(Unit(shard, version, -1, "", 0), cache, settings, since=since)
    except BrokenImage as broken:
        raise PmaeError(f"{shown(shard.location)}: {broken}; its samples cannot be counted") from None
    assert opened is not None
    try:
        images = opened.images
        return {"leaf": "", "counts": [len(images) + bool(isinstance(images, TarImages) and images.problem)]}
    finally:
        opened.close()


def counts_of(units: Sequence[Unit]) -> np.ndarray:
    """Samples of each unit, `(units,)` int64."""
    return np.array([unit.count for unit in units], np.int64)
