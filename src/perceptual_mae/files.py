"""Files that are either whole or not there: written under a temporary name, flushed, and renamed."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then put it in place: a crash leaves the old file or the new.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        readable_as_usual(temporary)
        flush_to_disk(temporary)
        return temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """A text file, atomically."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> Path:
    """A JSON file, atomically; a list of numbers is one line. NaN and infinity are refused: they are no JSON."""
    text = json.dumps(value, indent=2, allow_nan=False)
    text = re.sub(r"\[\s+([-+\d.eE,\s]+?)\s+\]", lambda numbers: f"[{' '.join(numbers[1].split())}]", text)
    return write_text(path, text + "\n")


def readable_as_usual(path: Path) -> None:
    """Give a file the permissions that `open` would have given it: what safetensors writes only its owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def flush_to_disk(path: Path) -> None:
    """`fsync` a file or a folder, so that a rename after it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
