"""Features on disk, under a name that says what they were computed from: nothing is computed twice.

An entry is a folder: `vectors.npy`, a float16 memory map, and `images.jsonl`, a line a batch with its labels, names and
broken images. Each line starts with a check sum of everything up to it, vectors included. So what a killed process left
is taken up after its last whole batch, and what a disk has damaged is found.
"""

import fcntl
import hashlib
import io
import json
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from perceptual_mae.data import BrokenImage, Skip, Source
from perceptual_mae.errors import PmaeError, system_words
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.paths import cache_folder

LOOKED_AT = 100_000
"""Images of a source that its digest looks at, evenly spread; of fewer, all."""
VECTORS, IMAGES = "vectors.npy", "images.jsonl"


def default_cache() -> Path:
    """The folder of the user's features."""
    return cache_folder("features")


# -- what features depend on -------------------------------------------------------------------------------------------


def weights_digest(encoder: Encoder) -> str:
    """SHA-256 of what an encoder computes with: its layers, their weights, mean and std. Not of its name."""
    # Layers print their sizes and settings, except for the number of heads.
    heads = [getattr(module, "num_heads", None) for module in encoder.network.modules()]
    sha = hashlib.sha256(f"{encoder.network!r} {heads} {encoder.image_size}".encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def images_digest(source: Source) -> str:
    """SHA-256 of the images of a source and their labels, in order.

    A source's own fingerprint does not see that files were replaced under their names, or labels corrected. Here the
    sizes and times of files count, and the contents of images that do not lie in files of their own.
    """
    count = len(source)
    sha = hashlib.sha256(f"{source.fingerprint()} {count} {source.classes}".encode())
    for index in np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(np.int64)).tolist():
        item = source[index]
        sha.update(f"{item.name} {item.label} {_state(item.data)}\n".encode("utf-8", "surrogateescape"))
    return sha.hexdigest()


def _state(data: bytes | Path | Tensor | BrokenImage) -> tuple[int, int]:
    """Size of an image, and the time of its file or a check sum."""
    if isinstance(data, Path):
        try:
            found = data.stat()
        except OSError:  # reported as a broken image
            return -1, 0
        return found.st_size, found.st_mtime_ns
    if isinstance(data, BrokenImage):
        return -1, 0
    content = data if isinstance(data, bytes) else data.contiguous().numpy().tobytes()
    return len(content), zlib.crc32(content)


