"""The images of a WebDataset shard, found by reading its headers; nothing is ever extracted.

Python's `tarfile` takes 45 us a member, this 7 (in one run): a worker comes to a new shard every few seconds.
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from perceptual_mae.data.folder import SUFFIXES

IMAGES = SUFFIXES | {".avif", ".jp2", ".npy", ".pgm", ".ppm", ".pnm"}
_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_REGULAR = frozenset(b"0\x007")
_WITHOUT_DATA = frozenset(b"123456")
"""Links, devices, folders and pipes: a size in their header, if any, is not followed by data."""
_LONGEST_HEADER = 2**20
"""Bytes of an extended header: a name is shorter."""


@dataclass(frozen=True)
class TarImages:
    """Where the images of a tar file are.

    Attributes:
        names: of the members, as they are written there; n.
        offsets: of their data in the file, `(n,)` int64.
        sizes: of their data in bytes, `(n,)` int64.
        problem: why the file could not be read to its end, on one line; empty: it could.
    """

    names: list[bytes]
    offsets: np.ndarray
    sizes: np.ndarray
    problem: str

    def __len__(self) -> int:
        return len(self.names)


class _Member(NamedTuple):
    name: bytes
    offset: int
    size: int


class _Damaged(Exception):  # noqa: N818 (a finding)
    """A tar file ends, or stops making sense."""


def find_images(descriptor: int) -> TarImages:
    """Find the first image of every sample: consecutive regular members with the same name up to its first dot.

    Links, devices and sparse members are no samples, nor are names that start with a dot. Names may be anything
    (absolute, with `..`): they are never used as paths.

    Raises:
        OSError: the disk cannot be read.
    """
    names: list[bytes] = []
    places: list[tuple[int, int]] = []
    problem, last = "", None
    try:
        for member in _members(descriptor):
            folder, slash, base = member.name.rpartition(b"/")
            stem, dot, extension = base.partition(b".")
            suffix = (dot + extension).decode("ascii", "replace").lower()
            key = folder + slash + stem
            if not stem or key == last or suffix not in IMAGES:
                continue
            last = key
            names.append(member.name)
            places.append((member.offset, member.size))
    except _Damaged as damage:
        problem = str(damage)
    table = np.array(places, np.int64).reshape(-1, 2)
    return TarImages(names, table[:, 0].copy(), table[:, 1].copy(), problem)


def find_fields(descriptor: int) -> set[frozenset[str]]:
    """The kinds of samples that there are: what the members of each are called after their first dot, `{"jpg", "cls"}`.

    Of hidden files and those that start with `__` `datasets` makes no samples. A file that is damaged is told as far as
    it can be read.

    Raises:
        OSError: the disk cannot be read.
    """
    kinds: set[frozenset[bytes]] = set()
    fields: set[bytes] = set()
    last = None
    with suppress(_Damaged):
        for member in _members(descriptor):
            folder, slash, base = member.name.rpartition(b"/")
            stem, dot, field = base.partition(b".")
            if not stem or not dot or base.startswith(b"__"):
                continue
            if (key := folder + slash + stem) != last:
                kinds.add(frozenset(fields))
                last, fields = key, set()
            fields.add(field)
    kinds.add(frozenset(fields))
    return {frozenset(map(os.fsdecode, kind)) for kind in kinds if kind}


def is_empty(descriptor: int) -> bool:
    """Whether a tar file ends, with a block of zeros, before its first member.

    Raises:
        OSError: the disk cannot be read.
    """
    return os.pread(descriptor, _BLOCK, 0) == _ZEROS


def _members(descriptor: int) -> Iterator[_Member]:
    """The regular members, in order. Raises _Damaged after the last one that is whole."""
    end, at = os.fstat(descriptor).st_size, 0
    extended: dict[str, bytes] = {}
    while at < end:
        header = os.pread(descriptor, _BLOCK, at)
        if len(header) < _BLOCK:
            raise _Damaged(f"cut short after {end} bytes")
        if header == _ZEROS:
            return
        if not _is_header(header):
            raise _Damaged(f"damaged at byte {at}: no tar header is there")
        kind, stored = header[156], _number(header[124:136])
        at += _BLOCK
        size = stored if kind not in _WITHOUT_DATA else 0
        if kind in b"xL":
            if not 0 <= size <= _LONGEST_HEADER:
                raise _Damaged(f"damaged at byte {at}: an extended header of {size} bytes")
            extended |= _extended(kind, os.pread(descriptor, size, at))
        elif kind not in b"Kg":
            if kind == ord("S"):
                at = _after_sparse_map(descriptor, header, at)
            elif "size" in extended and kind not in _WITHOUT_DATA:
                size = int(extended["size"])
            if size < 0 or at + size > end:
                raise _Damaged(f"cut short after {end} bytes")
            if kind in _REGULAR and "sparse" not in extended:
                yield _Member(extended.get("path") or _name(header), at, size)
            extended = {}
        at += -(-size // _BLOCK) * _BLOCK


def _is_header(block: bytes) -> bool:
    """Whether a block's checksum, the sum of its bytes with blanks in the checksum's own place, is right.

    Adler-32 has that sum, plus 1, modulo 65521 in its lower half, and is thirty times as fast as `sum`.
    """
    blanks = block[:148] + b"        " + block[156:]
    return (zlib.adler32(blanks) & 0xFFFF) == (_number(block[148:156]) + 1) % 65521


def _number(field: bytes) -> int:
    """Octal digits, or GNU's binary for large ones; -1 where it is neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        return -1


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _extended(kind: int, data: bytes) -> dict[str, bytes]:
    """What an extended header says of the member after it: `path`, `size`, and `sparse` where that is not plain."""
    if kind == ord("L"):
        return {"path": data.rstrip(b"\0")}
    found: dict[str, bytes] = {}
    while data:
        length, space, rest = data.partition(b" ")
        if not space or not length.isdigit() or not len(length) + 1 < int(length) <= len(data):
            break
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        if key == b"path" or (key == b"size" and value.isdigit()):
            found[key.decode()] = value
        elif key.startswith(b"GNU.sparse."):
            found["sparse"] = value
        data = data[int(length) :]
    return found


def _after_sparse_map(descriptor: int, header: bytes, at: int) -> int:
    more = header[482]
    while more:
        block = os.pread(descriptor, _BLOCK, at)
        if len(block) < _BLOCK:
            raise _Damaged(f"cut short after {at} bytes")
        more, at = block[504], at + _BLOCK
    return at
