"""The data of docs/results.md, made of Tiny ImageNet."""

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks import tiny_imagenet_40
from perceptual_mae.data import open_source

CHOSEN = ("n01443537", "n09256479")


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A folder as Tiny ImageNet's zip has it, with two of the classes and another."""
    root, stream = tmp_path / "tiny-imagenet-200", np.random.default_rng(0)
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for place, identifier in enumerate((*CHOSEN, "n99999999")):
        folder = root / "train" / identifier / "images"
        folder.mkdir(parents=True)
        for number in range(3):
            file = io.BytesIO()
            Image.fromarray(stream.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file, "jpeg")
            (folder / f"{identifier}_{number}.JPEG").write_bytes(file.getvalue())
        (root / "val" / "images" / f"val_{place}.JPEG").write_bytes(file.getvalue())
        lines.append(f"val_{place}.JPEG\t{identifier}\t0\t32\t44\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return root


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["tiny_imagenet_40", *map(str, arguments)])
    return tiny_imagenet_40.main()


def test_files_are_taken_as_they_are(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "tiny-imagenet-40"
    assert run(monkeypatch, unpacked, out) == 0
    train, held = open_source(str(out), "train"), open_source(str(out), "validation")
    assert train is not None
    assert held is not None
    assert list(train.classes) == list(tiny_imagenet_40.CLASSES.values())
    items = [train[index] for index in range(len(train))]
    files = {path.read_bytes(): path for name in CHOSEN for path in (unpacked / "train" / name / "images").iterdir()}
    assert len(items) == len(files) == 6
    for item in items:
        identifier = files.pop(bytes(item.data)).parents[1].name
        assert item.label == list(tiny_imagenet_40.CLASSES).index(identifier)
    assert sorted(held[index].label for index in range(len(held))) == [0, 39]


def test_another_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path, tmp_path / "out") == 2
    assert "is not Tiny ImageNet" in capsys.readouterr().err


def test_classes_are_those_of_the_files_that_were_measured() -> None:
    file = Path(__file__).parents[3] / "shared" / "data" / "tiny-imagenet-40" / "train.parquet"
    if not file.is_file():
        pytest.skip("no ../shared/data/tiny-imagenet-40 beside the repository")
    source = open_source(str(file.parent), "train")
    assert source is not None
    assert list(source.classes) == list(tiny_imagenet_40.CLASSES.values())
    table, identifiers = pq.read_table(file), list(tiny_imagenet_40.CLASSES)
    for image, label in zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True):
        assert image["path"].startswith(f"{identifiers[label]}_")
