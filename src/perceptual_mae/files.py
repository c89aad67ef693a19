"""Files that are either whole or not there: written under a temporary name, flushed, and renamed."""

import errno
import fcntl
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perceptual_mae.errors import PmaeError, WriteError, refused_by_system, system_words

_log = logging.getLogger(__name__)
_UMASK = os.umask(0o077)
# Asking sets it, for every thread of the process: so it is asked here, once, before there are threads.
os.umask(_UMASK)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever says within that the system does not let us write becomes one line about `path`.

    Raises:
        WriteError: in the place of an `OSError`, of a `SafetensorError` that wraps one, or of the `RuntimeError` with
            which `torch.save` covers one. Everything else passes.
    """
    outer = sys.exception()  # what is being handled already has nothing to do with this
    try:
        yield
    except PmaeError:
        raise  # it says already what it is
    except Exception as error:
        found = _system_error(error, outer)
        if found is None:
            raise
        raise WriteError(path, *found) from error


@contextmanager
def if_possible() -> Iterator[None]:
    """For files that training can do without: that one cannot be written is a warning, and nothing else.

    Not even that where something worse is being told: one line is what a person reads.
    """
    worse = sys.exception() is not None
    try:
        yield
    except WriteError as error:
        if not worse:
            _log.warning("%s (training does not need it, and goes on)", error)


def _system_error(error: BaseException | None, outer: BaseException | None) -> tuple[int | None, str] | None:
    """Number and words of the `OSError` that an exception is, wraps, or came from."""
    while error is not None and error is not outer:
        if isinstance(error, OSError):
            return error.errno, error.strerror or str(error)
        if wrapped := re.search(r"([^:]+) \(os error (\d+)\)$", str(error)):  # as the Rust of safetensors says it
            return int(wrapped[2]), wrapped[1].strip()
        error = error.__cause__ or error.__context__
    return None


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then put it in place: a crash leaves the old file or the new.

    Returns:
        `path`.

    Raises:
        WriteError: the disk is full, read-only or broken; the old file is as it was, and no half of the new one stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
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
    # From line to line: within a string there is no line break.
    text = re.sub(r"\[\n\s*([-+\d.eE,\s]+?)\n\s*\]", lambda numbers: f"[{' '.join(numbers[1].split())}]", text)
    return write_text(path, text + "\n")


def append_text(path: Path, text: str) -> None:
    """Add `text` to the end of a file, all of it or nothing.

    Raises:
        WriteError: the disk is full, read-only or broken; the file is as it was.
    """
    with writing(path), path.open("ab", buffering=0) as file:
        end, rest = file.tell(), memoryview(text.encode())
        try:
            while rest:  # a disk takes what still fits before it says that it is full
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(end)
            raise


def readable_as_usual(path: Path) -> None:
    """Give a file the permissions that `open` would have given it: what safetensors writes only its owner can read."""
    path.chmod(0o666 & ~_UMASK)


@contextmanager
def alone(lock: Path, where: str) -> Iterator[None]:
    """Within, no other process holds `lock`, a file that is made for it; the kernel lets go of it with the process.

    On a file system without locks, a warning.

    Args:
        lock: the file; its folder is made.
        where: what is written within, as a user names it.

    Raises:
        PmaeError: another process has it, or the file cannot be made.
    """
    with refused_by_system(where):
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    with open(lock, "r+", encoding="ascii") as file:
        try:
            # Data workers do not inherit this kind of lock: they may outlast the process.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if locked_by_another(error):
                raise PmaeError(f"{where}: another process is writing it") from None
            reason = system_words(error)
            _log.warning("%s: this file system cannot lock files (%s): let no other process write it", where, reason)
        yield


def locked_by_another(error: OSError) -> bool:
    """Whether a lock was refused because somebody has it: some file systems, on networks, have no locks at all."""
    return error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def flush_to_disk(path: Path) -> None:
    """`fsync` a file or a folder, so that a rename after it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
