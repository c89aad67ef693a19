"""The columns of WebDataset shards whose samples are not all alike."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from perceptual_mae.data.digest import digest_all
from perceptual_mae.data.streaming.tar import IMAGES, find_fields
from perceptual_mae.errors import WriteError, refused_by_system
from perceptual_mae.files import write_json
from perceptual_mae.paths import cache_folder

if TYPE_CHECKING:
    from datasets import Features

_SUFFIXES = IMAGES - {".npy"}
"""Of images: an array is decoded by `datasets`, and has no place in a column of files."""
_AT_ONCE = 8


def features_of(files: Sequence[Path]) -> "Features | None":
    """Columns for all samples of shards: one for each suffix of images, and the class.

    `datasets` takes the fields of the first five samples for those of all: it refuses shards with JPEG and PNG files,
    or leaves out what comes later. None: it may do so, as all samples are alike, or no image is in them.

    Raises:
        PmaeError: a file may not be read.
    """
    kinds = _noted_kinds(files)
    names = sorted({name for kind in kinds for name in kind})
    images = [name for name in names if f".{name.lower()}" in _SUFFIXES]
    if len(kinds) < 2 or not images:
        return None
    from datasets import Features, Image, Value

    features: dict[str, object] = {name: Image() for name in images}
    if "cls" in names:
        features["cls"] = Value("int64")  # which is read by `int`
    return Features(features | {"__key__": Value("string"), "__url__": Value("string")})


def _noted_kinds(files: Sequence[Path]) -> list[list[str]]:
    """The kinds of samples of shards. Noted: a million headers take ten seconds, and minutes on a disk that turns."""
    note = cache_folder("shards") / f"{digest_all(map(_version, files))}.json"
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pass
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        kinds = {kind for found in threads.map(_kinds_of, files) for kind in found}
    found = sorted(map(sorted, kinds))
    with suppress(WriteError):  # next time it is found out again
        write_json(note, found)
    return found


def _version(file: Path) -> bytes:
    with refused_by_system(f"{file} cannot be read"):
        status = file.stat()
    return os.fsencode(f"{file.resolve()} {status.st_size} {status.st_mtime_ns}")


def _kinds_of(file: Path) -> set[frozenset[str]]:
    with refused_by_system(f"{file} cannot be read"), open(file, "rb") as opened:
        return find_fields(opened.fileno())
