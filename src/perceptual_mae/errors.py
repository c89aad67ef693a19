"""Errors that speak to the user: one line that names the file or flag and says what to do."""

import difflib
from collections.abc import Iterable


class PmaeError(Exception):
    """A failure the user should read as one line, without a traceback. The command ends with exit code 1."""

    exit_code = 1


class UsageError(PmaeError):
    """A flag, setting or argument that cannot be right. The command ends with exit code 2."""

    exit_code = 2


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest known word, if any is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
