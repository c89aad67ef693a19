"""Image files and masks that lie: whatever bytes they hold, they are read, or are broken for a reason in words."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hostile import bounded, damaged_one_of, fuzz, odd_text, outcome
from hypothesis import given
from hypothesis import strategies as st
from odd_files import broken_files, encode, good_files, photograph
from PIL import Image

from perceptual_mae.data.ade import open_ade
from perceptual_mae.data.decode import decode
from perceptual_mae.data.open import open_source
from perceptual_mae.data.types import BrokenImage

LIMIT = 1_000_000
"""Pixels of the largest image that is read here."""


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def samples() -> list[bytes]:
    """Small files of every format that is read."""
    photo = photograph((24, 18))
    formats = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "ICO", "JPEG2000", "AVIF")
    Image.init()
    files = [encode(photo, name) for name in formats if name in Image.SAVE]
    modes = (("CMYK", "JPEG"), ("P", "PNG"), ("LA", "PNG"))
    files += [encode(photo.convert(mode), name) for mode, name in modes]
    files += [data for name, data in good_files().items() if name in {"float rgb.tif", "turned 5.jpg", "animated.webp"}]
    return files


def arrays() -> list[bytes]:
    """Small files with five and with two channels."""
    five = np.random.default_rng(0).random((6, 8, 5))
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, five.astype(np.float32), compression="zlib", photometric="minisblack", planarconfig="contig")
    return [npy(five), npy((255 * five).astype(np.uint8)[..., :2]), npy(five.astype(">u2")), tiff.getvalue()]


SAMPLES, ARRAYS = samples(), arrays()


@fuzz(250)
@given(
    read=st.one_of(
        st.tuples(damaged_one_of(SAMPLES), st.sampled_from([1, 3, 4])),
        st.tuples(damaged_one_of(ARRAYS), st.sampled_from([2, 5])),
    )
)
def test_an_image_is_read_or_broken(read: tuple[bytes, int]) -> None:
    data, channels = read
    image = outcome(lambda: decode(data, channels, LIMIT), BrokenImage)
    if isinstance(image, torch.Tensor):
        assert image.dtype == torch.uint8
        assert image.shape[0] == channels
        assert 1 <= image[0].numel() <= LIMIT


KINDS = ("<f8", ">f4", "|u1", "<c16", "|O", "<U9999", "|V9", "<M8[s]", "<f2", "<i8", "", "x", None)
STRUCTURED = [("a\nb", "<f8"), ("b", "|u1", (2, 3))]
SHAPES = ((4, 5, 2), (2, 5, 4), (4, 5), (), (0, 0), (-1, -1, 2), (900, 900, 2), (True, 2, 2), [4, 5])
ENORMOUS = ((10**9, 10**9, 2), (1, 10**7, 2), (2, 2**62, 2**62))
HEADERS = st.fixed_dictionaries(
    {
        "descr": st.sampled_from([*KINDS, STRUCTURED]),
        "fortran_order": st.sampled_from([True, False, False, True, False, None]),
        "shape": st.sampled_from([*SHAPES, *ENORMOUS]),
    }
)


@fuzz(80)
@given(header=HEADERS, version=st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]), body=st.binary(max_size=512))
def test_arrays_with_headers_that_lie(header: dict[str, object], version: tuple[int, int], body: bytes) -> None:
    text = repr(header).encode() + b"\n"
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    outcome(lambda: decode(b"\x93NUMPY" + bytes(version) + length + text + body, 2, LIMIT), BrokenImage)


EXTREME = [0.0, -1e308, 1e308, 1.7e308, float("inf"), float("-inf"), float("nan"), 5e-324, 1.0]


@pytest.mark.filterwarnings("error")
@fuzz(60)
@given(
    values=st.lists(st.sampled_from(EXTREME), min_size=12, max_size=12),
    kind=st.sampled_from(["f8", "f4", "f2", "i8", "u8"]),
)
def test_numbers_without_a_scale_of_their_own(values: list[float], kind: str) -> None:
    with np.errstate(all="ignore"):
        array = np.array(values).astype(kind).reshape(2, 2, 3)
    image = outcome(lambda: decode(npy(array), 2, LIMIT), BrokenImage)
    if isinstance(image, torch.Tensor):
        finite = np.isfinite(array.astype(np.float64))
        low, high = array[finite].min(), array[finite].max()
        bright = image.numpy()[finite]
        assert (bright[array[finite] == low] <= bright.min()).all(), "the least is the darkest"
        assert (bright[array[finite] == high] >= bright.max()).all(), "the greatest is the brightest"


@fuzz(25)
@given(data=damaged_one_of(SAMPLES), suffix=st.sampled_from([".jpg", ".png", ".tif", ".webp", ".gif", ".bmp", ".PNG"]))
def test_a_folder_of_files_that_are_called_something_else(
    data: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("images")
    (folder / f"image{suffix}").write_bytes(data)

    def first() -> object:
        source = open_source(str(folder))
        assert source is not None
        return decode(source[0].data, 3, LIMIT)

    outcome(first, BrokenImage)


@pytest.mark.parametrize(
    "path", ["/dev/zero", "/dev/stdin", "/proc/self/mem", "/etc", "a\0b", "\ud800", "x" * 5000, "."]
)
def test_paths_that_are_no_files(path: str) -> None:
    # A column of a parquet file may name any path.
    assert isinstance(outcome(lambda: decode(Path(path)), BrokenImage), BrokenImage)


def test_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "image.png")
    assert isinstance(outcome(lambda: decode(tmp_path / "image.png"), BrokenImage), BrokenImage)


# -- masks -------------------------------------------------------------------------------------------------------------

MASK = np.arange(24, dtype=np.uint8).reshape(4, 6) % 5
MASKS = [encode(Image.fromarray(MASK), "PNG"), encode(Image.fromarray(MASK).convert("P"), "PNG")]
MASKS += [encode(Image.fromarray(MASK.astype(np.uint16)), "PNG"), encode(Image.fromarray(MASK > 2), "PNG")]
MASKS += [data for name, data in broken_files().items() if name.endswith("bomb.png")]


@fuzz(80)
@given(
    mask=damaged_one_of(MASKS),
    names=st.none() | st.binary(max_size=60) | odd_text.map(lambda t: t.encode("utf-8", "replace")),
)
def test_masks_and_names_of_classes(mask: bytes, names: bytes | None, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("ade")
    for folder in ("images/training", "annotations/training"):
        (root / folder).mkdir(parents=True)
    (root / "images/training/a.png").write_bytes(encode(photograph((6, 4)), "PNG"))
    (root / "annotations/training/a.png").write_bytes(mask)
    if names is not None:
        (root / "classes.txt").write_bytes(names)

    def all_of_it() -> None:
        source = open_ade(str(root), max_pixels=LIMIT)
        assert source is not None
        source.check()
        assert all(name.isprintable() for name in source.classes)
        if len(source):
            assert source.read(0).image.shape == (3, 4, 6)

    outcome(all_of_it, BrokenImage)


def test_a_mask_that_claims_to_be_enormous_is_not_read(tmp_path: Path) -> None:
    for folder in ("images/training", "annotations/training"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "images/training/a.png").write_bytes(encode(photograph((6, 4)), "PNG"))
    (tmp_path / "annotations/training/a.png").write_bytes(encode(Image.new("L", (12_000, 12_000)), "PNG"))
    (tmp_path / "classes.txt").write_text("a\nb\n", encoding="utf-8")
    source = open_ade(str(tmp_path))
    assert source is not None
    with bounded(), pytest.raises(BrokenImage, match="more than the limit"):
        source.read(0)
