import errno
import os
from pathlib import Path

import pytest
from odd_files import write_odd_files
from shard_server import write_shards
from stream_reading import opened

from perceptual_mae.data import StreamSettings
from perceptual_mae.data.streaming import transfer

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def odd_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    good, broken = write_odd_files(folder)
    return folder, good, broken


@pytest.fixture
def shared():
    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"../shared/data/{name} is not there")
        return SHARED / name

    return find


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Caches are folders of the test session, and nothing reaches for the network."""
    import datasets.config

    cache = tmp_path_factory.getbasetemp() / "hf"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def refused(monkeypatch):
    """`refused(os, "stat", path)`: the system refuses this call for this path, as it never does to root."""

    def refuse(owner, call, path):
        usual = getattr(owner, call)

        def answer(name, *arguments, **options):
            if not isinstance(name, int) and os.fsdecode(name) == str(path):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return usual(name, *arguments, **options)

        monkeypatch.setattr(owner, call, answer)

    return refuse


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Settings of a stream with a cache of its own and short waits."""
    monkeypatch.setattr(transfer, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(transfer, "_LONGEST_WAIT", 0.02)
    return StreamSettings(cache=str(tmp_path / "cache"), timeout=0.5, retries=3)


@pytest.fixture
def seven(tmp_path, quick):
    """Seven shards of uneven sizes, 61 samples."""
    write_shards(tmp_path / "seven", [9, 3, 20, 7, 11, 1, 10])
    return opened(f"stream:{tmp_path}/seven", quick)