# -- entries -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """What is known of a batch beside its vectors.

    Attributes:
        images: how many of the source's were looked at, broken ones too.
        labels, names: one for each vector.
        skipped: the broken images.
    """

    images: int
    labels: list[int]
    names: list[str]
    skipped: list[Skip]


Stored = tuple[np.ndarray, list[Line]]
"""Vectors `(rows, width)` float16 and the batches that they came in."""


def load(cache: Path, key: str, width: int, images: int) -> Stored | None:
    """Features that are in the cache, or None: no whole entry of `images` images is there, or it is damaged."""
    folder = cache / key
    with _said(cache):
        if not folder.is_dir():
            return None
        found = _whole_batches(folder, width)
        rows = sum(len(line.labels) for line in found.lines)
        try:
            vectors = np.load(folder / VECTORS, mmap_mode="r")
        except (OSError, ValueError):  # a header that is none, or more rows than there are bytes
            return None
        as_expected = vectors.dtype == np.float16 and vectors.shape == (rows, width)
        complete = sum(line.images for line in found.lines) == images
        return (vectors, found.lines) if as_expected and complete else None


class Growing:
    """An entry that grows batch by batch. Use as a context manager: nobody else can write it meanwhile.

    Another process that is computing the same features is waited for; see with `load` what it has left.

    Args:
        cache: the folder of all entries, made where it is missing.
        key: name of the entry.
        width: numbers a vector.

    Attributes:
        lines: the batches that are there already, from an attempt that was cut off.

    Raises:
        PmaeError: (from any method) the folder cannot be written.
    """

    def __init__(self, cache: Path, key: str, width: int) -> None:
        self.cache, self.key, self.width = cache, key, width
        self.lines: list[Line] = []
        self._folder = cache / f"{key}.part"
        self._files: list[BinaryIO] = []
        self._check = 0

    def __enter__(self) -> "Growing":
        with _said(self.cache):
            self.cache.mkdir(parents=True, exist_ok=True)
            lock = open(self.cache / f"{self.key}.lock", "wb")
            self._files.append(lock)
            # The kernel lets go of it when this process dies. Data workers do not inherit this kind of lock.
            fcntl.lockf(lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: object) -> None:
        for file in reversed(self._files):
            file.close()
        self._files.clear()

    def resume(self) -> int:
        """Take up what is there: the whole batches stay, the rest is cut off.

        Returns:
            how many of the source's images are done.
        """
        with _said(self.cache):
            self._folder.mkdir(exist_ok=True)
            found = _whole_batches(self._folder, self.width)
            self.lines, self._check = found.lines, found.check
            for name, end in ((VECTORS, found.vectors_end), (IMAGES, found.images_end)):
                file = open(self._folder / name, "ab", buffering=0)  # noqa: SIM115 (closed by __exit__)
                self._files.append(file)
                file.truncate(end)
            if not self.lines:
                self._files[1].write(_header(0, self.width))
        return sum(line.images for line in self.lines)

    def append(self, vectors: np.ndarray, line: Line) -> None:
        """Add a batch of vectors, `(rows, width)` float16."""
        content, body = vectors.astype("<f2", copy=False).tobytes(), json.dumps(asdict(line)).encode()
        self._check = zlib.crc32(body, zlib.crc32(content, self._check))
        _, vectors_file, images_file = self._files
        with _said(self.cache):
            _write(vectors_file, content)
            _write(images_file, b"%08x %s\n" % (self._check, body))
        self.lines.append(line)

    def finish(self) -> Stored:
        """Put the whole entry in its place, in that of a damaged one if need be."""
        rows = sum(len(line.labels) for line in self.lines)
        with _said(self.cache):
            with open(self._folder / VECTORS, "r+b") as file:
                file.write(_header(rows, self.width))
            whole = self.cache / self.key
            if whole.exists():  # readers keep the files that they have open
                shutil.rmtree(whole)
            self._folder.rename(whole)
            return np.load(whole / VECTORS, mmap_mode="r"), self.lines


def _write(file: BinaryIO, content: bytes) -> None:
    """All of `content` to an unbuffered file, which may take it in parts."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _header(rows: int, width: int) -> bytes:
    """The start of a `.npy` file; of one length for every number of rows (NumPy leaves room for arrays that grow)."""
    file = io.BytesIO()
    shape: dict[str, Any] = {"descr": "<f2", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(file, shape)
    return file.getvalue()


@dataclass(frozen=True)
class _Batches:
    """The batches of an entry, up to the first that is not whole: where they end in either file, and the check sum."""

    lines: list[Line]
    vectors_end: int
    images_end: int
    check: int


def _whole_batches(folder: Path, width: int) -> _Batches:
    lines: list[Line] = []
    check, images_end = 0, 0
    try:
        with open(folder / VECTORS, "rb") as vectors, open(folder / IMAGES, "rb") as images:
            vectors_end = vectors.seek(len(_header(0, width)))
            for text in images:
                parsed = _parse(text)
                if parsed is None:
                    break
                said, body, line = parsed
                content = vectors.read(2 * width * len(line.labels))
                now = zlib.crc32(body, zlib.crc32(content, check))
                if now != said:
                    break
                check, vectors_end, images_end = now, vectors.tell(), images_end + len(text)
                lines.append(line)
    except FileNotFoundError:
        pass  # an entry that has not begun
    return _Batches(lines, vectors_end if lines else 0, images_end, check)


def _parse(text: bytes) -> tuple[int, bytes, Line] | None:
    """Check sum, JSON and batch of a line; None for one that is cut off or damaged."""
    if not text.endswith(b"\n"):
        return None
    try:
        said, body = int(text[:8], 16), text[9:-1]
        values = json.loads(body)
        skipped = [Skip(**skip) for skip in values.pop("skipped")]
        return said, body, Line(**values, skipped=skipped)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


@contextmanager
def _said(cache: Path) -> Iterator[None]:
    """What the disk refuses, in one line."""
    try:
        yield
    except OSError as error:
        reason = system_words(error)
        raise PmaeError(f"cache of features {cache}: {reason}; make room, or name another folder") from error
