"""Bytes from what fsspec knows (`s3://`, `gs://`, `hf://`, ...), with a limit on every wait."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from perceptual_mae.data.streaming.reply import Facts, Lost, Refused, Reply
from perceptual_mae.errors import PmaeError, UsageError

_FIRST, _LARGEST = 2**15, 2**23
"""Bytes asked for at once, to begin with and at most. A part that does not come within the time limit is lost: the
first is so small that it comes, within the default limit, at 2 KiB/s."""
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "oci": "ocifs",
    "webdav": "webdav4",
}
Answer = TypeVar("Answer")


def file_system(url: str, timeout: float) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it. A new process needs to ask anew: fsspec's do not survive fork.

    Raises:
        PmaeError: a package is missing; the message names it.
        UsageError: nobody knows this kind of URL.
    """
    import fsspec

    kind = url.split("://", 1)[0].lower()
    options: dict[str, Any] = {}
    if kind in {"s3", "s3a"}:
        options["config_kwargs"] = {"connect_timeout": timeout, "read_timeout": timeout}
    try:
        return fsspec.core.url_to_fs(url, **options)
    except ImportError:
        package = _PACKAGES.get(kind, "the one that fsspec names for it")
        raise PmaeError(f"{kind}:// needs a package that is not installed: pip install {package}") from None
    except ValueError as error:
        raise UsageError(f"{kind}:// is no kind of address that is known ({first_words(error)})") from None


@contextmanager
def read(url: str, start: int, stop: int | None, version: str, timeout: float) -> Iterator[Reply]:
    """See `web.read`. A file whose version has changed is given from its beginning."""
    system, path = file_system(url, timeout)
    found = facts(url, timeout)
    first = start if not version or version == found.version else 0
    last = found.size if stop is None else min(stop, found.size)

    def chunks() -> Iterator[bytes]:
        at, size = first, _FIRST
        while at < last:
            end = min(at + size, last)
            begun = time.monotonic()
            part = within(timeout, lambda at=at, end=end: system.cat_file(path, start=at, end=end))  # type: ignore[misc]
            took = time.monotonic() - begun
            yield part
            if len(part) < end - at:
                return
            at = end
            if took < timeout / 16:  # the next, four times as large, takes at most a quarter of the limit
                size = min(4 * size, _LARGEST)
            elif took > timeout / 2:
                size = max(size // 4, _FIRST)

    yield Reply(first, found.size, found.version, chunks())


def facts(url: str, timeout: float) -> Facts:
    """See `web.facts`."""
    system, path = file_system(url, timeout)

    def ask() -> dict[str, Any]:
        system.invalidate_cache()
        return dict(system.info(path))

    info = within(timeout, ask)
    if info.get("size") is None:
        raise Refused("it is no file, or does not say how large it is")
    tags = (info.get(name) for name in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created"))
    return Facts(int(info["size"]), next((str(tag) for tag in tags if tag), ""))


def listing(pattern: str, timeout: float) -> list[str]:
    """The files that a pattern with `*` matches, as URLs, sorted."""
    system, path = file_system(pattern, timeout)
    return sorted(system.unstrip_protocol(found) for found in within(timeout, lambda: system.glob(path)))


def within(seconds: float, action: Callable[[], Answer]) -> Answer:
    """What `action` returns, if it does so in time: it runs in a thread that is forgotten where it hangs.

    Raises:
        Lost, Refused: it takes too long, or fails.
    """
    box: queue.SimpleQueue[Answer | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            box.put(action())
        except Exception as error:  # every file system has errors of its own: handed over, and sorted below
            box.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        answer = box.get(timeout=seconds)
    except queue.Empty:
        raise Lost(f"no answer for {seconds:g} s") from None
    if isinstance(answer, (FileNotFoundError, PermissionError, IsADirectoryError)):
        raise Refused(answer.strerror.lower() if answer.strerror else _REASONS[type(answer)]) from None
    if isinstance(answer, Exception):
        raise Lost(first_words(answer)) from None
    return answer


_REASONS: dict[type, str] = {
    FileNotFoundError: "no such file",
    PermissionError: "permission denied",
    IsADirectoryError: "it is a folder",
}


def first_words(error: Exception) -> str:
    """An error on one line, never empty."""
    return " ".join(str(error).split())[:200] or type(error).__name__
