"""Any data as WebDataset shards, for training that reads them as a stream."""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from perceptual_mae.data.joined import all_classes, parts_of
from perceptual_mae.data.shard_file import ShardRecord, finished, remove_notes, restore_notes, verify, write_shard
from perceptual_mae.data.stream import BatchStream
from perceptual_mae.data.streaming.address import shown_spec
from perceptual_mae.data.streaming.index import NAME, index_of
from perceptual_mae.data.streaming.plan import StreamPlan
from perceptual_mae.data.subset import Relabelled
from perceptual_mae.data.types import Item, Source, Streamed
from perceptual_mae.errors import PmaeError, UsageError, refused_by_system
from perceptual_mae.files import write_json, write_text
from perceptual_mae.seeds import Stream, permutation

_PLAN = ".sharding.json"
_WEIGHED = 512
"""Images that are looked at to tell how many fit into a shard."""
_HEADERS = 1792
"""Bytes that an image takes beside its data: headers of 512 for it and its class, and what fills up blocks of 512."""
_RESHUFFLED = 65536
"""Images among which the order is drawn where the data is a stream itself."""


@dataclass(frozen=True)
class ShardSettings:
    """How shards are written.

    Attributes:
        seed: of the order.
        shard_size: of a shard, in megabytes, about.
        samples: images in a shard, in the place of `shard_size`; None: as many as that makes.
        check: decode every image and leave out what is broken.
        channels: that images must have where they are not grey, RGB or RGBA.
        max_pixels: images with more are left out.
    """

    seed: int = 0
    shard_size: float = 256.0
    samples: int | None = None
    check: bool = True
    channels: int = 3
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        if not 0 < self.shard_size * 1e6 < math.inf:
            raise UsageError(f"--shard-size {self.shard_size}: must be a positive number of megabytes")
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"--samples {self.samples}: must be at least 1")
        if self.channels < 1:
            raise UsageError(f"--channels {self.channels}: must be at least 1")


@dataclass(frozen=True)
class Sharded:
    """What came of it.

    Attributes:
        images: in the shards.
        shards: how many there are.
        skipped: images that were left out.
        made: shards that were not there already.
    """

    images: int
    shards: int
    skipped: int
    made: int


