"""`pmae export`: flags, exit codes, and one line for whatever cannot be."""

from pathlib import Path
from typing import get_args

import pytest

from perceptual_mae.api import pretrain
from perceptual_mae.cli.export import Target
from perceptual_mae.cli.main import main
from perceptual_mae.export.targets import TARGETS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, config_for) -> Path:  # type: ignore[no-untyped-def]
    return pretrain(config_for(tmp_path_factory.mktemp("runs") / "mine", max_steps=1, batch_size=2))


def test_the_command_knows_every_target() -> None:
    assert get_args(Target) == tuple(TARGETS)


def test_it_says_what_it_did(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # the second replaces the first
        assert main(["export", str(run), "--to", "timm", "--licence", "apache-2.0", "--image-size", "40x24"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("encoder: vit 96/6/3, patch 8, 40 x 24: step 1 of the run")
        assert lines[1].startswith("the folder in timm: largest difference ")
        assert lines[-1] == str(run / "export" / "timm")
    card = (run / "export" / "timm" / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert "local-dir:mine/export/timm" in card


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("", 2, "--to is missing"),
        ("--to tensorflow", 2, "--to tensorflow: give one of timm, safetensors, transformers, onnx, torch-export, hub"),
        ("--to timm --image-size 33", 2, "33 x 33 is not a multiple of its patch size, 8"),
        ("--to timm --licence two,words", 2, "--licence two,words: give a name as the hub has it"),
        ("--to timm --repo me/mine", 2, "--repo is for --to hub"),
        ("--to onnx --private", 2, "--private is for --to hub"),
        ("--to hub", 2, "--repo is missing"),
        ("--to hub --repo mine", 2, "--repo mine: give USER/NAME"),
        ("--to timm --out RUN", 2, "which no export wrote; name another folder"),
        ("--to timm --out RUN/config.yaml", 2, "this is a file; name a folder"),
        ("--to safetensors --out RUN/encoder.safetensors", 2, "this file was not written by an export"),
        ("--to timm --nonsense 1", 2, "unknown flag --nonsense"),
        ("--to timm --out /proc/nowhere/out", 1, "/proc/nowhere/out cannot be written"),
        ("--to hub --repo me/mine", 1, "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: int, message: str
) -> None:
    assert main(["export", str(run), *arguments.replace("RUN", str(run)).split()]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    ("encoder", "code", "message"),
    [
        ("no-such-run", 2, "ENCODER no-such-run: there is no such file or folder"),
        ("pixels:8", 2, "ENCODER pixels:8: it is no network"),
        ("random:nano", 2, "there is no such size"),
    ],
)
def test_what_is_no_encoder(capsys: pytest.CaptureFixture[str], encoder: str, code: int, message: str) -> None:
    assert main(["export", encoder, "--to", "timm"]) == code
    assert message in capsys.readouterr().err
