"""Decoding against Pillow and tifffile, and against files that are damaged in every way."""

import io
import random
import warnings

import numpy as np
import pytest
import tifffile
import torch
from odd_files import broken_files, encode, good_files, jpeg_claiming, photograph, png_claiming, with_orientation
from PIL import Image, ImageOps

from perceptual_mae.data import BrokenImage, arrays, decode, pictures
from perceptual_mae.data.channels import to_channels
from perceptual_mae.data.jpeg import read_header

GOOD, BROKEN = good_files(), broken_files()


def pixels(image: Image.Image, mode: str = "RGB") -> torch.Tensor:
    array = np.array(image.convert(mode))
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)


def off_by(a: torch.Tensor, b: torch.Tensor) -> int:
    assert a.shape == b.shape
    return int((a.int() - b.int()).abs().max())


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_good_files_are_read(name, channels):
    image = decode(GOOD[name], channels)
    assert image.dtype == torch.uint8
    assert image.shape[0] == channels
    assert image.shape[1:] == (1, 1) or image.float().std() > 5  # the cat, not a flat field


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_broken_files_are_refused_in_one_line(name, channels, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BrokenImage) as error:
            decode(BROKEN[name], channels)
    assert str(error.value)
    assert "\n" not in str(error.value)
    assert " at 0x" not in str(error.value)  # nothing that changes from run to run
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", [n for n in GOOD if n.startswith(("rgb.jpg", "progressive", "turned", "no chroma"))])
def test_agrees_with_pillow(name):
    with Image.open(io.BytesIO(GOOD[name])) as image:
        expected = pixels(ImageOps.exif_transpose(image))
    assert off_by(decode(GOOD[name]), expected) <= 1


UPRIGHT = {
    # EXIF 2.3, tag 0x0112: what has to be done with rows and columns
    1: lambda pixels: pixels,
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_stand_upright(orientation):
    stored = np.asarray(photograph())
    found = decode(with_orientation(photograph(), orientation, "PNG")).permute(1, 2, 0).numpy()
    assert np.array_equal(found, UPRIGHT[orientation](stored))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation, kind):
    data = with_orientation(photograph(), orientation, kind)
    with Image.open(io.BytesIO(data)) as image:
        expected = pixels(ImageOps.exif_transpose(image))
    assert off_by(decode(data), expected) <= 1


def test_cmyk_agrees_with_pillow():
    data = GOOD["cmyk.jpg"]
    with Image.open(io.BytesIO(data)) as image:
        assert off_by(decode(data), pixels(image)) == 0
    original = pixels(photograph())
    assert (decode(data).float() - original).abs().mean() < 5  # and neither is a negative


def test_sixteen_bits_are_scaled_and_not_clipped():
    expected = pixels(photograph(), "L")
    for name in ("grey16.png", "grey16.tif", "float.tif"):
        assert off_by(decode(GOOD[name], 1), expected) <= 1
    for name in ("rgb16.tif", "float rgb.tif"):
        assert off_by(decode(GOOD[name], 3), pixels(photograph())) <= 1


def test_other_numbers_are_stretched():
    ramp = np.linspace(-3, 40, 50 * 20).reshape(20, 50)
    file = io.BytesIO()
    tifffile.imwrite(file, ramp.astype(np.float32))
    expected = np.rint((ramp + 3) / 43 * 255)
    assert np.abs(decode(file.getvalue(), 1)[0].numpy() - expected).max() <= 1


def test_transparency_is_laid_over_white():
    photo = photograph()
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    rgba = pixels(photo, "RGBA").double()
    expected = (rgba[:3] * rgba[3:] + 255 * (255 - rgba[3:])) / 255
    for data in (encode(photo, "PNG"), encode(photo, "TIFF"), encode(photo, "WEBP", lossless=True, exact=True)):
        assert (decode(data, 3) - expected).abs().max() <= 1.01
        assert off_by(decode(data, 4), pixels(photo, "RGBA")) == 0
    assert (to_channels(pixels(photo, "RGBA"), 3) - expected).abs().max() <= 0.51
    assert (decode(GOOD["rgb.jpg"], 4)[3] == 255).all()


def test_tensors_change_channels_as_files_do():
    image = pixels(photograph())
    assert off_by(to_channels(image, 1), pixels(photograph(), "L")) == 0
    grey = to_channels(image, 1)
    assert off_by(to_channels(grey, 3), grey.repeat(3, 1, 1)) == 0
    assert to_channels(grey, 4)[3].min() == 255
    with pytest.raises(BrokenImage, match="has 3 channels, not 7"):
        to_channels(image, 7)


def test_animations_and_pages_give_the_first_picture():
    for name in ("animated.webp", "pages.TIFF", "animated.gif"):
        assert (decode(GOOD[name]).float() - pixels(photograph())).abs().mean() < 6


