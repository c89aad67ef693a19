"""The seal of a checkpoint: size and SHA-256 of every file in it, so that no damage goes unseen.

SHA-256 because processors have instructions for it (1.7 GB/s here; a checkpoint is written and flushed at a fraction of
that), and because `sha256sum` checks a file by hand.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from perceptual_mae.files import flush_to_disk, readable_as_usual, write_json

MANIFEST = "manifest.json"


class Damaged(ValueError):  # noqa: N818  (it is a verdict on the files, and reads as one)
    """A folder does not hold what was sealed; the message names a file and what is wrong with it."""


def seal(folder: Path) -> None:
    """Bring all files below `folder` to disk, and write down last what they are, in `manifest.json`.

    Whoever writes into a sealed folder seals it again.

    Raises:
        WriteError, OSError: the disk is full, read-only or broken.
    """
    files = {}
    for name in _files(folder):
        path = folder / name
        readable_as_usual(path)
        flush_to_disk(path)
        files[name] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
    for inner in filter(Path.is_dir, folder.rglob("*")):
        flush_to_disk(inner)
    write_json(folder / MANIFEST, {"files": files})
    flush_to_disk(folder)


def verify(folder: Path) -> bool:
    """Compare everything below `folder` with its manifest.

    Returns:
        whether there is one: without, nothing is known of the files.

    Raises:
        Damaged: a file is missing, was not there, or is not what it was.
        OSError: a file cannot be read.
    """
    manifest = folder / MANIFEST
    if not manifest.exists():
        return False
    sealed = _read(manifest)
    found = set(_files(folder))
    for name in sorted(sealed.keys() | found):
        if name not in found:
            raise Damaged(f"{name} is missing")
        if name not in sealed:
            raise Damaged(f"{name} was not there when it was saved")
        size = (folder / name).stat().st_size
        if size != sealed[name][0]:
            raise Damaged(f"{name}: {size:,} bytes instead of {sealed[name][0]:,}")
    for name, (_, digest) in sealed.items():  # the long look last: sizes are known at once
        if _digest(folder / name) != digest:
            raise Damaged(f"{name}: its checksum differs")
    return True


def _files(folder: Path) -> Iterator[str]:
    """Relative paths of all files below a folder, but for its manifest and what is hidden.

    Hidden files are left by file browsers and network file systems; nothing here reads them.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if name != MANIFEST and not hidden and not path.is_dir():
            yield name


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(manifest: Path) -> dict[str, tuple[int, str]]:
    """Size and digest of the files of a manifest, by name.

    Raises:
        Damaged: it is none.
    """
    try:
        files = json.loads(manifest.read_bytes())["files"]
        return {str(name): (int(facts["bytes"]), str(facts["sha256"])) for name, facts in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged(f"{MANIFEST} cannot be read") from None
