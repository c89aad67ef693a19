"""An image as it lies in its source, to a uint8 tensor; whatever cannot be read is a `BrokenImage` with a reason."""

from pathlib import Path

import torch
from torch import Tensor

from perceptual_mae.data.arrays import decode_array
from perceptual_mae.data.jpeg import decode_jpeg, is_jpeg
from perceptual_mae.data.pictures import decode_picture
from perceptual_mae.data.types import BrokenImage

MAX_PIXELS = 100_000_000
"""Largest image decoded by default: a small file can claim to be any size, and would take all memory."""


def decode(data: bytes | Path | Tensor, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode one image, upright by its EXIF orientation: `(channels, H, W)` uint8.

    The format is told by the first bytes, never by the suffix. 16-bit images keep their upper 8 bits; other integers
    and floats are scaled as `arrays.to_uint8` says. For 1 or 3 channels a transparent image is laid over white;
    4 channels keep the transparency (opaque where there is none). Any other number of channels is read from TIFF and
    `.npy` files that have exactly that many.

    Raises:
        BrokenImage: the data cannot be used; never anything else.
    """
    if isinstance(data, Tensor):
        return to_channels(data, channels)
    if isinstance(data, Path):
        data = read_bytes(data)
    if not data:
        raise BrokenImage("empty")
    if channels not in {1, 3, 4}:
        return decode_array(data, channels, max_pixels)
    if is_jpeg(data):
        return decode_jpeg(data, channels, max_pixels)
    return decode_picture(data, channels, max_pixels)


def read_bytes(path: Path) -> bytes:
    """The contents of a file; raises BrokenImage with the system's reason."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise BrokenImage((error.strerror or str(error)).lower()) from None


def to_channels(image: Tensor, channels: int) -> Tensor:
    """`(C, H, W)` uint8 with C of 1, 3 or 4 to `channels` of 1, 3 or 4, by the rules of `decode`; other numbers must
    match already, else BrokenImage."""
    have = image.shape[0]
    if have == channels:
        return image
    if have not in {1, 3, 4} or channels not in {1, 3, 4}:
        raise BrokenImage(f"has {have} channels, not {channels}")
    if have == 4:
        alpha = image[3:].int()
        white = 255 * (255 - alpha)
        image = ((image[:3].int() * alpha + white + 127) // 255).to(torch.uint8)
    if channels == 1:
        if image.shape[0] == 1:
            return image
        # ITU-R 601 luma in Pillow's fixed point, so that a grey image does not depend on which door it came in by.
        red, green, blue = image.int()
        return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)[None]
    if image.shape[0] == 1:
        image = image.expand(3, -1, -1)
    return torch.cat([image, torch.full_like(image[:1], 255)]) if channels == 4 else image
