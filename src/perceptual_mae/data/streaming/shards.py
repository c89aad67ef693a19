"""What a `stream:` argument names: shards, on this machine or elsewhere."""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from perceptual_mae.data.folder import find_files, printable
from perceptual_mae.data.splits import pick_files
from perceptual_mae.data.streaming import anywhere
from perceptual_mae.data.streaming.address import is_http, is_url, parent, path_part, shown, shown_spec, suffix
from perceptual_mae.data.streaming.index import NAME, Entry, parse_index
from perceptual_mae.data.streaming.reply import Lost, Refused
from perceptual_mae.data.streaming.settings import StreamSettings
from perceptual_mae.data.streaming.transfer import Unavailable, read_all
from perceptual_mae.data.wds import expand_braces
from perceptual_mae.errors import PmaeError, UsageError, system_words

TAR = frozenset({".tar"})
TABLES = frozenset({".parquet", ".pq"})
_FORMS = "a folder, .tar or .parquet files (with * or {000..127}), or an index.json"


@dataclass(frozen=True)
class Shard:
    """One file of a stream.

    Attributes:
        location: path or URL.
        name: what a person calls it: its path relative to what all shards of the stream have in common.
        samples: images in it; None: not known before it is looked at.
        size: in bytes, and
        md5: in hexadecimal, as an index says; None: it does not.
    """

    location: str
    name: str
    samples: int | None = None
    size: int | None = None
    md5: str | None = None

    @property
    def remote(self) -> bool:
        """Whether it has to be fetched."""
        return is_url(self.location)

    @property
    def is_table(self) -> bool:
        """Whether it is a parquet file, and not a tar file."""
        return suffix(self.location) in TABLES


def find_shards(spec: str, split: str, settings: StreamSettings) -> list[Shard] | None:
    """The shards of one split, in an order of their own; None where there is no validation split.

    The words `train` and `validation` (`val`, `test`, ...) in the shards' paths, from the first folder that differs,
    tell the splits.

    Raises:
        UsageError: it names no shard, or shards of two kinds.
        PmaeError: what it names cannot be reached.
    """
    named = spec.removeprefix("stream:").removeprefix("wds:")
    named = unquote(urlsplit(named).path) if named.startswith("file://") else os.path.expanduser(named)
    if not named:
        raise UsageError(f"{spec} is empty: give {_FORMS}")
    try:
        # What is there is meant as it is called, whatever its name would stand for as a pattern.
        there = not is_url(named) and os.path.exists(named)
        expanded = [named] if there else expand_braces(named)
    except UsageError:
        raise UsageError(f"{shown_spec(spec)}: the braces come to too many names") from None
    entries = [entry for one in expanded for entry in _entries(spec, one, settings)]
    entries = sorted({entry.location: entry for entry in entries}.values(), key=lambda entry: entry.location)
    if not entries:
        raise UsageError(f"{shown_spec(spec)} names no shard: give {_FORMS}")
    kinds = {suffix(entry.location) in TABLES for entry in entries}
    if len(kinds) > 1:
        raise UsageError(f"{shown_spec(spec)} holds .tar and .parquet files: name one kind, as in FOLDER/*.tar")
    entries = _with_counts(entries, settings)
    names = _relative([path_part(entry.location) for entry in entries])
    chosen = pick_files(Path(), names, split)
    if chosen is None:
        return None
    wanted = {str(path) for path in chosen}
    return [
        Shard(entry.location, printable(name), entry.samples, entry.size, entry.md5)
        for entry, name in zip(entries, names, strict=True)
        if str(Path(name)) in wanted
    ]


def _entries(spec: str, named: str, settings: StreamSettings) -> list[Entry]:
    """What one name without braces stands for."""
    if suffix(named) == ".json":
        return parse_index(named, _contents(named, settings))
    if is_url(named):
        return _elsewhere(named, settings)
    if os.path.isdir(named):
        index = os.path.join(named, NAME)
        if os.path.isfile(index):
            return parse_index(index, _contents(index, settings))
        return [Entry(os.path.join(named, path)) for path in sorted(find_files(Path(named), TAR | TABLES))]
    pattern = glob.has_magic(named) and not os.path.isfile(named)
    files = glob.glob(named, recursive=True) if pattern else [named]
    for file in files:
        if not os.path.isfile(file):
            raise UsageError(f"{shown_spec(spec)}: there is no file {printable(file)}")
        _refuse_other(file)
    return [Entry(file) for file in files]


def _elsewhere(url: str, settings: StreamSettings) -> list[Entry]:
    if is_http(url):
        if "*" in url:
            raise UsageError(
                f"{shown(url)}: a web server lists no files, so * finds nothing: give {{000..127}}, or the folder of "
                "an index.json, which `pmae shard` writes"
            )
        if suffix(url) in TAR | TABLES:
            return [Entry(url)]
        index = f"{path_part(url).rstrip('/')}/{NAME}"
        return parse_index(index, _contents(index, settings))
    if suffix(url) in TAR | TABLES and not glob.has_magic(url):
        return [Entry(url)]
    folder = url.rstrip("/")
    if not glob.has_magic(url):
        try:
            return parse_index(f"{folder}/{NAME}", _contents(f"{folder}/{NAME}", settings))
        except Unavailable:
            url = f"{folder}/**"  # no index: what is there
    try:
        found = anywhere.listing(url, 10 * settings.timeout)
    except (Lost, Refused) as error:
        raise PmaeError(f"{shown(url)} cannot be listed: {error}") from None
    return [Entry(file) for file in found if suffix(file) in TAR | TABLES]


def _with_counts(entries: Sequence[Entry], settings: StreamSettings) -> list[Entry]:
    """Tar files that were named one by one learn what the index of their folder says of them, if it has one."""
    unknown = {parent(e.location) for e in entries if e.samples is None and suffix(e.location) in TAR}
    known: dict[str, Entry] = {}
    for folder in sorted(unknown):
        index = folder + NAME
        if not is_url(index) and not os.path.isfile(index):
            continue
        try:
            known |= {entry.location: entry for entry in parse_index(index, _contents(index, settings))}
        except PmaeError:  # no index there, or another program's: the shards themselves are counted
            continue
    return [known.get(entry.location, entry) if entry.samples is None else entry for entry in entries]


def _contents(index: str, settings: StreamSettings) -> bytes:
    if is_url(index):
        return read_all(index, settings)
    try:
        return Path(index).read_bytes()
    except OSError as error:
        raise PmaeError(f"{printable(index)} cannot be read: {system_words(error)}") from None


def _refuse_other(file: str) -> None:
    if suffix(file) not in TAR | TABLES:
        raise UsageError(f"{printable(file)} is neither a .tar nor a .parquet file: a stream takes {_FORMS}")


def _relative(paths: Iterable[str]) -> list[str]:
    """Paths without the folder that all of them have in common."""
    parts = [path.split("/") for path in paths]
    same = min(len(part) - 1 for part in parts)
    for at in range(same):
        if len({part[at] for part in parts}) > 1:
            same = at
            break
    return ["/".join(part[same:]) for part in parts]
