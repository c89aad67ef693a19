"""`index.json`: which shards there are and how many samples each has, in the format of WebDataset's `wids`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perceptual_mae.data.streaming.address import beside, is_url, shown
from perceptual_mae.errors import PmaeError

NAME = "index.json"
_KIND = "wids-shard-index-v1"


@dataclass(frozen=True)
class Entry:
    """A shard that is named somewhere; None for what is not said."""

    location: str
    samples: int | None = None
    size: int | None = None
    md5: str | None = None


def parse_index(location: str, data: bytes) -> list[Entry]:
    """The shards that an index names, their URLs being relative to it or whole.

    Raises:
        PmaeError: it is no such index, or one from elsewhere that names files of this machine.
    """
    try:
        index = json.loads(data)
        shards = index["shardlist"]
        entries = [_entry(location, shard) for shard in shards]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        words = " ".join(str(error).split())
        raise PmaeError(
            f"{shown(location)} is no index of shards ({type(error).__name__}: {words}): it needs a `shardlist` of "
            "`url`, `nsamples` and `filesize`, as `pmae shard` writes it"
        ) from None
    return entries


def _entry(location: str, shard: dict[str, Any]) -> Entry:
    where = beside(location, shard["url"])
    # What somebody else wrote must not make this machine read its own files.
    if is_url(location) and (not is_url(where) or where.lower().startswith(("file:", "local:"))):
        raise PmaeError(
            f"{shown(location)} names {shown(where)}, a file of this machine: it may name only its own kind"
        )
    samples, size, md5 = shard.get("nsamples"), shard.get("filesize"), shard.get("md5sum")
    for name, number in (("nsamples", samples), ("filesize", size)):
        if number is not None and (type(number) is not int or number < 0):
            raise ValueError(f"{name} is {number!r}")
    return Entry(where, samples, size, md5 if isinstance(md5, str) and md5 else None)


def index_of(shards: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The contents of an index: each shard with `url`, `nsamples`, `filesize` and `md5sum`; `more` is ours."""
    return {"__kind__": _KIND, "wids_version": 1, "shardlist": list(shards), **more}
