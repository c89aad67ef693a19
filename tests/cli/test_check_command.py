"""`pmae check`: everything is read once, counted as it is, and settings are advised that fit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from odd_files import write_odd_files
from PIL import Image
from skimage import data

from perceptual_mae.check import Checked, check_data, fitting
from perceptual_mae.cli.main import main
from perceptual_mae.data import open_source
from perceptual_mae.data.census import Census, take_census
from perceptual_mae.data.decode import decode


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes in two splits: 5 photographs, one of them twice, one in both splits; and a file that is none."""
    root = tmp_path / "pictures"
    photograph = Image.fromarray(data.astronaut())
    for name, box in {
        "train/a/1.jpg": (0, 0, 300, 200),
        "train/a/2.png": (10, 10, 250, 250),
        "train/b/3.jpg": (100, 50, 400, 450),
        "val/a/5.png": (0, 100, 240, 300),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        photograph.crop(box).save(root / name)
    (root / "val" / "b").mkdir()
    shutil.copy(root / "train/a/1.jpg", root / "train/b/4.jpeg")
    shutil.copy(root / "train/b/3.jpg", root / "val/b/6.jpg")
    (root / "train" / "b" / "text.jpg").write_text("no picture")
    return root


def test_what_there_is(pictures: Path) -> None:
    checked = check_data(str(pictures), workers=0)
    train, validation = checked.parts["train"], checked.parts["validation"]
    files = [path for path in sorted((pictures / "train").rglob("*.*")) if path.name != "text.jpg"]
    assert (train.images, validation.images) == (4, 2)
    assert train.size == sum(path.stat().st_size for path in files)
    assert [skip.name for skip in train.skipped] == ["b/text.jpg"]
    assert train.formats == {"JPEG": 3, "PNG": 1}
    assert train.kinds == {"colour": 4}
    assert train.sides == {(200, 300): 2, (240, 240): 1, (400, 300): 1}
    assert train.labels == {0: 2, 1: 2}
    assert train.shorter_side == 200
    rows = dict(checked.rows())
    assert rows["cannot be read"] == ["1", "none"]
    assert rows["classes"] == ["2, of 2 images", "2, of 1 images"]
    assert rows["the same twice"] == ["1 (b/4.jpeg is a/1.jpg)", "none"]
    assert rows["sizes"][0] == "240 x 240 to 300 x 400, most often 300 x 200; shorter side 200 in the median"
    assert checked.in_both() == 1
    assert checked.advice() == [
        "20% of the images (train) cannot be read; most often (1): not an image that can be read: it starts with "
        "b'no pictu'.",
        "1 of 2 validation images are training images, too: what is measured on them is too good.",
    ]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mean_and_std_are_those_of_all_pixels_each_image_counting_alike(pictures: Path, channels: int) -> None:
    train = check_data(str(pictures), channels, workers=0).parts["train"]
    images = [decode(path, channels).double() / 255 for path in pictures.glob("train/*/*") if path.name != "text.jpg"]
    weights = np.concatenate([np.full(image[0].numel(), 1 / image[0].numel()) for image in images])
    values = np.concatenate([image.flatten(1).numpy() for image in images], axis=1)
    mean = np.average(values, axis=1, weights=weights)
    std = np.sqrt(np.average((values - mean[:, None]) ** 2, axis=1, weights=weights))
    np.testing.assert_allclose(train.mean, mean, atol=1e-12)
    np.testing.assert_allclose(train.std, std, atol=1e-9)


def test_workers_change_nothing() -> None:
    source = open_source("photos", "validation")
    assert source is not None
    seen: list[int] = []
    alone, together = take_census(source, progress=seen.append), take_census(source, workers=2)
    assert seen[-1] == alone.images == len(source)
    for name in ("images", "size", "sides", "labels", "digests", "mean", "std", "kinds"):
        assert getattr(alone, name) == getattr(together, name)


def test_odd_files_are_told_apart(tmp_path: Path) -> None:
    good, broken = write_odd_files(tmp_path)
    train = check_data(str(tmp_path), workers=0).parts["train"]
    assert (train.images, len(train.skipped)) == (len(good), len(broken))
    assert {"JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"} <= set(train.formats)
    assert {"colour", "grey", "grey of 16 bits", "CMYK", "palette", "colour with transparency"} <= set(train.kinds)


def test_images_of_many_channels(tmp_path: Path) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.full((40, 30, 5), number / 10, np.float32))
    train = check_data(str(tmp_path), 5, workers=0).parts["train"]
    assert (train.formats, train.kinds, train.sides) == ({"NumPy": 3}, {"5 channels": 3}, {(40, 30): 3})
    assert train.mean == pytest.approx([0.1] * 5, abs=2e-3)


