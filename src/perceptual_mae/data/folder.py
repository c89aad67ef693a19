"""A folder of images; sub-folders are labels."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from perceptual_mae.data.digest import digest
from perceptual_mae.data.types import Item
from perceptual_mae.errors import PmaeError, UsageError, printable

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
_TRAIN = ("train", "training")
_VALIDATION = ("val", "valid", "validation", "test", "testing")

_log = logging.getLogger(__name__)


class FolderSource:
    """The images below a folder, in the order of their relative paths.

    Where every image lies in a sub-folder and there are two sub-folders or more, the first folder of its path is an
    image's class.
    """

    def __init__(self, name: str, root: Path, paths: list[bytes]) -> None:
        self.name = name
        self.root = root
        # One Arrow array and no list of str: a million paths take a fifth of the memory, and workers that are forked
        # keep sharing it (Python objects are written to, and so copied, whenever they are looked at).
        self._paths = pa.array(paths, pa.large_binary())
        tops = [path.split(b"/", 1)[0] if b"/" in path else None for path in paths]
        found = sorted({top for top in tops if top is not None})
        labelled = len(found) > 1 and None not in tops
        self.classes = tuple(printable(os.fsdecode(top)) for top in found) if labelled else ()
        self._label_of = {top: label for label, top in enumerate(found)} if labelled else {}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Item:
        path = self._paths[index].as_py()
        text = os.fsdecode(path)
        label = self._label_of[path.split(b"/", 1)[0]] if self._label_of else -1
        return Item(self.root / text, printable(text), label)

    def fingerprint(self) -> str:
        """Digest of the relative paths in order."""
        return digest(b"folder", *(path.as_py() for path in self._paths))


def open_folder(spec: str, root: Path, split: str, suffixes: frozenset[str] = SUFFIXES) -> FolderSource | None:
    """Open a folder of images (or one image file). None where it has no validation images.

    A folder with `train` and `val` inside (also `train2017`, `images/training`, ...) gives the one that is asked for.

    Raises:
        UsageError: it holds no image.
    """
    if root.is_file():
        return FolderSource(spec, root.parent, [os.fsencode(root.name)]) if split == "train" else None
    parts = _find_splits(root, suffixes)
    if split == "validation" and "validation" not in parts:
        return None
    folder = parts.get(split, root)
    paths = sorted(os.fsencode(path) for path in find_files(folder, suffixes))
    if not paths:
        raise UsageError(_nothing_found(spec if folder == root else printable(str(folder)), folder))
    return FolderSource(spec, folder, paths)


def find_files(root: Path, suffixes: frozenset[str] | None) -> Iterator[str]:
    """Paths, relative to `root` with `/`, of the files below it with one of `suffixes` (in any case; None: any).

    Hidden files and folders are left out. Links to folders are followed, each folder being visited once at most, so a
    link to a folder above ends no search. A folder that may not be read is left out with a warning.
    """
    visited: set[tuple[int, int]] = set()

    def walk(folder: str, prefix: str) -> Iterator[str]:
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:
                return
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            _log.warning("left out %s: %s", folder, error.strerror)
            return
        for entry in found:
            if entry.name.startswith("."):
                continue
            if _is(entry.is_dir):
                yield from walk(entry.path, f"{prefix}{entry.name}/")
            elif (suffixes is None or os.path.splitext(entry.name)[1].lower() in suffixes) and _is(entry.is_file):
                yield prefix + entry.name

    return walk(os.fspath(root), "")


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry of a folder is of a kind; a link into a folder that may not be entered is of none."""
    try:
        return kind()
    except OSError:
        return False


def _find_splits(root: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """The split folders in `root` or `root/images`, by split; empty where the sub-folders are something else.

    A folder called `train` might also be a class (beside `bus`): it is a split where there is a `val` as well, or where
    no other folder holds images. A `val` without files is passed over, but not such a `train`: nobody would notice.
    """
    for folder in (root, root / "images"):
        inside = _folders(folder)
        train = next(_called(inside, _TRAIN), None)
        if train is None:
            continue
        others = list(_called(inside, _VALIDATION))
        validation = next((path for path in others if _has_file(path, None)), None)
        if validation is not None:
            return {"train": train, "validation": validation}
        if others or not any(_has_file(other, suffixes) for other in inside if other != train):
            return {"train": train}
    return {}


def _folders(root: Path) -> list[Path]:
    try:
        # `Path.is_dir` would raise at a link into a folder that may not be entered, and hide all the others.
        return [root / name for name in sorted(os.listdir(root)) if name[0] != "." and os.path.isdir(root / name)]
    except OSError:
        return []


def _called(folders: list[Path], names: tuple[str, ...]) -> Iterator[Path]:
    """The folders called by the first of `names`, then by the others, year or not (`train2017`); latest years first."""
    for name in names:
        matching = [path for path in folders if re.fullmatch(rf"{name}[-_]?\d*", path.name.lower())]
        yield from sorted(matching, key=lambda path: path.name, reverse=True)


def _has_file(folder: Path, suffixes: frozenset[str] | None) -> bool:
    return next(find_files(folder, suffixes), None) is not None


def _nothing_found(spec: str, folder: Path) -> str:
    """Why there is no image in a folder, which the user calls `spec`."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise PmaeError(f"{spec} may not be read: change its permissions")
    suffixes = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in find_files(folder, None))
    if not suffixes:
        return f"{spec} is empty: give a folder of images"
    if ".tar" in suffixes:
        return f"{spec} holds no image but {suffixes['.tar']} .tar: for WebDataset shards give wds:{spec}"
    held = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
    return f"{spec} holds no image (files there: {held}): give a folder of {' '.join(sorted(SUFFIXES))}"
