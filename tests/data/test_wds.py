"""WebDataset shards as images."""

import pickle

import pytest
from source_reading import JPEG, PNG, labels_of, write_parquet, write_shard

from perceptual_mae.data import decode, open_source
from perceptual_mae.data.streaming import tar
from perceptual_mae.data.wds import expand_braces
from perceptual_mae.errors import PmaeError, UsageError


@pytest.mark.parametrize("form", ["{folder}", "{folder}/*.tar", "{folder}/train-{{00..01}}.tar"])
def test_shards(tmp_path, form):
    for shard in range(2):
        samples = [{"jpg": JPEG, "cls": str(label).encode()} for label in (3, shard)]
        write_shard(tmp_path / f"train-{shard:02d}.tar", samples, 2 * shard)
    if form != "{folder}/train-{{00..01}}.tar":
        write_shard(tmp_path / "val-00.tar", [{"jpg": JPEG, "cls": b"1"}])
    spec = "wds:" + form.format(folder=tmp_path)
    source = open_source(spec)
    assert len(source) == 4
    assert labels_of(source) == [3, 0, 3, 1]
    assert source[3].data == JPEG
    validation = open_source(spec, "validation")
    assert validation is None if "train" in form else len(validation) == 1


def test_shards_without_labels(tmp_path):
    write_shard(tmp_path / "a.tar", [{"png": PNG}, {"png": PNG}])
    source = open_source(f"wds:{tmp_path}/a.tar")
    assert source.classes == ()
    assert decode(source[1].data).shape == (3, 30, 40)


MIXED = {
    "formats from the first on": [{"jpg": JPEG, "cls": b"0"}, {"png": PNG, "cls": b"1"}] * 4,
    "a later format": [{"jpg": JPEG, "cls": b"0"}] * 9 + [{"png": PNG, "cls": b"1"}],
    "some labels": [{"jpg": JPEG}, {"jpg": JPEG, "cls": b"1"}] * 4,
    "later labels": [{"jpg": JPEG}] * 9 + [{"jpg": JPEG, "cls": b"1"}],
    "other files": [
        {"jpg": JPEG, "cls": b"1"},
        {"JPG": JPEG, "json": b"{}", "txt": b"a"},
        {"seg.png": PNG, "webp": JPEG},
    ],
}


@pytest.mark.parametrize("samples", MIXED.values(), ids=MIXED)
def test_shards_whose_samples_differ(tmp_path, samples):
    write_shard(tmp_path / "a.tar", samples[:6])
    write_shard(tmp_path / "b.tar", samples[6:], 6)
    source = open_source(f"wds:{tmp_path}")
    images = [
        next(data for name, data in sample.items() if data in {JPEG, PNG} and name[:3] != "seg") for sample in samples
    ]
    assert [source[index].data for index in range(len(source))] == images
    assert labels_of(source) == [int(sample.get("cls", b"-1")) for sample in samples]
    assert pickle.loads(pickle.dumps(source))[len(samples) - 1] == source[len(samples) - 1]
    assert source.fingerprint() == open_source(str(write_parquet(tmp_path / "same.parquet", images))).fingerprint()


def test_shards_whose_samples_are_alike_stay_as_they_are_cached(tmp_path, monkeypatch):
    import datasets

    usual, given = datasets.load_dataset, []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: given.append(k.get("features")) or usual(*a, **k))
    write_shard(tmp_path / "a.tar", [{"jpg": JPEG, "seg.png": PNG, "cls": b"1", "json": b"{}"}] * 7)
    assert open_source(f"wds:{tmp_path}")[6].data == JPEG
    assert given == [None]
    monkeypatch.setattr(tar, "_members", None)  # the headers are not read again
    assert len(open_source(f"wds:{tmp_path}")) == 7


@pytest.mark.parametrize("empty", [0, 1])
def test_an_empty_shard_is_passed_over(tmp_path, empty):
    write_shard(tmp_path / f"{empty}.tar", [])
    with pytest.raises(UsageError, match="the shards of the train split are empty"):
        open_source(f"wds:{tmp_path}")
    write_shard(tmp_path / f"{1 - empty}.tar", [{"jpg": JPEG, "cls": b"1"}] * 3)
    assert labels_of(open_source(f"wds:{tmp_path}")) == [1, 1, 1]


def test_wrong_shards(tmp_path):
    write_shard(tmp_path / "b-0.tar", [{"png": PNG}])
    with pytest.raises(UsageError, match=r"there is no file .*/b-1\.tar"):
        open_source(f"wds:{tmp_path}/b-{{0..1}}.tar")
    with pytest.raises(UsageError, match=r"names no \.tar file"):
        open_source(f"wds:{tmp_path}/c*.tar")
    (tmp_path / "broken.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(PmaeError, match=r"broken\.tar could not be loaded") as error:
        open_source(f"wds:{tmp_path}/broken.tar")
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=f"give wds:{tmp_path}/b-0.tar"):
        open_source(str(tmp_path / "b-0.tar"))
    with pytest.raises(UsageError, match=f"give wds:{tmp_path}"):
        open_source(str(tmp_path))


def test_braces():
    assert expand_braces("a{08..11}.tar") == ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]
    assert expand_braces("{x,y}{0..1}") == ["x0", "x1", "y0", "y1"]
