"""One WebDataset shard: written from images of a source, whole or not at all, and known again after a kill."""

import io
import json
import os
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from perceptual_mae.data.decode import decode, read_bytes
from perceptual_mae.data.streaming.tar import find_images
from perceptual_mae.data.streaming.transfer import md5_of
from perceptual_mae.data.types import BrokenImage, Item, Skip
from perceptual_mae.errors import PmaeError, system_words
from perceptual_mae.files import write_atomically, write_json

_STARTS = (
    (b"\xff\xd8\xff", 0, "jpg"),
    (b"\x89PNG\r\n\x1a\n", 0, "png"),
    (b"WEBP", 8, "webp"),
    (b"GIF8", 0, "gif"),
    (b"BM", 0, "bmp"),
    (b"II*\0", 0, "tif"),
    (b"MM\0*", 0, "tif"),
    (b"II+\0", 0, "tif"),
    (b"MM\0+", 0, "tif"),
    (b"ftypavif", 4, "avif"),
    (b"\0\0\0\x0cjP  ", 0, "jp2"),
    (b"\x93NUMPY", 0, "npy"),
    (b"P5", 0, "pgm"),
    (b"P6", 0, "ppm"),
)
"""First bytes of the formats that `decode` reads, where in the file they are, and the suffix."""
_PNG = frozenset({1, 3, 4})


@dataclass(frozen=True)
class ShardRecord:
    """A shard that is finished.

    Attributes:
        url: its file name.
        nsamples: images in it.
        filesize: in bytes.
        md5sum: in hexadecimal.
        skipped: images that were left out, and why.
    """

    url: str
    nsamples: int
    filesize: int
    md5sum: str
    skipped: list[Skip]

    @property
    def entry(self) -> dict[str, Any]:
        """What an index says of it."""
        return {name: value for name, value in asdict(self).items() if name != "skipped" or value}


def write_shard(
    path: Path, items: Iterable[tuple[int, Item]], *, labelled: bool, check: bool, channels: int, max_pixels: int
) -> ShardRecord:
    """Write a shard, and beside it a note that it is finished.

    Args:
        path: the shard.
        items: images with their numbers, which become their keys.
        labelled: write a `.cls` beside each image that has a label.
        check: decode each image, and leave out what is broken; else only what cannot be read or has no known format.
        channels, max_pixels: what `decode` is to make of them.

    Raises:
        WriteError: the disk is full or broken.
    """
    skipped: list[Skip] = []
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, item in items:
                try:
                    data, suffix = encoded(item.data)
                    if check:
                        decode(data, channels, max_pixels)
                except BrokenImage as broken:
                    skipped.append(Skip(item.name, str(broken)))
                    continue
                _add(tar, f"{number:09d}.{suffix}", data)
                if labelled and item.label >= 0:
                    _add(tar, f"{number:09d}.cls", str(item.label).encode("ascii"))
                count += 1

    write_atomically(path, write)
    record = ShardRecord(path.name, count, path.stat().st_size, md5_of(path), skipped)
    write_json(note_of(path), asdict(record))
    return record


def finished(path: Path) -> ShardRecord | None:
    """What an earlier process noted of a shard, if the file is still what it wrote."""
    try:
        noted = json.loads(note_of(path).read_text(encoding="utf-8"))
        record = ShardRecord(**{**noted, "skipped": [Skip(**skip) for skip in noted["skipped"]]})
        same = record.filesize == path.stat().st_size and record.md5sum == md5_of(path)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return record if same else None


def note_of(path: Path) -> Path:
    """The note beside a shard that is finished, while others are not."""
    return path.with_name(f".{path.name}.json")


def verify(path: Path, samples: int) -> None:
    """Read the headers of a shard.

    Raises:
        PmaeError: it does not hold so many images.
    """
    try:
        with open(path, "rb") as file:
            found = find_images(file.fileno())
    except OSError as error:
        raise PmaeError(f"{path}: {system_words(error)}") from None
    if found.problem or len(found) != samples:
        raise PmaeError(
            f"{path} holds {len(found)} images, not {samples} ({found.problem or 'changed since'}): "
            "remove it and repeat the command"
        )


def encoded(data: bytes | Path | Tensor | BrokenImage) -> tuple[bytes, str]:
    """An image as a file, and the suffix that its first bytes say; what is encoded already stays as it is.

    Raises:
        BrokenImage: there is none, or of no known format.
    """
    if isinstance(data, BrokenImage):
        raise data
    if isinstance(data, Tensor):
        return _encode(data)
    if isinstance(data, Path):
        data = read_bytes(data)
    if not data:
        raise BrokenImage("empty")
    for start, at, suffix in _STARTS:
        if data[at : at + len(start)] == start:
            return data, suffix
    raise BrokenImage(f"of no format that is known: it starts with {data[:8]!r}")


def _encode(image: Tensor) -> tuple[bytes, str]:
    """`(C, H, W)` uint8 to PNG, or to `.npy` where PNG has no such number of channels."""
    out, pixels = io.BytesIO(), image.permute(1, 2, 0).numpy()
    if image.shape[0] not in _PNG:
        np.save(out, image.numpy())
        return out.getvalue(), "npy"
    Image.fromarray(pixels[:, :, 0] if image.shape[0] == 1 else np.ascontiguousarray(pixels)).save(out, "PNG")
    return out.getvalue(), "png"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """No owner and no time: the same images give the same bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


def remove_notes(paths: Iterable[Path]) -> None:
    """An index has taken their place."""
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(note_of(path))


def restore_notes(folder: Path, entries: Iterable[dict[str, Any]]) -> None:
    """The inverse, from the entries of an index: a command that is repeated checks its shards by them."""
    for entry in entries:
        if not note_of(folder / entry["url"]).exists():
            write_json(note_of(folder / entry["url"]), {"skipped": [], **entry})
