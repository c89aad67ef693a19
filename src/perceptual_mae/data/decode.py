"""An image as it lies in its source, to a uint8 tensor; whatever cannot be read is a `BrokenImage` with a reason."""

import os
import stat
from pathlib import Path

from torch import Tensor

from perceptual_mae.data.arrays import decode_array
from perceptual_mae.data.channels import ORDINARY, to_channels
from perceptual_mae.data.jpeg import decode_jpeg, is_jpeg
from perceptual_mae.data.pictures import decode_picture
from perceptual_mae.data.types import BrokenImage
from perceptual_mae.errors import system_words

MAX_PIXELS = 100_000_000
"""Largest image decoded by default: a small file can claim to be any size, and would take all memory."""
LARGEST = 2**32
"""Bytes of the largest file that is read: here classic TIFF ends, as do the sizes in most formats. It is read into
memory as a whole, and one that does not fit would end the run."""


def decode(data: bytes | Path | Tensor | BrokenImage, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode one image, upright by its EXIF orientation: `(channels, H, W)` uint8.

    The format is told by the first bytes, never by the suffix. 16-bit images keep their upper 8 bits; other integers
    and floats are scaled as `arrays.to_uint8` says. For 1 or 3 channels a transparent image is laid over white;
    4 channels keep the transparency (opaque where there is none). Any other number of channels is read from TIFF and
    `.npy` files that have exactly that many.

    Raises:
        BrokenImage: the data cannot be used; never anything else.
    """
    try:
        return _decode(data, channels, max_pixels)
    except MemoryError:
        raise BrokenImage("there is not enough memory for it") from None


def _decode(data: bytes | Path | Tensor | BrokenImage, channels: int, max_pixels: int) -> Tensor:
    if isinstance(data, BrokenImage):
        raise data
    if isinstance(data, Tensor):
        return to_channels(data, channels)
    if isinstance(data, Path):
        data = read_bytes(data)
    if not data:
        raise BrokenImage("empty")
    if channels not in ORDINARY:
        return decode_array(data, channels, max_pixels)
    if is_jpeg(data):
        return decode_jpeg(data, channels, max_pixels)
    return decode_picture(data, channels, max_pixels)


def read_bytes(path: Path) -> bytes:
    """The contents of a file; raises BrokenImage with the reason.

    Only of a file: a table of images may name any path, and a pipe or a device would never come to an end.
    """
    try:
        with open(path, "rb", buffering=0, opener=_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BrokenImage("not a file but a pipe, a device or a folder")
            if status.st_size > LARGEST:
                raise BrokenImage(f"a file of {status.st_size} bytes")
            return file.read()
    except MemoryError:
        raise BrokenImage("there is not enough memory for it") from None
    except OSError as error:
        raise BrokenImage(system_words(error)) from None
    except ValueError:  # a zero byte, or a character that no encoding has
        raise BrokenImage("a path that no file can have") from None


def _at_once(path: str, flags: int) -> int:
    """Opens without waiting for whoever is to write to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)
