"""Folders in ADE20K's layout, and everything that can be wrong with them."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perceptual_mae.data.ade import AdeSource, open_ade, targets
from perceptual_mae.data.types import BrokenImage
from perceptual_mae.errors import PmaeError, UsageError

NAMES = ("sky", "building", "pole")
MASK = np.array([[0, 1, 2], [3, 3, 0]], np.uint8)
"""Two rows of three pixels."""
CLASSES = [[255, 0, 1], [2, 2, 255]]
"""What it says, 255 where nothing."""


def write_image(path: Path, size: tuple[int, int] = (3, 2)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 200, 30)).save(path)


def write_mask(path: Path, values: np.ndarray = MASK, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    image.save(path)


def add(root: Path, name: str, split: str = "training", values: np.ndarray = MASK, mode: str | None = None) -> None:
    write_image(root / "images" / split / f"{name}.png", (values.shape[1], values.shape[0]))
    write_mask(root / "annotations" / split / f"{name}.png", values, mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, images `a` and `b`, and `c` to validate on."""
    folder = tmp_path / "streets"
    for name, split in (("b", "training"), ("a", "training"), ("c", "validation")):
        add(folder, name, split)
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n\n")
    return folder


def opened(root: Path, split: str = "train") -> AdeSource:
    source = open_ade(str(root), split)
    assert source is not None
    return source


def titles(source: AdeSource) -> list[str]:
    return [source.title(index) for index in range(len(source))]


def test_images_and_classes(root: Path) -> None:
    source = opened(root)
    assert (source.name, source.classes, titles(source), source.problems) == (str(root), NAMES, ["a.png", "b.png"], [])
    sample = source.read(1)
    assert sample.name == "b.png"
    assert sample.image.shape == (3, 2, 3)
    assert sample.image.dtype == torch.uint8
    assert sample.image[:, 0, 0].tolist() == [10, 200, 30]
    assert isinstance(sample.target, torch.Tensor)
    assert sample.target.dtype == torch.int64
    assert sample.target.tolist() == CLASSES
    assert titles(opened(root, "validation")) == ["c.png"]


def test_values_become_classes() -> None:
    assert targets(torch.tensor([0, 1, 150, 254])).tolist() == [255, 0, 149, 253]


@pytest.mark.parametrize("spelling", [("train", "val"), ("training", "val")])
def test_other_spellings(root: Path, spelling: tuple[str, str]) -> None:
    for parent in ("images", "annotations"):
        for old, new in zip(("training", "validation"), spelling, strict=True):
            (root / parent / old).rename(root / parent / new)
    assert titles(opened(root)) == ["a.png", "b.png"]
    assert titles(opened(root, "validation")) == ["c.png"]


def test_without_validation_images(root: Path) -> None:
    for parent in ("images", "annotations"):
        (root / parent / "validation" / "c.png").unlink()
        (root / parent / "validation").rmdir()
    assert open_ade(str(root), "validation") is None


@pytest.mark.parametrize("file", ["classes.txt", "objectInfo150.txt"])
def test_names_in_the_columns_of_ade(root: Path, file: str) -> None:
    (root / "classes.txt").unlink()
    rows = ["Idx\tRatio\tTrain\tVal\tName", "1\t0.15\t11664\t1172\twall", "2\t0.1\t6046\t612\tbuilding, edifice"]
    (root / file).write_text("\n".join([*rows, "3\t0.08\t8265\t796\tsky"]))
    assert opened(root).classes == ("wall", "building, edifice", "sky")


def test_classes_by_number_are_those_of_the_training_masks(root: Path) -> None:
    (root / "classes.txt").unlink()
    add(root, "c", "validation", np.full((2, 3), 2, np.uint8))
    expected = ("class 1", "class 2", "class 3")
    assert opened(root).classes == opened(root, "validation").classes == expected


# -- masks as people write them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "mode"), [(MASK, "P"), (MASK.astype(np.uint16), None)], ids=["palette", "16 bits"])
def test_palettes_and_wide_numbers(root: Path, values: np.ndarray, mode: str | None) -> None:
    add(root, "a", values=values, mode=mode)
    with Image.open(root / "annotations/training/a.png") as image:
        assert image.mode != "L"
    target = opened(root).read(0).target
    assert isinstance(target, torch.Tensor)
    assert target.tolist() == CLASSES