# -- advice ------------------------------------------------------------------------------------------------------------


def advised(side: int = 300, kind: str = "colour", level: float = 0.45, std: float = 0.226) -> list[str]:
    """Advice on ten images alike."""
    part = Census(images=10, sums=np.full(3, 10 * level), squares=np.full(3, 10 * (level**2 + std**2)))
    part.sides[side, side], part.kinds[kind] = 10, 10
    return Checked("x", 3, {"train": part}, {"train": ()}).advice()


def test_of_usual_images_nothing_is_said() -> None:
    assert advised() == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"side": 64}, ["--image-size 64 --patch-size 8"]),
        ({"kind": "grey of 16 bits", "level": 0.8}, ["--pixels.channels 1"]),
        ({"level": 0.8}, ["--pixels.mean '[0.800,0.800,0.800]' --pixels.std '[0.226,0.226,0.226]'"]),
        ({"level": 0.01, "std": 0.02}, ["0 .. 65535", "--pixels.mean '[0.010,"]),
    ],
)
def test_settings_that_fit_are_advised(settings: dict[str, float], said: list[str]) -> None:
    found = advised(**settings)  # type: ignore[arg-type]
    assert len(found) == len(said)
    assert all(words in line for words, line in zip(said, found, strict=True))


@pytest.mark.parametrize("side", range(8, 112))
def test_what_fits_makes_no_pixel_up_and_leaves_enough_patches(side: int) -> None:
    size, patch = fitting(side)
    assert size <= side
    assert size % patch == 0
    assert 16 <= (size // patch) ** 2 <= 196


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data", str(pictures), "--json", str(tmp_path / "check.json"), "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert "train: b/text.jpg: not an image that can be read" in said
    assert "! 1 of 2 validation images are training images" in said
    found = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert found["splits"]["train"]["classes"] == {"a": 2, "b": 2}
    assert found["splits"]["train"]["skipped"][0]["name"] == "b/text.jpg"
    assert found["splits"]["train"]["same_content"] == [["a/1.jpg", "b/4.jpeg"]]
    assert found["in_both_splits"] == 1


def test_the_file_of_the_command_is_a_path_as_people_type_it(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    command = ["check", "--data", str(pictures), "--workers", "0", "--json"]
    assert main([*command, "~/found.json"]) == 0
    assert (tmp_path / "found.json").is_file()
    capsys.readouterr()
    assert main([*command, "x" * 5000]) == 2
    assert "this name is too long" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ("--data nowhere", 2, "--data nowhere: there is no such file or folder"),
        ("--data EMPTY", 2, "EMPTY is empty: give a folder of images"),
        ("--data BROKEN", 1, "none of the 1 images can be read; the first, text.jpg: not an image"),
        ("--data PICTURES --channels 0", 2, "--channels 0: must be at least 1"),
        ("--data PICTURES --max-pixels 0", 2, "--max-pixels 0: must be at least 1"),
        ("--data PICTURES --workers -1", 2, "--workers -1: must be auto, 0 or more"),
        ("", 2, "--data is missing"),
    ],
)
def test_what_cannot_be_checked_is_one_line(
    flags: str, code: int, said: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "text.jpg").write_text("no picture")
    for word, path in {"EMPTY": tmp_path / "empty", "BROKEN": tmp_path / "broken", "PICTURES": pictures}.items():
        flags, said = flags.replace(word, str(path)), said.replace(word, str(path))
    assert main(["check", *flags.split()]) == code
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert said in shown
