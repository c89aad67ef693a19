"""Splits of a data set as one source."""

from pathlib import Path

import pytest
from odd_files import encode, photograph
from shard_server import served, write_shards

from perceptual_mae.data.joined import open_splits
from perceptual_mae.errors import UsageError
from perceptual_mae.estimate.measured import look_up


def write(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photograph((20 + number, 20)), "PNG"))


def test_all_splits_in_order_with_classes_by_name(tmp_path: Path) -> None:
    write(tmp_path / "train", "ant/1.png", "bee/2.png", "bee/3.png")
    write(tmp_path / "val", "bee/1.png", "cat/1.png")
    train, both = open_splits(str(tmp_path), "train"), open_splits(str(tmp_path), "all")
    assert both.classes == ("ant", "bee", "cat")
    assert both.name == str(tmp_path)
    items = [both[index] for index in range(len(both))]
    assert [(item.name, both.classes[item.label]) for item in items] == [
        ("train/ant/1.png", "ant"),
        ("train/bee/2.png", "bee"),
        ("train/bee/3.png", "bee"),
        ("validation/bee/1.png", "bee"),
        ("validation/cat/1.png", "cat"),
    ]
    assert items[3].data == tmp_path / "val" / "bee" / "1.png"
    assert train[1].name == "bee/2.png"
    assert len({source.fingerprint() for source in (train, both, open_splits(str(tmp_path), "validation"))}) == 3


def test_data_without_splits_is_itself(tmp_path: Path) -> None:
    write(tmp_path, "1.png", "2.png")
    source = open_splits(str(tmp_path), "all")
    assert [source[index].name for index in range(len(source))] == ["1.png", "2.png"]
    assert source[0].label == -1
    with pytest.raises(UsageError, match=r"--data .*: it has no validation images"):
        open_splits(str(tmp_path), "validation")


def test_images_without_labels_stay_so(tmp_path: Path) -> None:
    write(tmp_path / "train", "ant/1.png", "bee/2.png")
    write(tmp_path / "val", "1.png")
    source = open_splits(str(tmp_path), "all")
    assert [source[index].label for index in range(3)] == [0, 1, -1]


def test_what_is_said_of_images_elsewhere_holds_no_secret(tmp_path):
    for split in ("train", "val"):
        write_shards(tmp_path / split, [3])
    with served(tmp_path) as url:
        spec = f"{url}/{{train,val}}/000.tar?signature=hunter2".replace("http://", "http://me:hunter2@")
        source = open_splits(spec, "all")
        assert len(source) == 6
        told = look_up(spec, 3).what
    for text in (source.name, told, str(UsageError(f"--data {spec}: there is nothing"))):
        assert "/{train,val}/000.tar" in text
        assert "hunter2" not in text