@pytest.mark.parametrize("progressive", [False, True])
def test_every_truncated_jpeg_is_refused(progressive):
    data = encode(photograph(), "JPEG", progressive=progressive)
    for end in [*range(1, len(data) - 1, 97), len(data) - 2, len(data) - 1]:
        with pytest.raises(BrokenImage):
            decode(data[:end])
    with pytest.raises(BrokenImage):  # as a download leaves it that reserved its space beforehand
        decode(data[: len(data) // 2] + bytes(len(data) // 2))


def test_random_damage_never_surfaces_as_anything_else():
    rng, reasons = random.Random(0), []
    for name in ("rgb.jpg", "cmyk.jpg", "rgb.png", "palette.png", "lossy.webp", "grey16.tif", "animated.gif"):
        for _ in range(60):
            data = bytearray(GOOD[name])
            for _ in range(rng.choice([1, 3, 30])):
                data[rng.randrange(min(len(data), rng.choice([64, 10**9])))] = rng.randrange(256)
            try:
                assert decode(bytes(data), 3, 1_000_000).shape[0] == 3
            except BrokenImage as error:
                reasons.append(str(error))
    assert reasons
    assert not any("\n" in reason for reason in reasons)


def test_bombs_are_refused_by_their_header():
    jpeg = encode(photograph(), "JPEG")
    for data in (png_claiming(20_000, 20_000), jpeg_claiming(jpeg, 20_000, 20_000)):
        with pytest.raises(BrokenImage, match=r"20000 x 20000 pixels, more than the limit of 100000000"):
            decode(data)
    assert decode(jpeg, 3, 120 * 90).shape == (3, 90, 120)
    with pytest.raises(BrokenImage, match="more than the limit of 10799"):
        decode(jpeg, 3, 120 * 90 - 1)


def test_the_users_limit_replaces_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode(GOOD["rgb.png"]).shape == (3, 90, 120)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_header_of_every_jpeg():
    for name, data in GOOD.items():
        if data[:2] == b"\xff\xd8":
            with Image.open(io.BytesIO(data)) as image:
                header = read_header(data)
                assert (header.width, header.height, header.components) == (*image.size, len(image.getbands())), name


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("kind", ["npy", "tif", "pages"])
def test_many_channels(layout, kind):
    cube = np.random.default_rng(0).integers(0, 65535, (6, 20, 30)).astype(np.uint16)
    stored = cube if layout == "first" else np.ascontiguousarray(cube.transpose(1, 2, 0))
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, stored)
    elif kind == "tif":
        tifffile.imwrite(
            file, stored, photometric="minisblack", planarconfig="separate" if layout == "first" else "contig"
        )
    else:
        tifffile.imwrite(file, cube, photometric="minisblack")
    assert torch.equal(decode(file.getvalue(), 6), torch.from_numpy((cube >> 8).astype(np.uint8)))
    with pytest.raises(BrokenImage, match="no image of 5 channels"):
        decode(file.getvalue(), 5)
    with pytest.raises(BrokenImage, match="more than the limit of 100"):
        decode(file.getvalue(), 6, 100)


@pytest.mark.parametrize(("least", "expected"), [(0, [0, 63, 127]), (-128, [0, 191, 255])])
def test_signed_bytes(least, expected):
    """They are 8 bits where none is negative, and have no scale of their own elsewhere."""
    file = io.BytesIO()
    np.save(file, np.array([least, 63, 127], np.int8)[:, None, None].repeat(5, 0).reshape(3, 5, 1).transpose(1, 0, 2))
    assert decode(file.getvalue(), 5)[0, :, 0].tolist() == expected


def test_lab_becomes_grey_by_way_of_colours():
    file = io.BytesIO()
    Image.new("LAB", (3, 2), (150, 128, 128)).save(file, "TIFF")
    grey, colour = decode(file.getvalue(), 1), decode(file.getvalue(), 3)
    assert off_by(grey, to_channels(colour, 1)) == 0
    assert grey.shape == (1, 2, 3)


def test_pickled_arrays_are_not_run():
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BrokenImage):
        decode(file.getvalue(), 6)


def test_what_does_not_fit_into_memory(tmp_path, monkeypatch):
    with open(tmp_path / "huge.tif", "wb") as file:
        file.truncate(2**32 + 1)  # it takes no room on the disk
    with pytest.raises(BrokenImage, match=r"^a file of 4294967297 bytes$"):
        decode(tmp_path / "huge.tif")

    def too_much(*_):
        raise MemoryError

    monkeypatch.setitem(decode.__globals__, "decode_jpeg", too_much)
    with pytest.raises(BrokenImage, match="not enough memory"):
        decode(GOOD["rgb.jpg"])
    monkeypatch.setattr(pictures, "_convert", too_much)
    with pytest.raises(BrokenImage, match="not enough memory"):
        decode(GOOD["rgb.png"])
    monkeypatch.setattr(arrays, "to_uint8", too_much)
    np.save(file := io.BytesIO(), np.zeros((6, 9, 9), np.uint8))
    with pytest.raises(BrokenImage, match="not enough memory"):
        decode(file.getvalue(), 6)


def test_paths(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(BrokenImage, match="is a directory"):
        decode(tmp_path / "folder.jpg")
    with pytest.raises(BrokenImage, match="no such file"):
        decode(tmp_path / "gone.jpg")
    (tmp_path / "a.jpg").write_bytes(GOOD["rgb.jpg"])
    assert torch.equal(decode(tmp_path / "a.jpg"), decode(GOOD["rgb.jpg"]))
