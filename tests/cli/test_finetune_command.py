"""`pmae finetune` as people type it: what it leaves behind, and what it says of what cannot be."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from perceptual_mae.cli.main import main

SMALL = ["--image-size", "32", "--device", "cpu", "--workers", "0", "--log.tensorboard", "false", "--log.every", "1"]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with crops of two photographs, one folder each, not split."""
    root = tmp_path_factory.mktemp("classes")
    for name, photograph in {"coffee": data.coffee(), "<b>cat": data.chelsea()}.items():
        (root / name).mkdir()
        for number in range(10):
            crop = photograph[20 * number : 20 * number + 40, 20 * number : 20 * number + 40]
            Image.fromarray(crop).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command."""
    out = tmp_path_factory.mktemp("runs") / "classifier"
    more = ["--data", str(classes), "--out", str(out), "--epochs", "2", "--batch-size", "8", "--lr", "1e-3"]
    assert main(["finetune", "classification", "random:micro/8", *more, *SMALL]) == 0
    return out


def said(arguments: Sequence[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command ends with."""
    capsys.readouterr()
    assert main(list(arguments)) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("pmae: ")
    assert "Traceback" not in "\n".join(lines)
    return lines[-1]


def test_what_a_run_leaves_behind(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "figures",
        "report.html",
        "model.safetensors",
        "timm.safetensors",
        "encoder.safetensors",
        "run.json",
    }
    facts = json.loads((run / "run.json").read_text())
    assert facts["state"] == "finished"
    assert facts["data"]["classes"] == ["<b>cat", "coffee"]
    page = (run / "report.html").read_text()
    assert "<b>cat" not in page
    assert "&lt;b&gt;cat" in page


def test_the_same_command_says_that_nothing_is_left_to_do(
    run: Path, classes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["--data", str(classes), "--out", str(run), "--epochs", "2", "--batch-size", "8", "--lr", "1e-3", *SMALL]
    assert main(["finetune", "classification", "random:micro/8", *again]) == 0
    assert "nothing is left to do" in capsys.readouterr().err
    line = said(["finetune", "classification", "random:micro/8", *again, "--ema", "0.9"], 2, capsys)
    assert "ema: 0.0, now 0.9" in line


def test_the_config_file_repeats_the_run(run: Path, tmp_path: Path) -> None:
    again = ["finetune", "classification", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "again")]
    assert main(again) == 0
    from safetensors.torch import load_file

    one, other = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_predictions_of_a_run(run: Path, classes: Path, tmp_path: Path) -> None:
    assert main(["predict", str(run), str(classes / "coffee"), "--out", str(tmp_path / "said"), "--device", "cpu"]) == 0
    with (tmp_path / "said" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert {row["class"] for row in rows} <= {"<b>cat", "coffee"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["poetry"], "no task 'poetry'; there are classification, detection, segmentation"),
        (["classificaton"], "did you mean classification?"),
        (["classification"], "ENCODER is missing"),
        (["classification", "random:micro/8"], "--data is missing"),
        (["classification", "random:micro/8", "--data", "no/where"], "--data no/where"),
        (["classification", "random:mirco/8", "--data", "photos"], "did you mean micro?"),
        (["classification", "random:micro/8", "--data", "photos", "--layer-decay", "2"], "--layer-decay 2"),
        (["classification", "random:micro/8", "--data", "photos", "--lear", "2"], "unknown flag --lear"),
        (["classification", "random:micro/8", "--data", "photos", "--image-size", "65"], "--image-size 65"),
        (["detection", "random:micro/8", "--data", "."], "--data .: "),
        (["detection", "random:micro/8", "--data", "photos"], "--data photos: "),
        (["detection", "random:micro/8", "--data", ".", "--jitter", "3"], "--jitter 3"),
        (["segmentation", "random:micro/8", "--data", "."], "--data . is not laid out like ADE20K"),
        (["segmentation", "random:micro/8", "--data", "photos"], "--data photos: "),
        (["segmentation", "random:micro/8", "--data", ".", "--recipe", "paper"], "--recipe paper"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in said(["finetune", *arguments], 2, capsys)
    assert not (tmp_path / "runs" / "finetune" / "checkpoints").exists()


def test_other_commands_say_what_a_finetuned_run_is_not(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a run of `pmae finetune classification`" in said(["reconstruct", str(run)], 2, capsys)


def test_a_finetuned_run_can_be_embedded(run: Path, classes: Path, tmp_path: Path) -> None:
    assert main(["embed", str(run), "--data", str(classes), "--out", str(tmp_path / "e.parquet")]) == 0
    assert np.isfinite((tmp_path / "e.parquet").stat().st_size)


def test_help_of_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "--help"]) == 0
    assert "segmentation" in capsys.readouterr().out
    assert main(["finetune", "detection", "--help"]) == 0
    assert "--jitter" in capsys.readouterr().out
