"""`pmae shard`: every image once, as it was, in an order of the seed; whole shards or none, whatever is killed."""

import hashlib
import io
import json
import math
import multiprocessing
import os
import signal
import tarfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from odd_files import encode, photograph
from shard_server import jpeg, write_parquet, write_shards

from perceptual_mae.cli.main import main
from perceptual_mae.data import Item, StreamSettings, decode, open_source, sharding
from perceptual_mae.data.shard_file import encoded
from perceptual_mae.data.sharding import ShardSettings
from perceptual_mae.data.types import BrokenImage
from perceptual_mae.errors import PmaeError, UsageError


@pytest.fixture
def photos(tmp_path):
    """Thirty photographs in three classes, one of them broken."""
    for number in range(30):
        file = tmp_path / "photos" / "abc"[number % 3] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(number))
    (tmp_path / "photos" / "b" / "broken.jpg").write_bytes(b"\xff\xd8\xff text")
    return tmp_path / "photos"


def shard(data, out, split="all", workers=0, **settings):
    return sharding.write_shards(str(data), out, ShardSettings(**settings), split, workers)


def members(folder):
    """(shard, name, data) of everything in the shards."""
    for file in sorted(folder.glob("*.tar")):
        with tarfile.open(file) as tar:
            for member in tar:
                yield file.name, member.name, tar.extractfile(member).read()


