"""Seals: whatever is changed, cut, lost or added after a folder was sealed is named."""

import hashlib
import json
import random
from pathlib import Path

import pytest

from perceptual_mae.training.manifest import MANIFEST, Damaged, seal, verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sealed folder with files at two depths, one of them empty."""
    (tmp_path / "sharded").mkdir()
    for name, content in {
        "model": b"weights" * 99,
        "sharded/0": b"first",
        "sharded/1": b"second",
        "empty": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
    seal(tmp_path)
    assert verify(tmp_path)
    return tmp_path


def complaint(folder: Path) -> str:
    with pytest.raises(Damaged) as error:
        verify(folder)
    return str(error.value)


def test_the_manifest_says_what_sha256sum_says(folder: Path) -> None:
    files = json.loads((folder / MANIFEST).read_text())["files"]
    assert files.keys() == {"model", "sharded/0", "sharded/1", "empty"}
    assert files["model"] == {"bytes": 693, "sha256": hashlib.sha256(b"weights" * 99).hexdigest()}


def test_without_a_manifest_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("weights")
    assert not verify(tmp_path)


def test_what_is_wrong_is_named(folder: Path) -> None:
    (folder / "model").write_bytes(b"Weights" + b"weights" * 98)
    assert complaint(folder) == "model: its checksum differs"
    (folder / "sharded" / "0").write_bytes(b"firs")
    assert complaint(folder) == "sharded/0: 4 bytes instead of 5"
    (folder / "extra").write_text("")
    assert complaint(folder) == "extra was not there when it was saved"
    (folder / "empty").unlink()
    assert complaint(folder) == "empty is missing"
    seal(folder)  # whoever changes a folder on purpose seals it anew
    assert verify(folder)


def test_any_single_bit_is_noticed(folder: Path) -> None:
    rng = random.Random(0)
    for name in ("model", "sharded/1", MANIFEST):
        path = folder / name
        whole = path.read_bytes()
        bits = rng.sample(range(8 * len(whole)), 40)
        for bit in bits:
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            assert complaint(folder)
        path.write_bytes(whole)
    assert verify(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', '{"files": {"model": {}}}', "[" * 9999])
def test_a_manifest_that_is_none(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    assert complaint(folder) == "manifest.json cannot be read"


def test_what_file_browsers_leave_is_no_damage(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / ".trash").mkdir()
    (folder / ".trash" / "old").write_text("")
    assert verify(folder)
