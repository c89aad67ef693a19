"""Paths as people type them."""

import errno
import os
import re
from pathlib import Path

from perceptual_mae.errors import UsageError, printable


def user_path(text: Path | str) -> Path:
    """A path that somebody typed, with `~` for their home; whether there is anything at it is another question.

    Raises:
        UsageError: no file can have this name, or a folder on the way to it may not be entered: `Path.exists` would
            raise what is no sentence to anybody.
    """
    path = Path(text)
    try:
        path = Path(os.path.expanduser(text))  # unlike `Path.expanduser`, leaves `~x` alone where there is no user x
        os.stat(path)  # also of what a link leads to
    except ValueError:  # a zero byte, or half a character
        raise UsageError(f"{printable(str(text))[:80]}: no file or folder can have this name") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"{printable(str(text))[:80]}...: this name is too long for a file or folder") from None
        if error.errno == errno.EACCES:
            raise UsageError(
                f"{printable(str(text))}: permission denied; change the permissions of the folders on the way to it"
            ) from None
    return path


def folder_name(spec: str) -> str:
    """A folder's name for what somebody typed: like it, of letters that no file system objects to, and not too long."""
    return re.sub(r"[^\w.-]+", "-", spec).strip("-.")[-100:] or "encoder"


def cache_folder(what: str) -> Path:
    """Where the user's cache of something is: `$XDG_CACHE_HOME/perceptual-mae/WHAT`, usually below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "perceptual-mae" / what
