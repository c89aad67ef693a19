"""An export is whole or not there, takes the place of an earlier one and of nothing else."""

import errno
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import WriteVit

from perceptual_mae.errors import PmaeError, UsageError, WriteError
from perceptual_mae.export import export_encoder, timm_format
from perceptual_mae.export.check import Check
from perceptual_mae.export.exporting import TARGETS
from perceptual_mae.export.folder import default_place, put_record, replacing


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_earlier_export_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in ("1", "2"):
        with replacing(out) as folder:
            (folder / f"file{number}").write_text(number)
            put_record(folder, {"perceptual_mae": "0"})
            assert not (out / f"file{number}").exists()
        assert names(out) == {f"file{number}", "export.json"}
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("added", ["notes.txt", "more/notes.txt"])
def test_what_somebody_put_there_is_not_thrown_away(tmp_path: Path, added: str) -> None:
    out = tmp_path / "out"
    with replacing(out) as folder:
        put_record(folder, {"perceptual_mae": "0"})
    (out / added).parent.mkdir(exist_ok=True)
    (out / added).write_text("mine")
    with pytest.raises(UsageError, match=rf"--out .*out: it holds {added}, which no export wrote"), replacing(out):
        pass
    assert (out / added).read_text() == "mine"


@pytest.mark.parametrize("record", [None, "{", "[]", '{"files": ["mine"]}', '{"perceptual_mae": "0", "files": 3}'])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, record: str | None) -> None:
    (tmp_path / "mine").write_text("x")
    if record is not None:
        (tmp_path / "export.json").write_text(record)
    with pytest.raises(UsageError, match="which no export wrote"), replacing(tmp_path):
        pass
    assert (tmp_path / "mine").exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out, message in ((tmp_path / "file", "this is a file"), (tmp_path / "file" / "out", "file is a file")):
        with pytest.raises(UsageError, match=message), replacing(out):
            pass


def test_a_full_disk_is_one_line_and_leaves_the_earlier_one(
    write_vit: WriteVit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = write_vit(), tmp_path / "out"
    export_encoder(file, "timm", out)
    before = (out / "export.json").stat().st_mtime_ns

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(timm_format, "save_file", full)
    with pytest.raises(WriteError, match=r"out cannot be written: no space left on device; make space there"):
        export_encoder(file, "timm", out)
    assert (out / "export.json").stat().st_mtime_ns == before
    assert names(tmp_path) == {"out", file.name}


def test_what_is_not_the_encoder_is_thrown_away(
    write_vit: WriteVit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = timm_format.timm_config

    def wrong(source: Any) -> dict[str, Any]:
        config = right(source)
        config["model_args"]["num_heads"] = 2  # the weights fit all the same
        return config

    monkeypatch.setattr(timm_format, "timm_config", wrong)
    with pytest.raises(PmaeError, match="what was written is not the encoder, and is thrown away: the folder in timm"):
        export_encoder(write_vit(), "timm", tmp_path / "out")
    assert names(tmp_path) == {"weights.safetensors"}


def test_every_target_is_compared() -> None:
    assert set(TARGETS) == {"timm", "safetensors", "transformers", "onnx", "torch-export", "hub"}
    assert not Check("this", 2.0, 1.0).passed


@pytest.mark.parametrize(
    ("target", "library", "extra"),
    [("transformers", "transformers", "transformers"), ("onnx", "onnxruntime", "onnx"), ("onnx", "onnxscript", "onnx")],
)
def test_a_missing_library_is_named_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(PmaeError) as caught:
        export_encoder("no-such-encoder", target, tmp_path / "out")
    assert f"pip install 'perceptual-mae[{extra}]'" in str(caught.value)
    assert library in str(caught.value)


def test_one_file_replaces_only_one_of_its_kind(write_vit: WriteVit, tmp_path: Path) -> None:
    file, out = write_vit(), tmp_path / "encoder.safetensors"
    for _ in range(2):
        assert export_encoder(file, "safetensors", out).path == out
    with pytest.raises(UsageError, match="this file was not written by an export"):
        export_encoder(file, "safetensors", file)
    with pytest.raises(UsageError, match=r"this is a folder; name a file, such as .*encoder.safetensors"):
        export_encoder(file, "safetensors", tmp_path)


def test_where_nobody_says_where() -> None:
    assert default_place("runs/a", Path("runs/a"), "timm") == Path("runs/a/export/timm")
    assert default_place("timm:vit_x:/a/b.pth", None, "timm") == Path("export/timm-vit_x-a-b.pth/timm")
    assert default_place("...", None, "timm") == Path("export/encoder/timm")


def test_numbers_of_the_record_are_json(write_vit: WriteVit, tmp_path: Path) -> None:
    folder = export_encoder(write_vit(), "timm", tmp_path / "out").path
    assert json.loads((folder / "export.json").read_text())["image_size"] == [32, 32]
