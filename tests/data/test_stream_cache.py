"""The cache of a stream: what is fetched ahead, what makes room, and several processes at it."""

import errno
import multiprocessing
import os
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest
from shard_server import Trouble, add, jpeg, served, write_shards
from stream_reading import batches, contents, opened

from perceptual_mae.data import (
    StreamSettings,
    decode,
    views,
)
from perceptual_mae.data.streaming import cache, units
from perceptual_mae.data.streaming.cache import Cache
from perceptual_mae.data.views import first_readable
from perceptual_mae.errors import PmaeError


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


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(cache.fcntl, "flock", no_locks)
    with pytest.raises(PmaeError, match=r"--loader.cache .*cannot lock files \(no locks available\): name a folder"):
        Cache(tmp_path, 1000)


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
