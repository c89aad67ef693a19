"""JPEG: libjpeg-turbo through torchvision where it can, Pillow for the odd ones."""

from typing import NamedTuple

import torch
import torchvision.io  # noqa: F401 (registers torch.ops.image)
from torch import Tensor

from perceptual_mae.data.arrays import check_size
from perceptual_mae.data.pictures import decode_picture

# The operator itself: its Python wrapper is deprecated since torchvision 0.29 and warns. Should the operator go, every
# JPEG is read by Pillow, at about half the rate.
_turbo = getattr(torch.ops.image, "decode_jpeg", None)
_GREY, _RGB = 1, 3  # torchvision.io.ImageReadMode


class JpegHeader(NamedTuple):
    """Size in pixels and number of colour components."""

    height: int
    width: int
    components: int


def is_jpeg(data: bytes) -> bool:
    """Whether the bytes start like a JPEG file."""
    return data[:3] == b"\xff\xd8\xff"


def read_header(data: bytes) -> JpegHeader | None:
    """Walk a JPEG's markers up to its frame header; None where there is none before the pixels."""
    at, end = 2, len(data) - 9
    while at < end:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a body
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            return JpegHeader(height, width, data[at + 9])
        elif marker in {0xD9, 0xDA}:
            return None
        else:
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def decode_jpeg(data: bytes, channels: int, max_pixels: int) -> Tensor:
    """Decode a JPEG to `(channels, H, W)` uint8, channels 1, 3 or 4. Raises BrokenImage; a truncated file is broken."""
    header = read_header(data)
    # Four inks (CMYK, YCCK, with or without Adobe's inversion) are rare and full of dialects: Pillow knows them.
    if _turbo is None or header is None or header.components not in {1, 3}:
        return decode_picture(data, channels, max_pixels)
    check_size(header.height, header.width, max_pixels)
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # bytearray: PyTorch warns of read-only memory
    try:
        image = _turbo(buffer, _GREY if channels == 1 else _RGB, True)  # True: turn upright by EXIF
    except RuntimeError:
        return decode_picture(data, channels, max_pixels)  # which reads it, or says what is wrong with it
    if channels == 4:
        image = torch.cat([image, torch.full_like(image[:1], 255)])
    return image
