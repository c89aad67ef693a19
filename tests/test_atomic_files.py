"""Files that are whole or not there."""

import errno
import fcntl
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from perceptual_mae import files
from perceptual_mae.errors import PmaeError
from perceptual_mae.files import write_atomically, write_json, write_text


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half of the ne")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_is_taken_only_when_all_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "folder" / "notes.txt"
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(files, "flush_to_disk", lambda flushed: seen.append((flushed.read_text(), path.exists())))
    write_text(path, "grüße\n")
    assert seen == [("grüße\n", False)]
    assert path.read_bytes() == "grüße\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_json_is_json(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}


def test_files_can_be_read_by_whom_the_user_allows(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    path = write_atomically(tmp_path / "a.safetensors", lambda temporary: save_file({}, temporary))
    assert path.stat().st_mode == ordinary.stat().st_mode


def test_lists_of_numbers_are_one_line_of_json(tmp_path: Path) -> None:
    value = {
        "confusion": [[1, 2], [3, -4.5e-7]],
        "names": ["[1, 2]", "a[ 1 ].jpg"],
        "none": [],
        "deep": [{"x": [0.25]}],
    }
    text = write_json(tmp_path / "values.json", value).read_text()
    assert json.loads(text) == value
    assert "[3, -4.5e-07]" in text
    assert text.count("\n") < 20


def _hold(lock: Path, ready: Any, done: Any) -> None:
    with files.alone(lock, "here"):
        ready.set()
        done.wait(30)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "new" / ".lock", ready, done))
    other.start()
    try:
        assert ready.wait(30)
        with (
            pytest.raises(PmaeError, match="--out x: another process is writing it"),
            files.alone(tmp_path / "new" / ".lock", "--out x"),
        ):
            pass
    finally:
        done.set()
        other.join()
    with files.alone(tmp_path / "new" / ".lock", "--out x"):
        pass


def test_without_locks_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with files.alone(tmp_path / ".lock", "--out x"):
        pass
    (record,) = caplog.records
    assert record.getMessage().startswith("--out x: this file system cannot lock files (no locks available)")
