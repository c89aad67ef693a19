"""Streams from tar and parquet files, here and elsewhere: the same samples in the same order, whatever breaks."""

import errno
import multiprocessing
import os
import pickle
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from shard_server import Trouble, add, jpeg, served, write_index, write_parquet, write_shards, write_tar

from perceptual_mae.data import (
    BrokenImage,
    StreamSettings,
    decode,
    fixed_images,
    open_source,
    plan_for,
    train_loader,
    views,
)
from perceptual_mae.data.streaming import address, anywhere, shelf, transfer, units, web
from perceptual_mae.data.streaming.cache import Cache
from perceptual_mae.data.streaming.reply import Lost, Refused
from perceptual_mae.data.views import eval_batches, first_readable
from perceptual_mae.errors import PmaeError, UsageError


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Settings of a stream with a cache of its own and short waits."""
    monkeypatch.setattr(transfer, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(transfer, "_LONGEST_WAIT", 0.02)
    return StreamSettings(cache=str(tmp_path / "cache"), timeout=0.5, retries=3)


def opened(spec, settings, split="train"):
    return open_source(str(spec), split, stream=settings)


def contents(source):
    return [source[index].data for index in range(len(source))]


def batches(source, batch_size=6, last_step=8, seed=0, lanes=3, buffer=24, **options):
    plan = plan_for(source, batch_size, seed, lanes, buffer)
    return list(train_loader(source, plan, image_size=(16, 16), last_step=last_step, **options))


def same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.names == other.names
        assert one.skipped == other.skipped
    return True


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


@pytest.fixture
def seven(tmp_path, quick):
    """Seven shards of uneven sizes, 61 samples."""
    write_shards(tmp_path / "seven", [9, 3, 20, 7, 11, 1, 10])
    return opened(f"stream:{tmp_path}/seven", quick)


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


# -- what breaks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("drop", [0.05, 0.4])
def test_dropped_connections_lose_nothing(tmp_path, quick, seven, drop, ranges):
    write_parquet(tmp_path / "t.parquet", 40, 5)
    expected = batches(seven, last_step=10)
    trouble = Trouble(drop, ranges)
    settings = StreamSettings(cache=quick.cache, timeout=2, retries=25)
    with served(tmp_path, trouble) as url:
        assert same(batches(opened(f"{url}/seven", settings), last_step=10), expected)
        table = opened(f"{url}/t.parquet", settings)
        assert contents(table) == [jpeg(number) for number in range(40)]
    assert trouble.dropped > 0 or drop < 0.1


def test_what_is_cut_off_goes_on_from_there(tmp_path, quick):
    data = np.random.default_rng(0).bytes(2_000_000)
    (tmp_path / "big.bin").write_bytes(data)
    part = tmp_path / "part"
    part.write_bytes(data[:1_500_000])
    trouble = Trouble()
    with served(tmp_path, trouble) as url:
        transfer.download(f"{url}/big.bin", part, quick, size=len(data), version=f'"{len(data)}"')
    assert part.read_bytes() == data
    assert trouble.sent["big.bin"] == 500_000


def test_a_full_disk_is_not_a_lost_connection(tmp_path, quick, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"abc")
    write, full, cleared = transfer._write, [True], []

    def write_or_not(reply, file):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(reply, file)

    def clear():
        cleared.append(True)
        full[0] = False

    monkeypatch.setattr(transfer, "_write", write_or_not)
    with served(tmp_path, Trouble()) as url:
        transfer.download(f"{url}/a.bin", tmp_path / "part", quick, size=3, room=clear)
        assert (tmp_path / "part").read_bytes() == b"abc"
        assert cleared == [True]
        (tmp_path / "part").unlink()
        full[0] = True
        with pytest.raises(transfer.Unavailable, match=r"no room left.*--loader.cache-gib.*\(4 att"):
            transfer.download(f"{url}/a.bin", tmp_path / "part", quick, size=3)


def test_a_wrong_checksum_is_fetched_again_and_then_given_up(tmp_path, quick):
    (tmp_path / "a.bin").write_bytes(b"abc")
    trouble = Trouble()
    with served(tmp_path, trouble) as url, pytest.raises(transfer.Unavailable, match=r"MD5.*\(4 attempts\)"):
        transfer.download(f"{url}/a.bin", tmp_path / "part", quick, size=3, md5="0" * 32)
    assert trouble.asked["a.bin"] == 4


def test_a_server_that_hangs_is_given_up_in_time(tmp_path, quick):
    write_shards(tmp_path / "set", [8, 8, 8])
    trouble = Trouble()
    trouble.hang.add("set/001.tar")
    settings = StreamSettings(cache=quick.cache, timeout=0.2, retries=1)
    with served(tmp_path, trouble) as url:
        source = opened(f"{url}/set", settings)
        epoch = batches(source, 6, last_step=4, lanes=1, buffer=24)
        lost = {skip.name for batch in epoch for skip in batch.skipped}
        assert lost == {f"001.tar sample {row}" for row in range(8)}
        assert {skip.reason for batch in epoch for skip in batch.skipped} == {"no answer for 0.2 s (2 attempts)"}
        assert trouble.asked["set/001.tar"] == 2  # and not once for each sample
        assert all(len(batch) == 6 for batch in epoch)
        # Another process that began before asks the note that this one left.
        other = pickle.loads(pickle.dumps(source))
        assert isinstance(other[9].data, BrokenImage)
        assert trouble.asked["set/001.tar"] == 2


def test_a_server_in_trouble_recovers(tmp_path, quick):
    write_shards(tmp_path / "set", [4])
    trouble = Trouble()
    trouble.status["set/000.tar"] = [503, 429, 500]
    with served(tmp_path, trouble) as url:
        assert opened(f"{url}/set", quick)[0].data == jpeg(0)
    assert trouble.asked["set/000.tar"] == 4


@pytest.mark.parametrize("status", [403, 404])
def test_a_missing_shard_is_skipped_counted_and_not_asked_for_again(tmp_path, quick, status):
    write_shards(tmp_path / "set", [8, 8, 8])
    trouble = Trouble()
    trouble.status["set/002.tar"] = [status] * 20
    with served(tmp_path, trouble) as url:
        epoch = batches(opened(f"{url}/set", quick), 6, last_step=4)
    skipped = {skip.name: skip.reason for batch in epoch for skip in batch.skipped}
    assert set(skipped) == {f"002.tar sample {row}" for row in range(8)}
    assert all(reason.startswith(f"HTTP {status}") for reason in skipped.values())
    assert trouble.asked["set/002.tar"] == 1


def test_damaged_shards_give_what_is_whole(tmp_path, quick):
    write_shards(tmp_path / "set", [6, 6, 6])
    cut = tmp_path / "set" / "000.tar"
    cut.write_bytes(cut.read_bytes()[:7000])
    hurt = tmp_path / "set" / "001.tar"
    data = bytearray(hurt.read_bytes())
    with tarfile.open(hurt) as tar:
        at = tar.getmember("000009.jpg").offset
    data[at : at + 300] = b"\xa5" * 300
    hurt.write_bytes(data)
    source = opened(f"stream:{tmp_path}/set", quick)
    broken = {source[i].name: str(source[i].data) for i in range(18) if isinstance(source[i].data, BrokenImage)}
    assert {name.split()[0] for name in broken} == {"000.tar", "001.tar"}
    assert {reason for name, reason in broken.items() if name.startswith("000")} == {"cut short after 7000 bytes"}
    assert {reason for name, reason in broken.items() if name.startswith("001")} == {
        f"damaged at byte {at}: no tar header is there"
    }
    assert source[6].data == jpeg(6)
    epoch = batches(source, 6, last_step=3)
    assert {skip.name for batch in epoch for skip in batch.skipped} == set(broken)
    # Without an index the damage is one sample, so that it is met and listed.
    (tmp_path / "set" / "index.json").unlink()
    counted = opened(f"stream:{tmp_path}/set", quick)
    assert counted.counts.tolist()[1:] == [4, 6]
    assert isinstance(counted[int(counted.counts[0]) + 3].data, BrokenImage)


def test_a_damaged_row_group_is_skipped(tmp_path, quick):
    path = write_parquet(tmp_path / "t.parquet", 20, 5)
    data = bytearray(path.read_bytes())
    import pyarrow.parquet as pq

    column = pq.read_metadata(path).row_group(1).column(2)
    data[column.data_page_offset : column.data_page_offset + 200] = b"\xff" * 200
    path.write_bytes(data)
    source = opened(f"stream:{path}", quick)
    broken = [index for index in range(20) if isinstance(source[index].data, BrokenImage)]
    assert broken == [5, 6, 7, 8, 9]
    assert source[5].name == "t.parquet row group 1 sample 0"
    assert "\n" not in str(source[5].data)


def test_an_index_that_lies(tmp_path, quick):
    write_shards(tmp_path / "set", [6, 6])
    shards = [{"url": "000.tar", "nsamples": 9}, {"url": "001.tar", "nsamples": 4}]
    write_index(tmp_path / "set", shards)
    source = opened(f"stream:{tmp_path}/set", quick)
    assert len(source) == 13
    assert str(source[7].data) == "the shard has 6 images, not the 9 that its index says"
    assert source[9].data == jpeg(6)
    write_index(tmp_path / "set", [{"url": "000.tar", "nsamples": 6, "filesize": 5}])
    with served(tmp_path) as url:
        web = opened(f"{url}/set", quick)
        assert "bytes, but should have 5" in str(web[0].data)


def test_an_index_from_elsewhere_names_no_file_of_this_machine(tmp_path, quick):
    for name, where in (("path", "/etc/hostname.tar"), ("url", "file:///etc/hostname.tar")):
        (tmp_path / name).mkdir()
        write_index(tmp_path / name, [{"url": where, "nsamples": 1}])
    with served(tmp_path) as url:
        assert str(opened(f"{url}/path", quick)[0].data).startswith("HTTP 404")  # a path of that server
        with pytest.raises(PmaeError, match="a file of this machine"):
            opened(f"{url}/url", quick)


def test_evil_members_are_harmless(tmp_path, quick):
    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "/etc/passwd.jpg", jpeg(1))
        add(tar, "../../up.jpg", jpeg(2))
        add(tar, "link.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "hard.jpg", type=tarfile.LNKTYPE, linkname="/etc/passwd")
        add(tar, "pipe.jpg", type=tarfile.FIFOTYPE)
        add(tar, "device.jpg", type=tarfile.CHRTYPE)
        add(tar, "folder.jpg", type=tarfile.DIRTYPE)
        add(tar, "sparse.jpg", b"x" * 600, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
        add(tar, "._hidden.jpg", jpeg(9))
        add(tar, "new\nline\x1b[31m.jpg", jpeg(3))
        add(tar, f"{'long' * 60}.jpg", jpeg(4))
        add(tar, "two.png", jpeg(5))
        add(tar, "two.jpg", jpeg(6))
        add(tar, "two.seg.png", jpeg(7))
        add(tar, "two.json", b"{}")
    source = opened(f"stream:{evil}", quick)
    names = [source[index].name for index in range(len(source))]
    assert contents(source) == [jpeg(number) for number in (1, 2, 3, 4, 5)]
    assert names[:2] == ["evil.tar//etc/passwd.jpg", "evil.tar/../../up.jpg"]
    assert all(name.isprintable() for name in names)
    assert sorted(os.listdir(tmp_path)) == ["cache", "evil.tar"]


def test_every_dialect_of_tar(tmp_path, quick):
    for number, dialect in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / f"{number}.tar", "w", format=dialect) as tar:
            add(tar, f"{'folder/' * 20}{number}.JPEG", jpeg(number))
            add(tar, f"{'folder/' * 20}{number}.cls", b"1")
            add(tar, f"b{number}.webp", jpeg(number + 3), uid=0, mtime=2**31)
    source = opened(f"stream:{tmp_path}/*.tar", quick)
    assert contents(source) == [jpeg(number) for number in (0, 3, 1, 4, 2, 5)]


def test_when_everything_fails_the_run_ends_with_one_line(tmp_path, quick):
    write_shards(tmp_path / "set", [2] * 12)
    trouble = Trouble()
    with served(tmp_path, trouble) as url:
        source = opened(f"{url}/set", quick)
        trouble.status.update({f"set/{number:03d}.tar": [404] * 20 for number in range(12)})
        with pytest.raises(PmaeError, match=f"{shelf.HOPELESS} shards in a row .*HTTP 404.*goes on") as error:
            batches(source, workers=1)
        assert "\n" not in str(error.value)
        with pytest.raises(PmaeError, match="in a row"):
            list(eval_batches(source, image_size=(16, 16)))


def test_a_crawl_is_a_hang():
    """Bytes that come, but not to an end."""

    class Dripping:
        def read1(self, _):
            time.sleep(0.01)
            return b"x"

    with pytest.raises(Lost, match="slower than 1024 bytes a second"):
        list(web._chunks(Dripping(), timeout=0.1))


def test_a_file_system_that_hangs_is_left_behind():
    begun = time.monotonic()
    with pytest.raises(Lost, match=r"no answer for 0.05 s"):
        anywhere.within(0.05, lambda: time.sleep(3))
    assert time.monotonic() - begun < 2
    with pytest.raises(Refused, match="no such file"):
        anywhere.within(1, lambda: Path("/nowhere/x").read_bytes())
    with pytest.raises(Lost, match="what it says"):
        anywhere.within(1, lambda: exec("raise RuntimeError('what\\nit says')"))


def test_secrets_are_cut_out():
    assert address.split_login("https://me:p%40ss@host:80/x?y") == ("https://host:80/x?y", ("me", "p@ss"))
    assert address.shown("https://me:pass@host/a/b.tar?sig=1#x") == "https://host/a/b.tar"
    assert address.shown("s3://key:secret@bucket/a?versionId=3") == "s3://bucket/a"


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


# -- the cache ---------------------------------------------------------------------------------------------------------


def _read_all(url, settings, queue):
    source = opened(url, settings)
    queue.put([bytes(item) for item in contents(source)] == [jpeg(number % 40) for number in range(len(source))])


def test_what_is_expected_is_fetched_ahead(tmp_path, quick):
    write_shards(tmp_path / "set", [5] * 6)
    trouble = Trouble()
    with served(tmp_path, trouble) as url:
        source = opened(f"{url}/set", quick)
        source.expect([4, 1])
        deadline = time.monotonic() + 10
        while not {4, 1} <= set(source._shelf._units) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert {path for path in trouble.asked if path.endswith(".tar")} == {"set/004.tar", "set/001.tar"}
        assert source[20].data == jpeg(20)


def test_pieces_of_a_process_let_go_of_nothing_they_share(tmp_path, quick, monkeypatch):
    write_shards(tmp_path / "set", [12] * 40)
    source = opened(f"stream:{tmp_path}/set", quick)
    opens = Counter()
    usual = source._shelf._open
    monkeypatch.setattr(source._shelf, "_open", lambda unit, wait: (opens.update([unit]), usual(unit, wait))[1])
    batches(source, 48, last_step=10, lanes=16, buffer=16 * 12, micro_batches=4)
    # Both threads may open a unit at the same time, and the ends of a lane are needed twice; no more than that.
    assert opens.total() < 2 * 40
    assert max(opens.values()) <= 3


def test_what_failed_ahead_of_time_may_be_there_in_time(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(units, "NOTED", 0.0)
    write_shards(tmp_path / "set", [5] * 2)
    trouble = Trouble()
    trouble.status["set/001.tar"] = [404]
    with served(tmp_path, trouble) as url:
        source = opened(f"{url}/set", quick)
        source.expect([1])
        deadline = time.monotonic() + 10
        while not source._shelf._failed_ahead and time.monotonic() < deadline:
            time.sleep(0.01)
        assert source[5].data == jpeg(5)


def test_a_stream_without_a_readable_image_is_not_read_to_its_end(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(views, "_TRIED", 7)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(20):
            add(tar, f"{number}.jpg", b"text")
    with pytest.raises(PmaeError, match=r"\(7 tried\); the first, a.tar/0.jpg: not an image"):
        first_readable(opened(f"stream:{tmp_path}/a.tar", quick))


def test_two_processes_fetch_each_shard_once(tmp_path, quick):
    write_shards(tmp_path / "set", [5] * 6)
    trouble = Trouble()
    context = multiprocessing.get_context("fork")
    with served(tmp_path, trouble) as url:
        queue = context.Queue()
        readers = [context.Process(target=_read_all, args=(f"{url}/set", quick, queue)) for _ in range(3)]
        for reader in readers:
            reader.start()
        assert [queue.get(timeout=30) for _ in readers] == [True] * 3
        for reader in readers:
            reader.join(10)
    assert [trouble.asked[f"set/{number:03d}.tar"] for number in range(6)] == [1] * 6


def test_the_longest_unused_make_room_but_what_is_read_stays(tmp_path, quick):
    write_shards(tmp_path / "set", [5] * 40)
    size = (tmp_path / "set" / "000.tar").stat().st_size
    settings = StreamSettings(cache=quick.cache, cache_gib=6.5 * size / 2**30, timeout=1, retries=1)
    trouble = Trouble()
    with served(tmp_path, trouble) as url:
        source = opened(f"{url}/set", settings)
        expected = [jpeg(number % 40) for number in range(200)]
        assert contents(source) == expected
        kept = [path for path in (tmp_path / "cache").iterdir() if path.suffix == ".tar"]
        # A few are open still; all others have gone.
        assert 6 <= len(kept) <= 12
        assert contents(source) == expected
    assert sum(trouble.asked.values()) > 60


def test_what_others_throw_out_meanwhile_is_not_lost(tmp_path, monkeypatch):
    cache, rival = Cache(tmp_path, 10**9), Cache(tmp_path, 0)
    usual = Path.replace

    def then_the_rival_clears(self, target):
        moved = usual(self, target)
        rival.clear()
        return moved

    monkeypatch.setattr(Path, "replace", then_the_rival_clears)
    held = cache.fill("x", 3, lambda part: part.write_bytes(b"abc"))
    assert os.pread(held.descriptor, 3, 0) == b"abc"
    assert held.path.exists()
    held.close()
    rival.clear()
    assert not held.path.exists()
    assert cache.hold("x") is None


def test_half_a_file_of_a_killed_process_is_finished(tmp_path, quick):
    write_shards(tmp_path / "set", [30])
    trouble = Trouble()
    with served(tmp_path, trouble) as url:
        source = opened(f"{url}/set", quick)
        whole = (tmp_path / "set" / "000.tar").read_bytes()
        (tmp_path / "cache" / f"{source._units[0].key}.tar.part").write_bytes(whole[:20000])
        assert decode(source[29].data).shape[0] == 3
    assert trouble.sent["set/000.tar"] == len(whole) - 20000


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    write_shards(tmp_path / "set", [3])
    (tmp_path / "file").write_text("")
    with pytest.raises(PmaeError, match=r"--loader.cache .*file/x: Not a directory"):
        opened(f"stream:{tmp_path}/set", StreamSettings(cache=str(tmp_path / "file" / "x")))
