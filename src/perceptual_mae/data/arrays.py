"""Images with any number of channels and any kind of number: TIFF through tifffile, `.npy` through numpy."""

import io
import logging
import warnings

import numpy as np
import torch
from torch import Tensor

from perceptual_mae.data.channels import ORDINARY, to_channels
from perceptual_mae.data.types import BrokenImage

_NPY = b"\x93NUMPY"


def is_tiff(data: bytes) -> bool:
    """Whether the bytes start like a TIFF or BigTIFF file."""
    return data[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Refuse an image by its header, before any memory is taken for its pixels. Raises BrokenImage."""
    if height * width > max_pixels:
        raise BrokenImage(f"{width} x {height} pixels, more than the limit of {max_pixels}")
    if height < 1 or width < 1:
        raise BrokenImage(f"{width} x {height} pixels")


def decode_array(data: bytes, channels: int, max_pixels: int) -> Tensor:
    """Decode a TIFF or `.npy` with `channels` channels, first or last: `(channels, H, W)` uint8.

    Ordinary numbers of channels (1, 3, 4) are turned into one another; any other must be there as asked for.

    Raises:
        BrokenImage: another kind of file, another number of channels, or damage.
    """
    if not is_tiff(data) and data[:6] != _NPY:
        raise BrokenImage(f"{channels} channels can only be read from TIFF and .npy files")
    read = _read_npy if data[:6] == _NPY else _read_tiff
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on a header that is read all the same
            array = read(data, channels, max_pixels)
    except (BrokenImage, MemoryError):
        raise
    except Exception as error:  # damage surfaces as anything
        raise BrokenImage(f"damaged: {' '.join(str(error).split())}") from None
    array = np.expand_dims(array, 0) if array.ndim == 2 else np.moveaxis(array, _axis(array.shape, channels), 0)
    return to_channels(torch.from_numpy(np.ascontiguousarray(to_uint8(array))), channels)


def _check_shape(shape: tuple[int, ...], channels: int, max_pixels: int) -> None:
    sides = list(shape)
    if len(shape) == 3:
        sides.pop(_axis(shape, channels))
    elif len(shape) != 2 or channels not in ORDINARY:
        raise BrokenImage(_misfit(shape, channels))
    check_size(sides[0], sides[1], max_pixels)


def _axis(shape: tuple[int, ...], channels: int) -> int:
    """Where a three-dimensional array has its channels: the first or the last axis."""
    for count in [channels, *sorted(ORDINARY, reverse=True)] if channels in ORDINARY else [channels]:
        if count in {shape[0], shape[2]}:
            return 0 if shape[0] == count else 2
    raise BrokenImage(_misfit(shape, channels))


def _misfit(shape: tuple[int, ...], channels: int) -> str:
    return f"an array of {' x '.join(map(str, shape))}, which is no image of {channels} channel{'s' * (channels > 1)}"


def _read_npy(data: bytes, channels: int, max_pixels: int) -> np.ndarray:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, _ = np.lib.format.read_array_header_2_0(file)
    _check_shape(shape, channels, max_pixels)
    file.seek(0)
    return np.load(file, allow_pickle=False)


def _read_tiff(data: bytes, channels: int, max_pixels: int) -> np.ndarray:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs what it also raises
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        _check_shape(series.shape, channels, max_pixels)
        return series.asarray()


def to_uint8(array: np.ndarray) -> np.ndarray:
    """Numbers of any kind to 0..255, of the same shape.

    8 bits stay, signed ones where none is negative; 16 bits keep their upper half; wider integers within 0..65535
    count as 16 bits; floats within [0, 1] are multiplied by 255. Everything else has no scale of its own and is
    stretched from its least to its greatest value. Raises BrokenImage where no number is finite.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.int8 and array.min() >= 0:
        return array.astype(np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise BrokenImage(f"holds {array.dtype}, not numbers from dark to bright")
    values = array.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        if not finite.any():
            raise BrokenImage("holds no finite number")
        values = np.where(finite, values, values[finite].min())
    low, high = values.min(), values.max()
    if array.dtype.kind != "f" and low >= 0 and high <= 65535:
        return (values / 256).astype(np.uint8)
    if array.dtype.kind != "f" or low < 0 or high > 1:
        # Halves: from the least to the greatest number that there is, it is further than any number.
        values = (values / 2 - low / 2) / max(high / 2 - low / 2, np.finfo(np.float64).tiny)
    return np.rint(values * 255).astype(np.uint8)
