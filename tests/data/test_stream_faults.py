"""Streams when something breaks: connections, servers, files, indices. No sample is lost that can be had."""

import errno
import hashlib
import os
import pickle
import tarfile
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from shard_server import Trouble, add, jpeg, served, write_index, write_parquet, write_shards
from stream_reading import batches, contents, opened, same

from perceptual_mae.data import (
    BrokenImage,
    StreamSettings,
)
from perceptual_mae.data.streaming import address, anywhere, shelf, transfer, units, web
from perceptual_mae.data.streaming.reply import Lost, Refused
from perceptual_mae.data.streaming.shards import find_shards
from perceptual_mae.data.views import eval_batches
from perceptual_mae.errors import PmaeError


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


def test_what_is_too_long_is_fetched_anew(tmp_path, quick):
    (tmp_path / "a.bin").write_bytes(b"abc")
    part = tmp_path / "part"
    part.write_bytes(b"of another version")
    with served(tmp_path) as url:
        transfer.download(f"{url}/a.bin", part, quick, size=3)
    assert part.read_bytes() == b"abc"


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


def test_the_checksums_of_an_index_are_known_however_shards_are_named(tmp_path, quick):
    write_shards(tmp_path, [2, 2])
    sums = [hashlib.md5((tmp_path / f"00{number}.tar").read_bytes()).hexdigest() for number in range(2)]
    write_index(tmp_path, [{"url": f"00{n}.tar", "nsamples": 2, "md5sum": sums[n]} for n in range(2)])
    with served(tmp_path) as url:
        for spec in (url, url + "/00{0..1}.tar", f"stream:{tmp_path}/*.tar"):
            assert [shard.md5 for shard in find_shards(spec, "train", quick)] == sums


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


def test_what_an_earlier_run_could_not_fetch_is_counted_by_the_next(tmp_path, quick, monkeypatch):
    write_shards(tmp_path, [4], index=False)

    def fail(url, *_, **__):
        raise transfer.Unavailable(url, "HTTP 503")

    with served(tmp_path) as url:
        with monkeypatch.context() as patch:
            patch.setattr(units, "download", fail)
            with pytest.raises(PmaeError, match="HTTP 503; its samples cannot be counted"):
                opened(f"{url}/000.tar", quick)
        assert len(opened(f"{url}/000.tar", quick)) == 4


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


def test_shards_that_are_missing_for_good_end_no_run(monkeypatch):
    """Those between are open, and tell nothing when they are read again."""
    now = [0.0]
    monkeypatch.setattr(shelf, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def open_unit(number, _):
        if number % 8 == 0:
            raise BrokenImage("HTTP 404")
        return SimpleNamespace(close=lambda: None)

    ours = shelf.Shelf("x", open_unit)
    ours._expected = list(range(8 * shelf.HOPELESS))  # they stay open
    for _ in range(3):
        now[0] += shelf.REMEMBERED + 1
        for number in ours._expected:
            if number % 8:
                ours.get(number)
            else:
                with pytest.raises(BrokenImage, match="HTTP 404"):
                    ours.get(number)


class Link:
    """A file system with one file, whose parts take as long as `seconds` says by their numbers and sizes."""

    def __init__(self, monkeypatch, size, seconds):
        self.data, self.seconds = np.random.default_rng(0).bytes(size), seconds
        self.now, self.asked = 0.0, []
        monkeypatch.setattr(anywhere, "file_system", lambda url, timeout: (self, url))
        monkeypatch.setattr(anywhere, "within", self.within)
        monkeypatch.setattr(anywhere, "time", SimpleNamespace(monotonic=lambda: self.now))

    def invalidate_cache(self):
        pass

    def info(self, _):
        return {"size": len(self.data)}

    def cat_file(self, _, start, end):
        self.now += self.seconds(len(self.asked), end - start)
        self.asked.append(range(start, end))
        return self.data[start:end]

    def within(self, seconds, action):
        begun, answer = self.now, action()
        if self.now - begun > seconds:
            raise Lost("no answer")
        return answer


@pytest.mark.parametrize(("rate", "largest"), [(40e3, 2**15), (4e6, 2**19), (1e9, 2**23)])
def test_a_slow_file_system_is_asked_for_less_at_once(tmp_path, quick, monkeypatch, rate, largest):
    link = Link(monkeypatch, 18 * 2**20, lambda number, size: 99 if number == 5 else size / rate)
    transfer.download("x://a", tmp_path / "part", StreamSettings(quick.cache, timeout=1.0, retries=1))
    assert (tmp_path / "part").read_bytes() == link.data
    assert max(map(len, link.asked)) == largest
    # Of what came before the part that hung nothing is fetched twice.
    hung = link.asked.pop(5)
    assert link.asked[5].start == hung.start
    assert all(one.stop == other.start for one, other in pairwise(link.asked))


def test_a_link_that_becomes_slow_is_asked_for_less(monkeypatch):
    sizes = [2**15, 2**17, 2**19, 2**21, 2**19, 2**19]
    Link(monkeypatch, sum(sizes), lambda number, size: size / (1e9 if number < 3 else 3e6))
    with anywhere.read("x://a", 0, None, "", 1.0) as reply:
        assert [len(chunk) for chunk in reply.chunks] == sizes


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
    for kind in ("", "stream:", "wds:", "stream:wds:"):
        assert address.shown_spec(f"{kind}https://me:pass@host/a.tar?sig=1") == f"{kind}https://host/a.tar"
        assert address.shown_spec(f"{kind}./a?b.tar") == f"{kind}./a?b.tar"
