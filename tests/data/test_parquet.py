"""Parquet files, and folders of them, as images."""

import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_reading import JPEG, PNG, labels_of, names_of, write, write_parquet, write_shard

from perceptual_mae.data import BrokenImage, decode, open_source
from perceptual_mae.data.splits import pick_files
from perceptual_mae.errors import UsageError


@pytest.mark.parametrize("column", ["image", "img", "jpg", "bytes", "anything"])
@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_parquet_columns(tmp_path, column, kind):
    images = [JPEG, PNG] if kind == "bytes" else [{"bytes": JPEG, "path": "a"}, {"bytes": PNG, "path": None}]
    path = write_parquet(tmp_path / f"{column}-{kind}.parquet", images, column=column)
    source = open_source(str(path))
    assert [source[0].data, source[1].data] == [JPEG, PNG]
    assert labels_of(source) == [-1, -1]
    assert source.classes == ()
    assert open_source(str(path), "validation") is None


def test_parquet_class_names(tmp_path):
    from datasets import ClassLabel, Image

    features = {"image": Image(), "label": ClassLabel(names=["ape", "cat"])}
    images = [{"bytes": JPEG, "path": None}] * 3
    source = open_source(str(write_parquet(tmp_path / "a.parquet", images, [1, 0, 1], features=features)))
    assert source.classes == ("ape", "cat")
    assert labels_of(source) == [1, 0, 1]
    assert source[0].data == JPEG


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (["dog", "ape", None], ("ape", "dog"), [1, 0, -1]),
        (["10", "9", "10"], ("9", "10"), [1, 0, 1]),
        ([2, 0, None], ("0", "1", "2"), [2, 0, -1]),
        ([10**9, 5, 7], (), [-1, -1, -1]),
    ],
)
def test_parquet_labels(tmp_path, labels, classes, expected):
    source = open_source(str(write_parquet(tmp_path / "a.parquet", [JPEG] * 3, labels)))
    assert source.classes == classes
    assert labels_of(source) == expected


def test_a_parquet_file_without_rows_is_passed_over(tmp_path):
    empty = pa.table({"image": pa.array([], pa.binary())})
    pq.write_table(empty, tmp_path / "part-0.parquet")
    with pytest.raises(UsageError, match="there is no row in the parquet files of the train split"):
        open_source(str(tmp_path))
    write_parquet(tmp_path / "part-1.parquet", [JPEG, PNG])
    assert len(open_source(str(tmp_path))) == 2


def test_parquet_folder_with_splits(tmp_path):
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [JPEG] * 2)
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [PNG] * 3)
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", [PNG])
    write(tmp_path, "preview.png")
    source = open_source(str(tmp_path))
    assert [source[index].data for index in range(5)] == [JPEG] * 2 + [PNG] * 3
    assert names_of(source)[4] == "row 4"
    assert len(open_source(str(tmp_path), "validation")) == 1
    again = pickle.loads(pickle.dumps(source))
    assert again[3] == source[3]
    assert again.fingerprint() == source.fingerprint() != open_source(str(tmp_path), "validation").fingerprint()


def test_images_beside_a_table_are_a_folder_of_images(tmp_path):
    pq.write_table(pa.table({"file": ["1.jpg"], "score": [0.5]}), tmp_path / "scores.parquet")
    write(tmp_path, "1.jpg")
    assert names_of(open_source(str(tmp_path))) == ["1.jpg"]


@pytest.mark.parametrize(
    ("names", "train", "validation"),
    [
        (["train-0", "val-0", "test-0"], [0], [1]),
        (["0", "val-0"], [0], [1]),
        (["0", "1"], [0, 1], []),
        (["val-0", "val-1"], [0, 1], []),  # the only images there are
        (["val-0", "test-0"], [0, 1], []),
        (["train/0", "train/val-0", "val-0"], [0, 1], [2]),
    ],
)
def test_no_file_is_in_both_splits(names, train, validation):
    assert pick_files(Path(), names, "train") == [Path(names[index]) for index in train]
    assert pick_files(Path(), names, "validation") == ([Path(names[index]) for index in validation] or None)


@pytest.mark.parametrize("folder", ["set [v2]", "[!a]", "a*b?", "set{1}", "{a,b} c"])
def test_names_are_no_patterns(tmp_path, folder):
    table = write_parquet(tmp_path / "tables" / folder / "x.parquet", [JPEG, PNG])
    write_parquet(tmp_path / "tables" / "set v" / "x.parquet", [PNG])  # which a pattern would find
    write_shard(tmp_path / "shards" / folder / "x[1].tar", [{"jpg": JPEG}, {"jpg": JPEG}])
    shards = tmp_path / "shards" / folder
    for spec in (table, table.parent, f"wds:{shards}", f"wds:{shards}/x[1].tar"):
        assert len(open_source(str(spec))) == 2


def test_names_of_tables_that_are_no_text(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    pq.write_table(pa.table({"image": [JPEG, PNG]}), tmp_path / "x.parquet")
    odd.mkdir()
    (tmp_path / "x.parquet").rename(odd / "x.parquet")
    assert len(open_source(str(odd))) == 2
    assert len(open_source(f"stream:{odd}")) == 2
    pq.write_table(pa.table({"score": [0.5]}), tmp_path / "x.parquet")
    (tmp_path / "x.parquet").replace(odd / "x.parquet")
    write(tmp_path, "1.jpg")
    assert names_of(open_source(str(tmp_path))) == ["1.jpg"]


def test_missing_images_are_broken_and_files_are_followed(tmp_path):
    write(tmp_path, "real.jpg")
    images = [{"bytes": None, "path": str(tmp_path / "real.jpg")}, {"bytes": None, "path": None}]
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})})
    pq.write_table(pa.table({"image": images}, schema=schema), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"))
    assert decode(source[0].data).shape == (3, 30, 40)
    with pytest.raises(BrokenImage, match="empty"):
        decode(source[1].data)


def test_wrong_parquet(tmp_path):
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(UsageError, match=r"text\.parquet is not a parquet file"):
        open_source(str(tmp_path / "text.parquet"))
    whole = write_parquet(tmp_path / "b" / "cut.parquet", [JPEG] * 3)
    whole.write_bytes(whole.read_bytes()[:-50])
    for spec in (whole, whole.parent):
        with pytest.raises(UsageError, match=r"cut\.parquet is cut short"):
            open_source(str(spec))
    pq.write_table(pa.table({"x": [1], "y": ["a"]}), tmp_path / "numbers.parquet")
    with pytest.raises(UsageError, match=r"no column of images \(columns: x, y\)"):
        open_source(str(tmp_path / "numbers.parquet"))


@pytest.mark.parametrize(
    ("name", "counts", "classes"), [("tiny-imagenet-40", (20000, 2000), 40), ("imagenette-96", (9469, 3925), 10)]
)
def test_shared_parquet(shared, name, counts, classes):
    folder = shared(name)
    for split, count in zip(("train", "validation"), counts, strict=True):
        source = open_source(str(folder), split)
        assert len(source) == count
        assert len(source.classes) == classes
        table = pq.read_table(folder / f"{split}.parquet")
        for row in (0, count // 3, count - 1):
            assert source[row].data == table["image"][row]["bytes"].as_py()
            assert source[row].label == table["label"][row].as_py()


@pytest.mark.parametrize(("name", "counts"), [("coco-tiny", (50, 50)), ("camvid-small", (200, 60))])
def test_shared_folders(shared, name, counts):
    folder = str(shared(name))
    assert (len(open_source(folder)), len(open_source(folder, "validation"))) == counts
