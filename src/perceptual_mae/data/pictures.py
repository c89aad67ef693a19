"""Everything Pillow reads: PNG, WebP, TIFF, BMP, GIF and the JPEGs that libjpeg-turbo's short way does not take."""

import io
import os
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from perceptual_mae.data.arrays import check_size, decode_array, is_tiff, to_uint8
from perceptual_mae.data.types import BrokenImage

# Raster formats only. Pillow would also hand EPS files to a PostScript interpreter.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

_limit_lock = threading.Lock()


def _fresh_lock() -> None:
    global _limit_lock  # noqa: PLW0603 (a worker forked while another thread held the lock would wait for ever)
    _limit_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_lock)


def decode_picture(data: bytes, channels: int, max_pixels: int) -> Tensor:
    """Decode the first frame to `(channels, H, W)` uint8, channels 1, 3 or 4. Raises BrokenImage."""
    with warnings.catch_warnings():
        # Remarks on odd palettes and metadata of an image that is read all the same.
        warnings.simplefilter("ignore")
        try:
            image = open_picture(data)
        except UnidentifiedImageError:
            if is_tiff(data):  # such as float RGB, which Pillow does not know
                return decode_array(data, channels, max_pixels)
            raise BrokenImage(f"not an image that can be read: it starts with {data[:8]!r}") from None
        except MemoryError:
            raise
        except Exception as error:
            raise BrokenImage(_words(error)) from None
        check_size(image.height, image.width, max_pixels)
        try:
            with image:
                image.load()
                _turn_upright(image)
                pixels = np.array(_convert(image, channels))
        except (BrokenImage, MemoryError):
            raise
        except Exception as error:  # a damaged file surfaces from Pillow as anything: SyntaxError, struct.error, ...
            raise BrokenImage(_words(error)) from None
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1)


def open_picture(data: bytes, wanted: Sequence[str] = _FORMATS) -> Image.Image:
    """Read the header, without Pillow's own limit on the size: `max_pixels` takes its place."""
    formats = [name for name in wanted if name in Image.OPEN]
    if len(formats) < len(wanted):
        Image.init()
        formats = [name for name in wanted if name in Image.OPEN]
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _turn_upright(image: Image.Image) -> None:
    # Damaged EXIF: the picture is good, and it is turned before the rest of EXIF is looked at.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _convert(image: Image.Image, channels: int) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # Pillow's own conversion would clip these at 255
        image = Image.fromarray(to_uint8(np.asarray(image)))
    if image.mode == "LAB":  # which Pillow turns into nothing else
        image = image.convert("RGB")
    if channels != 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == _MODES[channels] else image.convert(_MODES[channels])


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"damaged: {text}" if text else f"damaged ({type(error).__name__})"
