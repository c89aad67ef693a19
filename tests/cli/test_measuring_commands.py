"""`pmae evaluate` and `pmae compare` as typed: what they print, and one line for what cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest

from perceptual_mae.api import pretrain
from perceptual_mae.cli import compare
from perceptual_mae.cli.main import main
from perceptual_mae.measure import comparison
from perceptual_mae.measure.config import CompareConfig


@pytest.fixture
def run(make_config: Any) -> Path:
    return pretrain(make_config("run", max_steps=1))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_evaluate_prints_a_table(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    flags = f"--parts knn,linear --pools mean --test-images 60 --train-images 90 --out {out} --cache {cache}"
    assert main(["evaluate", str(run), *flags.split()]) == 0
    told = capsys.readouterr()
    assert "k-NN, k = 20" in told.out
    assert "linear probe" in told.out
    assert f"everything: {out}" in " ".join(told.err.split()).replace(" /", " /")
    found = json.loads((out / "results.json").read_text())
    assert list(found["parts"]) == ["knn/mean", "linear/mean"]
    assert found["data"]["test_images"] == 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "ENCODER is missing"),
        (["nowhere"], "ENCODER nowhere: there is no such file or folder"),
        (["random:micro/8", "--image-size", "32"], "--data is missing"),
        (["random:micro/8", "--data", "photos", "--pools", "cla"], "--pools cla: give any of cls, mean, both"),
        (["random:micro/8", "--data", "photos", "--parts", "probe"], "--parts probe: 'probe' is none of"),
        (["random:micro/8", "--data", "photos", "--protocol", "fast"], "--protocol fast: give cached or mae"),
        (["random:micro/8", "--data", "photos", "--image-size", "33"], "--image-size 33"),
        (["random:micro/8", "--data", "photos", "--poolz", "cls"], "unknown flag --poolz; did you mean --pools?"),
        (["pixels:999", "--data", "photos"], "the side is a number of pixels up to 224"),
    ],
)
def test_evaluate_refuses_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *arguments, *(["--out", str(tmp_path / "out")] if arguments else [])]) == 2
    line = capsys.readouterr().err
    assert words in line
    assert line.strip().count("\n") == 0


def test_inception_that_is_not_there(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--parts", "reconstruction", "--inception", str(tmp_path / "no.pth"), "--out", str(tmp_path / "out")]
    assert main(["evaluate", str(run), *flags]) == 2
    assert "no.pth: there is no such file; download https://" in said(capsys)


def test_compare_takes_flags_of_training_and_of_evaluation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[CompareConfig, str]] = []

    def noted(config: CompareConfig, console: Any, command: str) -> Path:
        seen.append((config, command))
        return Path("there")

    monkeypatch.setattr(comparison, "compare", noted)
    arguments = ["--data", "my photos", "--methods", "mse,ls-gan-p", "--seeds", "3", "--model", "micro"]
    arguments += ["--image-size=64", "--patch-size", "8", "--evaluate.pools", "cls", "--encoders", "timm:a,timm:b:c"]
    arguments += ["--discriminator.update", "alternating", "--crop.scale", "[0.4,1]", "--floors", "false"]
    compare.run(arguments)
    ((config, command),) = seen
    assert config.methods == ("mse", "ls-gan-p")
    assert config.encoders == ("timm:a", "timm:b:c")
    assert (config.seeds, config.floors) == (3, False)
    assert config.evaluate.pools == ("cls",)
    assert (config.pretrain.model, config.pretrain.size) == ("micro", (64, 64))
    assert config.pretrain.discriminator.update == "alternating"
    assert config.pretrain.crop.scale == (0.4, 1)
    assert command.startswith("pmae compare --data 'my photos' --methods mse,ls-gan-p")
    assert "report: there/report.html" in said(capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--data is missing"),
        (["--data", "photos", "--methods", "mse,msse"], "--methods msse"),
        (["--data", "photos", "--methods", "dvae-p"], "needs a network, --loss-networks dvae:"),
        (["--data", "photos", "--method", "mse"], "unknown flag --method; did you mean --methods?"),
        (["--data", "photos", "--seeds", "0"], "--seeds 0: must be at least 1"),
    ],
)
def test_compare_refuses_in_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *arguments]) == 2
    line = capsys.readouterr().err
    assert words in line
    assert line.strip().count("\n") == 0
