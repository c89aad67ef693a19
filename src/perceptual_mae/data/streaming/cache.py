"""A folder of fetched files that many processes share: each is fetched once, and the longest unused make room."""

import errno
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from perceptual_mae.errors import PmaeError, system_words
from perceptual_mae.files import flush_to_disk, locked_by_another, write_json

_ABANDONED = 86400.0
"""Seconds after which nobody will go on with half a file."""


class Held:
    """A file of the cache that stays while this is open: the lock on it tells other processes so.

    The lock is the kernel's, and ends with the process however it dies.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor

    def close(self) -> None:
        """Let it go."""
        if self.descriptor >= 0:
            # Closed and not unlocked: a forked process may hold the same lock.
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()


class Cache:
    """Files by key in a folder of at most `limit` bytes, what is in use and what is on its way apart.

    Raises:
        PmaeError: (from every method) the folder cannot be written, or its file system has no locks.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        with says_where(folder):
            (folder / "locks").mkdir(parents=True, exist_ok=True)
            (folder / "notes").mkdir(exist_ok=True)
            descriptor = os.open(folder / "locks" / "room", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if not locked_by_another(error):  # without locks, two processes would write into one file
                words = f"this file system cannot lock files ({system_words(error)}): name a folder on a local disk"
                raise PmaeError(f"--loader.cache {folder}: {words}") from None
        finally:
            os.close(descriptor)

    def hold(self, name: str) -> Held | None:
        """The file `name`, marked as used just now; None where it is not there."""
        path = self.folder / name
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return None
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            with suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                    with suppress(PermissionError):  # a cache that another user filled
                        os.utime(descriptor)
                    return Held(path, descriptor)
            os.close(descriptor)  # thrown out between opening and locking it

    def fill(self, name: str, need: int, write: Callable[[Path], None], *, wait: bool = True) -> Held | None:
        """The file `name`, made by `write` if it is not there; other processes that want it wait.

        Args:
            need: bytes it will take, as far as known.
            write: fills a temporary file, which may hold what an earlier attempt left.
            wait: False gives None at once while another process makes it.
        """
        held = self.hold(name)
        if held is not None:
            return held
        with self._alone(name, wait) as mine:
            if not mine:
                return None
            held = self.hold(name)
            if held is not None:
                return held
            self.make_room(need)
            part = self.folder / f"{name}.part"
            write(part)
            with says_where(self.folder):
                flush_to_disk(part)
                # Held before it has its name: from then on others may throw out what nobody holds.
                held = Held(self.folder / name, os.open(part, os.O_RDONLY))
                fcntl.flock(held.descriptor, fcntl.LOCK_SH)
                part.replace(held.path)
        self.make_room(0)
        return held

    def make_room(self, need: int) -> None:
        """Throw out what has not been used for longest until `need` more bytes fit, or all that is left is in use."""
        with self._alone("room", wait=True):
            files = sorted(self._files(), key=lambda entry: entry[1].st_mtime)
            total = sum(status.st_size for _, status in files)
            for path, status in files:
                abandoned = path.suffix == ".part" and time.time() - status.st_mtime > _ABANDONED
                if abandoned or (total + need > self.limit and path.suffix != ".part"):
                    total -= status.st_size if _thrown_out(path) else 0

    def clear(self) -> None:
        """Throw out everything that is not in use: the disk is full."""
        self.make_room(2**62)

    # -- notes: small facts that are costly to find out ----------------------------------------------------------------

    def note(self, key: str) -> Any:
        """What was noted under a key, a JSON value; None where nothing was, or it cannot be read."""
        try:
            return json.loads(self._note(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write_note(self, key: str, value: Any) -> None:
        """Note something for later and for other processes."""
        path = self._note(key)
        with says_where(self.folder):
            # Under a name of this thread's own first: others may be noting the same.
            write_json(path.with_suffix(f".{os.getpid()}-{threading.get_ident()}"), value).replace(path)

    def _note(self, key: str) -> Path:
        return self.folder / "notes" / f"{key}.json"

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        yield Path(entry.path), entry.stat()

    @contextmanager
    def _alone(self, name: str, wait: bool) -> Iterator[bool]:
        """Whether this is now the only one, of all processes and threads, that works on `name`.

        There are 4096 locks for all names: a file for each would be left behind by each. Two names that share one wait
        for each other, which harms nobody, as nobody takes a second name while having one ("room" has its own).
        """
        lock = "room" if name == "room" else hashlib.sha256(name.encode()).hexdigest()[:3]
        with says_where(self.folder):
            descriptor = os.open(self.folder / "locks" / lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                # Said, and not left to closing: a process that was forked meanwhile has it open, too.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)


def _thrown_out(path: Path) -> bool:
    """Remove a file of the cache unless somebody holds it; whoever is about to, waits, and sees that it has gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except OSError:  # in use, or not ours
        return False
    finally:
        os.close(descriptor)


@contextmanager
def says_where(folder: Path) -> Iterator[None]:
    """What the system does not let us write becomes a PmaeError that names the setting."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise PmaeError(f"--loader.cache {folder}: no room left on its disk") from None
        raise PmaeError(f"--loader.cache {folder}: {error.strerror or error}") from None