def write_shards(
    spec: str,
    out: Path,
    settings: ShardSettings,
    split: str = "all",
    workers: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Sharded:
    """Write `SPLIT-000000.tar`, ... with the images of a data argument, in a seeded order, and `index.json` at last.

    Shards that an interrupted call has finished are kept if they are whole. What was left out is in `skipped.txt`.

    Args:
        split: train, validation, or all: both, where there are two.
        workers: processes that write shards; 0: this one.
        progress: called with the number of finished shards and of all.

    Raises:
        UsageError: no such data or split; a folder that holds something else.
        PmaeError: what cannot be read or written.
    """
    sources, classes = _open(spec, split, settings.channels)
    parts = {name: ShardMaker.of(source, name, out, settings) for name, source in sources.items()}
    plan = _plan(parts, settings)
    _claim(out, plan)
    records: list[ShardRecord] = []
    made, total = 0, sum(len(part) for part in parts.values())
    for part in parts.values():
        for record, new in BatchStream(part, range(len(part)), workers=min(workers, len(part))):
            records.append(record)
            made += new and record.nsamples > 0
            progress(len(records), total)
    for record in records:
        verify(out / record.url, record.nsamples)
    skipped = [f"{skip.name}\t{skip.reason}\n" for record in records for skip in record.skipped]
    images = sum(record.nsamples for record in records)
    if not images:
        raise PmaeError(
            f"{shown_spec(spec)}: no image could be read ({len(skipped)} tried); the first, {skipped[0].strip()}"
        )
    if skipped:
        write_text(out / "skipped.txt", "".join(skipped))
    entries = [record.entry for record in records if record.nsamples]
    write_json(out / NAME, index_of(entries, classes=list(classes), made=plan))
    remove_notes(out / record.url for record in records)
    for record in records:
        if not record.nsamples:  # all of its images were broken: other readers refuse a tar file with nothing in it
            (out / record.url).unlink(missing_ok=True)
    (out / _PLAN).unlink(missing_ok=True)
    return Sharded(images, len(entries), len(skipped), made)


@dataclass(frozen=True)
class ShardMaker:
    """Writes a shard of one split; runs in the workers.

    Attributes:
        order: images of the source in the order of the shards, `(n,)` int64.
        per_shard: images in a shard; the last one may have fewer.
    """

    source: Source
    split: str
    out: Path
    settings: ShardSettings
    order: np.ndarray
    per_shard: int

    @classmethod
    def of(cls, source: Source, split: str, out: Path, settings: ShardSettings) -> "ShardMaker":
        """All that is decided before anything is written."""
        if isinstance(source, Streamed):  # shard by shard: any order would fetch each of them many times
            order = StreamPlan.of(source.counts, len(source), settings.seed, 1, _RESHUFFLED).indices(0).numpy()
        else:
            order = permutation(len(source), settings.seed, Stream.SHARDS)
        return cls(source, split, out, settings, order, settings.samples or _fitting(source, order, settings))

    def __len__(self) -> int:
        return (len(self.order) + self.per_shard - 1) // self.per_shard

    def path(self, number: int) -> Path:
        """Where a shard goes."""
        return self.out / f"{self.split}-{number:06d}.tar"

    def __getitem__(self, number: int) -> tuple[ShardRecord, bool] | PmaeError:
        """A shard that is finished, and whether it had to be written."""
        path, settings = self.path(number), self.settings
        try:
            known = finished(path)
            if known is not None:
                return known, False
            first = number * self.per_shard
            chosen = enumerate(self.order[first : first + self.per_shard].tolist(), first)
            items = ((place, self.source[index]) for place, index in chosen)
            record = write_shard(
                path,
                items,
                labelled=bool(self.source.classes),
                check=settings.check,
                channels=settings.channels,
                max_pixels=settings.max_pixels,
            )
        except PmaeError as error:
            return error
        return record, True


def _open(spec: str, split: str, channels: int) -> tuple[dict[str, Source], tuple[str, ...]]:
    """The splits to write, and the classes of the whole data by number: of a class a shard has nothing but its number.

    The classes of a split that is not written count, too: another call may write it, for the same classifier.
    A split whose classes have these numbers anyway stays itself, so that shards of an earlier call are recognised.
    """
    sources = parts_of(spec, split, channels=channels)
    if not sources:
        raise UsageError(f"{shown_spec(spec)}: it has no {split} images")
    every = sources
    if split != "all" and any(source.classes for source in sources.values()):
        with suppress(UsageError):  # the other split cannot be opened: it has no classes
            every = parts_of(spec, channels=channels)
    classes = all_classes(every.values())
    numbered = {
        name: source if source.classes == classes[: len(source.classes)] else Relabelled(source, classes)
        for name, source in sources.items()
    }
    return numbered, classes


def _fitting(source: Source, order: np.ndarray, settings: ShardSettings) -> int:
    """How many images make a shard of the wanted size, by the mean of some. They are in random order: it holds."""
    looked_at = order[:_WEIGHED].tolist()
    mean = sum(_weight(source[index]) for index in looked_at) / max(1, len(looked_at))
    return max(1, round(settings.shard_size * 1e6 / mean))


def _weight(item: Item) -> int:
    """Bytes of an image in a tar file, about."""
    data = item.data
    if isinstance(data, Path):
        try:
            size = data.stat().st_size
        except OSError:  # left out later, with the reason
            size = 0
    elif isinstance(data, Tensor):
        size = data.numel()
    else:
        size = len(data) if isinstance(data, bytes) else 0
    return size + _HEADERS


def _plan(parts: Mapping[str, ShardMaker], settings: ShardSettings) -> dict[str, Any]:
    """What makes these shards others than those: written down, so that a second call goes on only with its own."""
    splits = {
        name: {"data": part.source.fingerprint(), "images": len(part.order), "per_shard": part.per_shard}
        for name, part in parts.items()
    }
    return {"seed": settings.seed, "check": settings.check, "channels": settings.channels, "splits": splits}


def _claim(out: Path, plan: dict[str, Any]) -> None:
    """Make the folder, or go on in it. Raises UsageError where it holds something else."""
    with refused_by_system(f"--out {out}"):
        if out.exists() and not out.is_dir():
            raise UsageError(f"--out {out}: this is a file; name a folder")
        index = _read(out / NAME)
        found = _read(out / _PLAN) or index.get("made")
        if found is None and out.is_dir() and any(out.iterdir()):
            raise UsageError(f"--out {out}: the folder is not empty; name another")
    if found is not None and found != plan:
        names = [name for name in plan if plan[name] != found.get(name)]
        raise UsageError(f"--out {out} holds shards of other {' and '.join(names)}: name another folder")
    write_json(out / _PLAN, plan)
    if found is not None:
        restore_notes(out, index.get("shardlist", []))


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
