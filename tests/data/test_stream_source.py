"""Streams from tar and parquet files, here and elsewhere: the same samples in the same order."""

import pickle
import tarfile

import pytest
import torch
from shard_server import Trouble, add, jpeg, served, write_index, write_parquet, write_shards, write_tar
from stream_reading import batches, contents, opened, same

from perceptual_mae.data import (
    fixed_images,
)
from perceptual_mae.data.joined import open_splits
from perceptual_mae.data.streaming.shards import find_shards
from perceptual_mae.data.views import first_readable
from perceptual_mae.errors import PmaeError, UsageError

# -- what a stream is --------------------------------------------------------------------------------------------------


def test_a_folder_of_shards(tmp_path, quick):
    write_shards(tmp_path / "shards", [5, 3, 8])
    source = opened(f"stream:{tmp_path}/shards", quick)
    assert len(source) == 16
    assert source.classes == ()
    assert contents(source) == [jpeg(number) for number in range(16)]
    assert source[5].name == "001.tar/000005.jpg"
    assert {source[index].label for index in range(16)} == {-1}
    assert pickle.loads(pickle.dumps(source))[7].data == jpeg(7)


@pytest.mark.parametrize("spec", ["", "/*.tar", "/{000..002}.tar", "/index.json", "/00[012].tar"])
def test_every_way_to_name_them(tmp_path, quick, spec):
    write_shards(tmp_path / "shards", [5, 3, 8])
    source = opened(f"stream:{tmp_path}/shards{spec}", quick)
    assert [source[index].name for index in (0, 5, 8)] == [
        "000.tar/000000.jpg",
        "001.tar/000005.jpg",
        "002.tar/000008.jpg",
    ]


@pytest.mark.parametrize("spec", ["00{0..2}.tar", "00*.tar", "./001.tar"])
def test_files_beside_one_find_their_index(tmp_path, quick, monkeypatch, spec):
    write_shards(tmp_path, [5, 3, 8])
    monkeypatch.chdir(tmp_path)
    assert None not in {shard.samples for shard in find_shards(f"stream:{spec}", "train", quick)}


@pytest.mark.parametrize("folder", ["set [v2]", "set{1}", "a*b?"])
@pytest.mark.parametrize("spec", ["", "/[0].tar"])
def test_names_are_no_patterns(tmp_path, quick, folder, spec):
    write_tar(tmp_path / folder / "[0].tar", range(5))
    assert len(opened(f"stream:{tmp_path}/{folder}{spec}", quick)) == 5


def test_counts_without_an_index_are_found_once(tmp_path, quick, monkeypatch):
    write_shards(tmp_path / "shards", [5, 3], index=False)
    first = opened(f"stream:{tmp_path}/shards", quick)
    assert first.counts.tolist() == [5, 3]
    monkeypatch.setattr("perceptual_mae.data.streaming.units._count_members", None)
    again = opened(f"stream:{tmp_path}/shards", quick)
    assert again.counts.tolist() == [5, 3]
    assert again.fingerprint() == first.fingerprint()


def test_parquet_row_groups_are_units(tmp_path, quick):
    (tmp_path / "tables").mkdir()
    write_parquet(tmp_path / "tables" / "a.parquet", 10, 4)
    write_parquet(tmp_path / "tables" / "b.parquet", 5, 100, first=10)
    source = opened(f"stream:{tmp_path}/tables", quick)
    assert source.counts.tolist() == [4, 4, 2, 5]
    assert contents(source) == [jpeg(number) for number in range(15)]
    assert source[9].name == "a.parquet row group 2 sample 1"


def test_splits_by_the_words_in_their_names(tmp_path, quick):
    write_tar(tmp_path / "set" / "train-0.tar", range(4))
    write_tar(tmp_path / "set" / "validation-0.tar", range(4, 6))
    assert contents(opened(f"stream:{tmp_path}/set", quick)) == [jpeg(number) for number in range(4)]
    assert contents(opened(f"stream:{tmp_path}/set", quick, "validation")) == [jpeg(4), jpeg(5)]
    assert opened(f"stream:{tmp_path}/set/train-0.tar", quick, "validation") is None


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("stream:", UsageError, "is empty"),
        ("stream:{0}/nowhere", UsageError, "there is no file"),
        ("stream:{0}/empty", UsageError, "names no shard"),
        ("stream:{0}/mixed", UsageError, "name one kind"),
        ("stream:{0}/mixed/notes.txt", UsageError, "neither a .tar nor a .parquet"),
        ("stream:{0}/imageless", UsageError, "no image is in these 1 shards"),
        ("stream:{0}/noindex/index.json", PmaeError, "is no index of shards"),
        ("stream:{0}/other/index.json", PmaeError, "nsamples is -1"),
        ("https://user:secret@127.0.0.1:9/*.tar?key=secret", UsageError, "a web server lists no files"),
        ("http://user:secret@127.0.0.1:9/a.tar?key=secret", PmaeError, "http://127.0.0.1:9/a.tar"),
        ("nowhere://x/a.tar", UsageError, "is no kind of address"),
        ("http:///a.tar", PmaeError, "no host given"),
        ("http://[::1/a.tar", PmaeError, "not an address"),
        ("http://127.0.0.1:port/a.tar", PmaeError, "not an address"),
        ("stream:a\0b.tar", UsageError, "there is no file a\\x00b.tar"),
        ("stream:{1}.tar", UsageError, "there is no file"),
        ("https://me:secret@h/{{0..999999999}}.tar", UsageError, "too many names"),
        ("stream:https://me:secret@h/{{0..999999999}}.tar?key=secret", UsageError, "too many names"),
        ("wds:https://me:secret@h/{{1..0}}.tar", UsageError, "names no shard"),
    ],
)
def test_wrong_specs_are_one_line_without_secrets(tmp_path, quick, spec, error, words):
    for folder in ("empty", "mixed", "imageless", "noindex", "other"):
        (tmp_path / folder).mkdir()
    write_tar(tmp_path / "mixed" / "a.tar", range(2))
    write_parquet(tmp_path / "mixed" / "a.parquet", 2, 2)
    (tmp_path / "mixed" / "notes.txt").write_text("x")
    with tarfile.open(tmp_path / "imageless" / "a.tar", "w") as tar:
        add(tar, "a.txt", b"x")
    (tmp_path / "noindex" / "index.json").write_text("[1, 2]")
    write_index(tmp_path / "other", [{"url": "a.tar", "nsamples": -1}])
    with pytest.raises(error) as raised:
        opened(spec.format(tmp_path, "x" * 5000), quick)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_split_that_is_missing_is_said_without_secrets(tmp_path):
    write_shards(tmp_path, [2])
    with served(tmp_path) as url:
        spec = f"stream:{url}/000.tar?key=secret".replace("//", "//me:secret@")
        with pytest.raises(UsageError, match=r"it has no validation images") as raised:
            open_splits(spec, "validation")
    assert "secret" not in str(raised.value)