def test_a_mask_of_two_colours(root: Path) -> None:
    add(root, "a", values=MASK == 3)
    target = opened(root).read(0).target
    assert isinstance(target, torch.Tensor)
    assert target.tolist() == [[255, 255, 255], [0, 0, 255]]


def packed_png(values: np.ndarray, depth: int, palette: bool = False) -> bytes:
    """A PNG of numbers of `depth` bits each, as section 7.2 of its standard packs them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape
    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :].reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    header = struct.pack(">IIBBBBB", width, height, depth, 3 if palette else 0, 0, 0, 0)
    colours = chunk(b"PLTE", bytes(3 * 2**depth)) if palette else b""
    parts = chunk(b"IHDR", header) + colours + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_numbers_of_few_bits(root: Path, depth: int, palette: bool) -> None:
    values = np.arange(6).reshape(2, 3) % min(2**depth, len(NAMES) + 1)
    (root / "annotations/training/a.png").write_bytes(packed_png(values, depth, palette))
    assert opened(root).read_mask(0).tolist() == values.tolist()


def colours(root: Path) -> None:
    write_mask(root / "annotations/training/a.png", np.zeros((2, 3, 3), np.uint8))


def too_small(root: Path) -> None:
    write_mask(root / "annotations/training/a.png", MASK[:, :2])


def out_of_range(root: Path) -> None:
    write_mask(root / "annotations/training/a.png", np.where(MASK == 3, 57, MASK).astype(np.uint8))


def far_out_of_range(root: Path) -> None:
    write_mask(root / "annotations/training/a.png", np.where(MASK == 3, np.uint16(256 + 2), MASK))


def no_png(root: Path) -> None:
    (root / "annotations/training/a.png").write_bytes(b"not a picture at all")


def empty(root: Path) -> None:
    (root / "annotations/training/a.png").write_bytes(b"")


def cut_off(root: Path) -> None:
    path = root / "annotations/training/a.png"
    path.write_bytes(path.read_bytes()[:45])


BROKEN = {
    colours: r"mask annotations/training/a.png has 3 channels \(RGB\): a mask has one, of class numbers",
    too_small: r"mask annotations/training/a.png has 2 x 2 pixels and its image 3 x 2",
    out_of_range: r"mask annotations/training/a.png has the value 57, but there are 3 classes; 0 is ignored",
    far_out_of_range: r"mask annotations/training/a.png has the value 258, but there are 3 classes; 0 is ignored",
    no_png: r"mask annotations/training/a.png is no PNG that can be read",
    empty: r"mask annotations/training/a.png is no PNG that can be read",
    cut_off: r"mask annotations/training/a.png is no PNG that can be read",
}


@pytest.mark.parametrize("harm", BROKEN)
def test_broken_masks(root: Path, harm: Callable[[Path], None]) -> None:
    harm(root)
    source = opened(root)
    with pytest.raises(BrokenImage, match=f"^its {BROKEN[harm]}") as caught:
        source.read(0)
    assert "\n" not in str(caught.value)
    assert source.read(1).name == "b.png"


@pytest.mark.parametrize("harm", [harm for harm in BROKEN if harm is not too_small])
def test_a_check_leaves_out_what_is_broken(root: Path, harm: Callable[[Path], None]) -> None:
    harm(root)
    source = opened(root)
    told: list[tuple[int, int]] = []
    source.check(lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    assert titles(source) == ["b.png"]
    ((name, reason),) = ((problem.name, problem.reason) for problem in source.problems)
    assert name == "a.png"
    assert "annotations/training/a.png" in reason


def test_a_check_of_what_is_whole_changes_nothing(root: Path) -> None:
    source = opened(root)
    before = source.fingerprint()
    source.check()
    assert (titles(source), source.problems, source.fingerprint()) == (["a.png", "b.png"], [], before)


def test_images_and_masks_that_lack_the_other(root: Path) -> None:
    write_image(root / "images/training/lonely.jpg")
    write_image(root / "images/training/a.jpg")
    write_mask(root / "annotations/training/mask_only.png")
    source = opened(root)
    assert titles(source) == ["a.jpg", "b.png"]
    assert {(problem.name, problem.reason) for problem in source.problems} == {
        ("lonely.jpg", "has no mask lonely.png in annotations/training"),
        ("a.png", "a.jpg has the same mask"),
        ("mask_only.png", "is a mask without an image in images/training"),
    }


def test_folders_within(root: Path) -> None:
    write_image(root / "images/training/kitchen/a.png")
    write_mask(root / "annotations/training/kitchen/a.png", np.full((2, 3), 3, np.uint8))
    source = opened(root)
    assert titles(source) == ["a.png", "b.png", "kitchen/a.png"]
    target = source.read(2).target
    assert isinstance(target, torch.Tensor)
    assert (target == 2).all()


# -- folders that are something else -----------------------------------------------------------------------------------


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--data .*nowhere: there is no such folder; give one with images/training"):
        open_ade(str(tmp_path / "nowhere"), "train")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_another_layout(tmp_path: Path, split: str) -> None:
    write_image(tmp_path / "cats" / "a.png")
    layout = r"images/training/NAME.jpg with annotations/training/NAME.png, and validation likewise"
    with pytest.raises(UsageError, match=rf"^--data .* is not laid out like ADE20K: there must be {layout}$"):
        open_ade(str(tmp_path), split)


def test_no_folder_of_masks(root: Path) -> None:
    (root / "annotations/training").rename(root / "annotations/elsewhere")
    with pytest.raises(UsageError, match=r"has images/training but no annotations/training: there must be"):
        open_ade(str(root), "train")


def test_no_mask_fits(root: Path) -> None:
    for name in "ab":
        (root / f"annotations/training/{name}.png").rename(root / f"annotations/training/{name}_labels.png")
    with pytest.raises(UsageError, match=r"no image in images/training has a mask \(a.png: has no mask a.png in"):
        open_ade(str(root), "train")


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([], "there is no class"),
        (["sky", "road", "sky"], "names sky twice"),
        ([str(number) for number in range(255)], "has 255 classes: there can be 254"),
    ],
)
def test_names_that_are_none(root: Path, lines: list[str], complaint: str) -> None:
    (root / "classes.txt").write_text("\n".join(lines))
    with pytest.raises(UsageError, match=rf"^--data .*classes.txt:? {complaint}"):
        open_ade(str(root), "train")


def test_other_data_with_other_names(root: Path) -> None:
    assert open_ade(str(root), "validation", classes=NAMES) is not None
    with pytest.raises(UsageError, match="names other classes than are learnt: sky, building, pole"):
        open_ade(str(root), "validation", classes=("sky", "pole", "building"))
    (root / "classes.txt").unlink()
    source = open_ade(str(root), "validation", classes=("x", "y", "z"))
    assert source is not None
    assert source.classes == ("x", "y", "z")


def test_what_may_not_be_read_ends_nothing(root: Path, refused: Callable[..., None]) -> None:
    refused(os, "open", root / "annotations/training/a.png")
    source = opened(root)
    with pytest.raises(BrokenImage, match="permission denied"):
        source.read(0)
    assert len(source.fingerprint()) == 16
    refused(io, "open", root / "classes.txt")
    with pytest.raises(PmaeError, match=r"classes.txt cannot be read: permission denied$"):
        opened(root)


def test_fingerprints(root: Path) -> None:
    before = opened(root).fingerprint()
    assert opened(root).fingerprint() == before
    seen = {before}
    (root / "classes.txt").write_text("sky\nbuilding\ntree")
    seen.add(opened(root).fingerprint())
    write_mask(root / "annotations/training/a.png", np.ones((2, 3), np.uint8))
    seen.add(opened(root).fingerprint())
    (root / "images/training/b.png").unlink()
    seen.add(opened(root).fingerprint())
    assert len(seen) == 4


def test_camvid(shared: Callable[[str], Path]) -> None:
    folder = shared("camvid-small")
    train, validation = opened(folder), opened(folder, "validation")
    assert (len(train), len(validation), len(train.classes)) == (200, 60, 11)
    assert train.problems == validation.problems == []
    sample = train.read(0)
    assert sample.image.shape == (3, 240, 320)
    with Image.open(folder / "annotations/training" / sample.name.replace(".jpg", ".png")) as image:
        values = np.asarray(image).astype(int)
    assert isinstance(sample.target, torch.Tensor)
    np.testing.assert_array_equal(sample.target, np.where(values, values - 1, 255))
