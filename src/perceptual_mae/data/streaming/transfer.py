"""Fetching what may fail: again after a while, from where it broke off, and never for ever."""

import errno
import hashlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from perceptual_mae.data.streaming import anywhere, web
from perceptual_mae.data.streaming.address import is_http, shown
from perceptual_mae.data.streaming.reply import Facts, Lost, Refused, Reply
from perceptual_mae.data.streaming.settings import StreamSettings
from perceptual_mae.errors import PmaeError, system_words

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
_PROGRESS = 2**20
"""Bytes that count as progress: an attempt that brought as many is not one in vain."""
_BLOCK = 2**20
_SAID = 3
"""Attempts in vain after which it is said that something is waited for."""
Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


class Unavailable(PmaeError):  # noqa: N818 (what it says is true of the place, not of the program)
    """Something could not be fetched; one line with where it is and why.

    Attributes:
        reason: why, without where.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{shown(url)}: {reason}")
        self.reason = reason


def facts(url: str, settings: StreamSettings) -> Facts:
    """Size and version of a file elsewhere. Raises Unavailable."""
    ask = web.facts if is_http(url) else anywhere.facts
    return _persistently(url, settings, lambda: ask(url, settings.timeout))


def read_all(url: str, settings: StreamSettings, most: int = 2**28) -> bytes:
    """A small file. Raises Unavailable, also where it has more than `most` bytes."""
    data = read_range(url, 0, None, settings, most + 1)
    if len(data) > most:
        raise Unavailable(url, f"larger than {most} bytes")
    return data


def read_range(url: str, start: int, stop: int | None, settings: StreamSettings, most: int | None = None) -> bytes:
    """The bytes `start .. stop` (None: to the end, or `most` of them), in memory. Raises Unavailable."""
    data = bytearray()

    def attempt() -> bytes:
        before = len(data)
        try:
            with _reply(url, start + before, stop, "", settings.timeout) as reply:
                if reply.start < start + before:  # a server without ranges: what is before is thrown away
                    del data[:]
                unwanted = start + len(data) - reply.start
                for chunk in reply.chunks:
                    skipped = min(unwanted, len(chunk))
                    unwanted -= skipped
                    data.extend(chunk[skipped:])
                    if len(data) >= (most if most is not None else (stop or 2**62) - start):
                        break
                end = min(filter(None, (stop, reply.size)), default=None)
        except Lost as lost:
            raise _with_progress(lost, len(data) - before) from None
        if end is not None and len(data) < min(end - start, most or 2**62):
            raise _with_progress(Lost("the connection broke off"), len(data) - before)
        return bytes(data if stop is None else data[: stop - start])

    return _persistently(url, settings, attempt)


def download(
    url: str,
    path: Path,
    settings: StreamSettings,
    *,
    size: int | None = None,
    md5: str | None = None,
    version: str = "",
    room: Callable[[], None] = lambda: None,
) -> None:
    """Write a file from elsewhere to `path`, going on with what is there already.

    Args:
        size: bytes that it must have; None: those that the server says.
        md5: that it must have, in hexadecimal; None: unknown.
        version: see `Facts`: what `path` holds belongs to this version.
        room: called when the disk is full, to make some.

    Raises:
        Unavailable: after all attempts, or where no attempt can help; what was fetched stays in `path`.
    """
    furthest = path.stat().st_size if path.exists() else 0

    def attempt() -> None:
        nonlocal furthest
        try:
            _continue(url, path, settings, size, version)
        except Lost as lost:
            reached = path.stat().st_size if path.exists() else 0
            gained, furthest = reached - furthest, max(furthest, reached)
            raise _with_progress(lost, gained) from None
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                room()
                raise Lost("no room left: --loader.cache names the folder, --loader.cache-gib its size") from None
            raise Refused(system_words(error)) from None
        if md5 is not None and md5_of(path) != md5.lower():
            path.unlink()
            raise Lost("damaged on the way: its MD5 is not the one in index.json")

    _persistently(url, settings, attempt)


def _continue(url: str, path: Path, settings: StreamSettings, size: int | None, version: str) -> None:
    """One attempt. Raises Lost, Refused, OSError."""
    with open(path, "ab") as file:
        if size is not None and file.tell() >= size:
            if file.tell() > size:
                file.truncate(0)
                file.seek(0)  # truncating moves nothing, and what is asked for starts here
            elif size:
                return
        with _reply(url, file.tell(), None, version, settings.timeout) as reply:
            if reply.size is not None and size is not None and reply.size != size:
                raise Refused(f"it has {reply.size} bytes, but should have {size}")
            if reply.start != file.tell():
                file.truncate(reply.start)
                file.seek(reply.start)
            _write(reply, file)
            wanted = size if size is not None else reply.size
            if wanted is not None and file.tell() < wanted:
                raise Lost(f"the connection broke off after {file.tell()} of {wanted} bytes")


def _write(reply: Reply, file: BinaryIO) -> None:
    try:
        for chunk in reply.chunks:
            file.write(chunk)
            if reply.size is not None and file.tell() > reply.size:
                raise Refused(f"more bytes came than the {reply.size} that were announced")
    finally:
        file.flush()


@contextmanager
def _reply(url: str, start: int, stop: int | None, version: str, timeout: float) -> Iterator[Reply]:
    read = web.read if is_http(url) else anywhere.read
    with read(url, start, stop, version, timeout) as reply:
        yield reply


class _Progress(Lost):
    """Lost, but not in vain."""


def _with_progress(lost: Lost, gained: int) -> Lost:
    return _Progress(str(lost), lost.after) if gained >= _PROGRESS else lost


def _persistently(url: str, settings: StreamSettings, attempt: Callable[[], Answer]) -> Answer:
    """`attempt`, and again while it is lost: waits grow, and vary so that a thousand workers do not come at once."""
    in_vain = 0
    while True:
        try:
            return attempt()
        except Refused as refused:
            raise Unavailable(url, str(refused)) from None
        except Lost as lost:
            in_vain = 0 if isinstance(lost, _Progress) else in_vain + 1
            if in_vain > settings.retries:
                tries = f" ({in_vain} attempts)" if in_vain > 1 else ""
                raise Unavailable(url, f"{lost}{tries}") from None
            longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** max(0, in_vain - 1))
            if in_vain == _SAID:
                _log.warning("%s: %s; trying again", shown(url), lost)
            # Not from a seeded stream: when a connection is tried again changes nothing of what is trained.
            time.sleep(max(random.uniform(longest / 2, longest), min(lost.after, 2 * _LONGEST_WAIT)))


def md5_of(path: Path) -> str:
    """The MD5 of a file, in hexadecimal. Raises OSError."""
    found = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
