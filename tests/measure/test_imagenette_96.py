"""The second data set of docs/results.md, made of Imagenette."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import imagenette_96
from perceptual_mae.data import decode, open_source


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["imagenette_96", *map(str, arguments)])
    return imagenette_96.main()


def test_images_are_squares_with_their_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "imagenette2-160", tmp_path / "imagenette-96"
    for split in ("train", "val"):
        for label, identifier in enumerate(imagenette_96.CLASSES):
            (root / split / identifier).mkdir(parents=True)
            Image.new("L" if label else "RGB", (160, 213), 20 * label).save(root / split / identifier / "1.JPEG")
    assert run(monkeypatch, root, out) == 0
    for split in ("train", "validation"):
        source = open_source(str(out), split)
        assert source is not None
        assert list(source.classes) == list(imagenette_96.CLASSES.values())
        assert sorted(source[index].label for index in range(len(source))) == list(range(10))
        for index in range(len(source)):
            image = decode(source[index].data)
            assert image.shape == (3, 96, 96)
            assert (image.float() - 20 * source[index].label).abs().max() <= 2


def test_another_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path, tmp_path / "out") == 2
    assert "is not Imagenette: there is no image in train/n01440764" in capsys.readouterr().err


def test_classes_are_those_of_the_files_that_were_measured() -> None:
    folder = Path(__file__).parents[3] / "shared" / "data" / "imagenette-96"
    if not folder.is_dir():
        pytest.skip("no ../shared/data/imagenette-96 beside the repository")
    source = open_source(str(folder), "train")
    assert source is not None
    assert list(source.classes) == list(imagenette_96.CLASSES.values())
