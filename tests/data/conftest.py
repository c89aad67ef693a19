from pathlib import Path

import pytest
from odd_files import write_odd_files

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
    """`datasets` writes to a folder of the test session, and nothing reaches for the network."""
    import datasets.config

    cache = tmp_path_factory.getbasetemp() / "hf"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
