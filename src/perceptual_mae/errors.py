"""Errors that speak to the user: one line that names the file or flag and says what to do."""

import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from perceptual_mae.credentials import without_credentials


class PmaeError(Exception):
    """A failure the user should read as one line, without a traceback. The command ends with exit code 1.

    One line it is whatever the names in it hold, and no password or signature of an address is in it: lines of errors
    are logged, and sent to whoever may help.
    """

    exit_code = 1

    def __str__(self) -> str:
        return printable(" ".join(without_credentials(super().__str__()).splitlines()))


class UsageError(PmaeError):
    """A flag, setting or argument that cannot be right. The command ends with exit code 2."""

    exit_code = 2


_REMEDIES = {
    errno.ENOSPC: "make space there",
    errno.EDQUOT: "make space in your quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EACCES: "change its permissions",
    errno.EIO: "the disk or the way to it fails: the system's log says more",
}
"""What a person can do when the system refuses to write, by its number of the error."""


class WriteError(PmaeError, OSError):
    """A file or folder that the system does not let us write: a full disk, a quota, one that is read-only or broken.

    It is an `OSError` too, with that error's `errno`, for whoever has something better to say.

    Args:
        path: what could not be written.
        number: the system's number of the error, if it has one.
        reason: the system's words.
    """

    def __init__(self, path: Path | str, number: int | None, reason: str) -> None:
        OSError.__init__(self, number, reason, str(path))
        remedy = _REMEDIES.get(number or 0)
        self._line = f"{path} cannot be written: {reason.lower()}" + (f"; {remedy}" if remedy else "")

    def __str__(self) -> str:
        return printable(self._line)


def system_words(error: OSError) -> str:
    """What the system says of an error, as the end of a line."""
    return (error.strerror or str(error)).lower()


@contextmanager
def refused_by_system(what: str) -> Iterator[None]:
    """Whatever the system refuses within becomes one line about `what`; what is one line already passes.

    Raises:
        PmaeError: in the place of an `OSError`.
    """
    try:
        yield
    except PmaeError:
        raise
    except OSError as error:
        raise PmaeError(f"{what}: {system_words(error)}") from error


@contextmanager
def said_of(flag: str, usual: str = "--data") -> Iterator[None]:
    """What is said within of the flag `usual` is said of the one that the user typed."""
    try:
        yield
    except PmaeError as error:
        if not isinstance(error, OSError):  # which is about a file
            error.args = (re.sub(rf"{re.escape(usual)}(?![\w-])", flag, str(error), count=1),)
        raise


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest known word, if any is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def printable(text: str) -> str:
    """A file name, or whatever a file holds, on one line that any terminal can show: other characters are escaped."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