def digests(folder):
    return {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_every_image_once_and_as_it_was(tmp_path, photos):
    out = tmp_path / "shards"
    done = shard(photos, out, samples=8)
    assert (done.images, done.shards, done.skipped, done.made) == (30, 4, 1, 4)
    images = [data for _, name, data in members(out) if name.endswith(".jpg")]
    assert Counter(images) == Counter(jpeg(number) for number in range(30))
    assert images != [jpeg(number) for number in range(30)]
    labels = {name[:9]: int(data) for _, name, data in members(out) if name.endswith(".cls")}
    keys = {data: name[:9] for _, name, data in members(out) if name.endswith(".jpg")}
    assert all(labels[keys[jpeg(number)]] == number % 3 for number in range(30))
    assert (out / "skipped.txt").read_text().startswith("b/broken.jpg\t")
    index = json.loads((out / "index.json").read_text())
    assert index["__kind__"] == "wids-shard-index-v1"
    assert index["classes"] == ["a", "b", "c"]
    for entry in index["shardlist"]:
        file = out / entry["url"]
        assert entry["filesize"] == file.stat().st_size
        assert entry["md5sum"] == hashlib.md5(file.read_bytes()).hexdigest()
    assert sum(entry["nsamples"] for entry in index["shardlist"]) == 30
    assert sorted(os.listdir(out)) == ["index.json", "skipped.txt", *(f"train-{n:06d}.tar" for n in range(4))]


def test_what_is_written_is_read_as_a_stream_and_as_wds(tmp_path, photos):
    out = tmp_path / "shards"
    shard(photos, out, samples=8)
    settings = StreamSettings(cache=str(tmp_path / "cache"))
    stream = open_source(f"stream:{out}", stream=settings)
    assert Counter(stream[index].data for index in range(30)) == Counter(jpeg(number) for number in range(30))
    shards = open_source(f"wds:{out}")
    assert len(shards) == 30
    assert shards.classes == ("0", "1", "2")
    # A stream, too, can be written anew: each image once.
    again = shard(f"stream:{out}", tmp_path / "again", samples=11)
    assert (again.images, again.shards) == (30, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_seed_makes_the_bytes(tmp_path, photos, workers):
    shard(photos, tmp_path / "one", samples=8)
    shard(photos, tmp_path / "two", samples=8, workers=workers)
    shard(photos, tmp_path / "other", samples=8, seed=1)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(tmp_path / "one") != digests(tmp_path / "other")


def _killed_at(monkeypatch, shard_number, photos, out):
    """Write shards in a process that is killed in the middle of one."""
    usual = sharding.write_shard

    def deadly(path, items, **options):
        def until_killed():
            for count, item in enumerate(items):
                if path.name.endswith(f"{shard_number}.tar") and count == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield item

        return usual(path, until_killed(), **options)

    monkeypatch.setattr(sharding, "write_shard", deadly)
    process = multiprocessing.get_context("fork").Process(target=shard, args=(photos, out), kwargs={"samples": 8})
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setattr(sharding, "write_shard", usual)


def test_a_kill_keeps_the_shards_that_are_finished(tmp_path, photos, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    shard(photos, whole, samples=8)
    _killed_at(monkeypatch, 2, photos, out)
    assert not (out / "index.json").exists()
    first = (out / "train-000000.tar").stat().st_mtime_ns
    # One of the two that are there is damaged meanwhile.
    with open(out / "train-000001.tar", "r+b") as file:
        file.seek(700)
        file.write(b"?")
    done = shard(photos, out, samples=8)
    assert (done.images, done.made) == (30, 3)
    assert (out / "train-000000.tar").stat().st_mtime_ns == first
    assert digests(out) == digests(whole)


def test_a_second_call_changes_nothing_and_mends_what_is_broken(tmp_path, photos):
    out = tmp_path / "out"
    shard(photos, out, samples=8)
    before = digests(out)
    assert shard(photos, out, samples=8).made == 0
    (out / "train-000003.tar").unlink()
    done = shard(photos, out, samples=8)
    assert (done.made, done.skipped) == (1, 1)
    assert digests(out) == before


def test_splits(tmp_path):
    write_parquet(tmp_path / "train.parquet", 10, 5)
    write_parquet(tmp_path / "validation.parquet", 4, 5, first=10)
    done = shard(tmp_path, tmp_path / "both", samples=4)
    assert (done.images, done.shards) == (14, 4)
    settings = StreamSettings(cache=str(tmp_path / "cache"))
    sizes = [len(open_source(f"stream:{tmp_path}/both", split, stream=settings)) for split in ("train", "validation")]
    assert sizes == [10, 4]
    shard(tmp_path, tmp_path / "one", split="validation", samples=4)
    assert sorted(path.name for path in (tmp_path / "one").glob("*.tar")) == ["validation-000000.tar"]


@pytest.mark.parametrize(
    ("train", "validation", "classes"),
    [("abc", "ac", ["a", "b", "c"]), ("bc", "abc", ["b", "c", "a"]), ("abc", "ab", ["a", "b", "c"])],
)
@pytest.mark.parametrize("written", [("all",), ("train", "validation")])
def test_both_splits_number_their_classes_alike(tmp_path, train, validation, classes, written):
    name_of = {}
    for split, names in (("train", train), ("val", validation)):
        for name in names:
            file = tmp_path / "photos" / split / name / "1.jpg"
            file.parent.mkdir(parents=True)
            file.write_bytes(jpeg(len(name_of)))
            name_of[jpeg(len(name_of))] = name
    for split in written:
        shard(tmp_path / "photos", tmp_path / split, split=split)
        assert json.loads((tmp_path / split / "index.json").read_text())["classes"] == classes
    found = {(file, name): data for split in written for file, name, data in members(tmp_path / split)}
    images = {key: data for key, data in found.items() if key[1].endswith(".jpg")}
    assert len(images) == len(name_of)
    for (file, name), data in images.items():
        assert classes[int(found[file, name.replace("jpg", "cls")])] == name_of[data]
    assert all(shard(tmp_path / "photos", tmp_path / split, split=split).made == 0 for split in written)


def test_a_split_whose_numbers_stay_is_the_same_data(tmp_path):
    """So a call goes on with the shards of an earlier version, which numbered each split by itself."""
    for name in ("train/a", "train/b", "val/a"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.jpg").write_bytes(jpeg(1))
    shard(tmp_path / "photos", tmp_path / "out")
    made = json.loads((tmp_path / "out" / "index.json").read_text())["made"]["splits"]
    for split in ("train", "validation"):
        assert made[split]["data"] == open_source(str(tmp_path / "photos"), split).fingerprint()


def test_a_split_is_written_whatever_the_other_is(tmp_path):
    (tmp_path / "photos" / "train").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "photos" / "val" / name).mkdir(parents=True)
        (tmp_path / "photos" / "val" / name / "1.jpg").write_bytes(jpeg(1))
    shard(tmp_path / "photos", tmp_path / "out", split="validation")
    assert json.loads((tmp_path / "out" / "index.json").read_text())["classes"] == ["a", "b"]


def test_no_shard_is_left_whose_images_are_all_broken(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(12):
        (tmp_path / "photos" / f"{number:02d}.jpg").write_bytes(jpeg(number) if number < 8 else b"\xff\xd8\xff")
    out = tmp_path / "out"
    done = shard(tmp_path / "photos", out, samples=1)
    assert (done.images, done.shards, done.made) == (8, 8, 8)
    assert len(list(out.glob("*.tar"))) == 8
    assert len(open_source(f"wds:{out}")) == 8
    before = digests(out)
    assert shard(tmp_path / "photos", out, samples=1).made == 0
    assert digests(out) == before


def test_the_size_of_a_shard(tmp_path, photos):
    shard(photos, tmp_path / "out", shard_size=0.02)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "out").glob("*.tar"))[:-1]]
    assert len(sizes) > 2
    assert all(10_000 < size < 40_000 for size in sizes)


@pytest.mark.parametrize(("name", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif")])
def test_suffixes_are_told_by_the_first_bytes(name, suffix):
    data = encode(photograph((8, 8)), name)
    assert encoded(data) == (data, suffix)


@pytest.mark.parametrize("name", ["BMP", "TIFF", "PPM", "JPEG2000"])
def test_other_formats_have_a_suffix_that_a_stream_knows(name):
    from perceptual_mae.data.streaming.tar import IMAGES

    assert f".{encoded(encode(photograph((8, 8)), name))[1]}" in IMAGES


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tensors_become_png(channels):
    image = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    data, suffix = encoded(image)
    assert suffix == "png"
    assert torch.equal(decode(data, channels), image)


def test_tensors_of_many_channels_become_arrays():
    image = torch.randint(0, 256, (6, 5, 7), dtype=torch.uint8)
    data, suffix = encoded(image)
    assert suffix == "npy"
    assert np.array_equal(np.load(io.BytesIO(data)), image.numpy())
    assert torch.equal(decode(data, 6), image)


@pytest.mark.parametrize("data", [b"", b"some text", BrokenImage("gone")])
def test_what_is_no_image_is_broken(data):
    with pytest.raises(BrokenImage):
        encoded(data)


def test_wrong_uses_are_one_line(tmp_path, photos, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="the folder is not empty"):
        shard(photos, tmp_path / "full")
    with pytest.raises(UsageError, match="this is a file"):
        shard(photos, tmp_path / "full" / "thesis.txt")
    with pytest.raises(UsageError, match="it has no validation images"):
        shard(photos, tmp_path / "out", split="validation")
    shard(photos, tmp_path / "out", samples=8)
    with pytest.raises(UsageError, match="holds shards of other seed"):
        shard(photos, tmp_path / "out", samples=8, seed=3)
    for wrong in ({"samples": 0}, {"channels": 0}, *({"shard_size": size} for size in (0, math.nan, math.inf, 1e303))):
        with pytest.raises(UsageError, match="--"):
            ShardSettings(**wrong)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"text")
    with pytest.raises(PmaeError, match=r"no image could be read \(1 tried\); the first, a.jpg"):
        shard(tmp_path / "broken", tmp_path / "none")


def test_counts_are_checked_by_reading_the_shards(tmp_path, photos, monkeypatch):
    usual = sharding.write_shard

    def boastful(path, items, **options):
        return replace(usual(path, items, **options), nsamples=99)

    monkeypatch.setattr(sharding, "write_shard", boastful)
    with pytest.raises(PmaeError, match=r"train-000000.tar holds \d images, not 99 .*: remove it and repeat"):
        shard(photos, tmp_path / "out", samples=8)
    assert not (tmp_path / "out" / "index.json").exists()


def test_the_command(tmp_path, photos, capsys):
    out = tmp_path / "out"
    command = ["shard", str(photos), "--out", str(out), "--samples", "10", "--workers", "2"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"{out}: 30 images in 4 shards; 1 broken images left out" in said
    assert f"--data stream:{out}" in said
    assert main(command) == 0
    assert "(4 of them there already)" in capsys.readouterr().out
    assert main([*command, "--workers", "-1"]) == 2
    assert main(["shard", str(tmp_path / "nothing"), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_unlabelled_data_has_no_classes(tmp_path):
    write_shards(tmp_path / "set", [4])
    settings = StreamSettings(cache=str(tmp_path / "cache"))
    assert isinstance(open_source(f"stream:{tmp_path}/set", stream=settings)[0], Item)
    shard(f"stream:{tmp_path}/set", tmp_path / "out")
    assert {name.partition(".")[2] for _, name, _ in members(tmp_path / "out")} == {"jpg"}