def test_a_missing_driver_is_named(quick):
    pytest.importorskip("fsspec")
    try:
        import s3fs  # noqa: F401
    except ImportError:
        with pytest.raises(PmaeError, match="pip install s3fs"):
            opened("s3://bucket/shards/a.tar", quick)


def test_what_fsspec_knows(tmp_path, quick):
    import fsspec

    write_shards(tmp_path / "shards", [5, 3])
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "shards"), "/bucket/set", recursive=True)
    memory.pipe("/bucket/tables/t.parquet", write_parquet(tmp_path / "t.parquet", 7, 4).read_bytes())
    try:
        assert contents(opened("stream:memory://bucket/set", quick)) == [jpeg(number) for number in range(8)]
        assert contents(opened("memory://bucket/set/*.tar", quick)) == [jpeg(number) for number in range(8)]
        assert contents(opened("stream:memory://bucket/tables", quick)) == [jpeg(number) for number in range(7)]
        with pytest.raises(PmaeError, match=r"memory://bucket/set/9.tar: no such file"):
            opened("memory://bucket/set/9.tar", quick)
    finally:
        memory.rm("/bucket", recursive=True)


# -- the order ---------------------------------------------------------------------------------------------------------


def test_an_epoch_gives_each_sample_once(seven):
    epoch = batches(seven, 6, last_step=10)
    names = [name for batch in epoch for name in batch.names]
    assert len(names) == len(set(names)) == 60
    assert not any(batch.skipped for batch in epoch)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_processes_and_workers_see_the_same(seven, world_size, workers):
    whole = batches(seven, 6, last_step=4)
    ranks = [
        batches(seven, 6, last_step=4, rank=rank, world_size=world_size, workers=workers) for rank in range(world_size)
    ]
    for step, batch in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert [name for part in parts for name in part.names] == batch.names


def test_resuming_changes_nothing(tmp_path, quick, seven):
    again = opened(f"stream:{tmp_path}/seven", quick)
    assert same(batches(again, last_step=23, first_step=7), batches(seven, last_step=23)[7:])


def test_the_same_from_the_web_and_from_a_moved_folder(tmp_path, quick, seven):
    with served(tmp_path) as url:
        web = opened(f"{url}/seven", quick)
        assert web.fingerprint() == seven.fingerprint()
        assert same(batches(web, last_step=11, workers=2), batches(seven, last_step=11))
    (tmp_path / "seven").rename(tmp_path / "moved")
    moved = opened(f"stream:{tmp_path}/moved", quick)
    assert moved.fingerprint() == seven.fingerprint()


def test_parquet_from_the_web(tmp_path, quick):
    path = write_parquet(tmp_path / "t.parquet", 80, 8)
    trouble = Trouble()
    with served(tmp_path, trouble) as url:
        web = opened(f"{url}/t.parquet", quick)
        assert trouble.sent["t.parquet"] < 70_000  # only the footer
        assert same(batches(web), batches(opened(f"stream:{path}", quick)))
        assert trouble.sent["t.parquet"] < 0.6 * path.stat().st_size  # and then only the images


# -- few shards for those who pick -------------------------------------------------------------------------------------


def test_pictures_fetch_few_shards(tmp_path, quick):
    write_shards(tmp_path / "set", [6] * 30)
    trouble = Trouble()
    with served(tmp_path, trouble) as url:
        source = opened(f"{url}/set", quick)
        first_readable(source)
        images, names = fixed_images(source, 8, image_size=(16, 16))
        assert len(images) == len(set(names)) == 8
        assert sum(path.endswith(".tar") for path in trouble.asked) <= 5
