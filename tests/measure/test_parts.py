"""What a part says of itself, and on which images it is measured."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from test_evaluation import config_of, content

from perceptual_mae.data import Source
from perceptual_mae.errors import UsageError
from perceptual_mae.measure import parts
from perceptual_mae.measure.evaluation import evaluate, results_folder
from perceptual_mae.measure.parts import Measurements
from perceptual_mae.measure.subject import open_images, open_subject
from perceptual_mae.pretraining import build
from perceptual_mae.training.checkpoint import newest


@pytest.mark.parametrize("protocol", ["cached", "mae"])
def test_a_protocol_names_the_block(run: Path, tmp_path: Path, protocol: Any) -> None:
    config = config_of(run, tmp_path, parts=("knn", "linear"), pools=("mean",), protocol=protocol, epochs=1)
    for part in content(evaluate(replace(config, block=-2)))["parts"].values():
        assert part["protocol"].endswith("; tokens are the output of block 4 (0 to 5), before the final norm")
    for part in content(evaluate(config))["parts"].values():
        assert "block" not in part["protocol"]
    with pytest.raises(UsageError, match=r"^--block 99: mine has blocks 0 to 5"):
        evaluate(replace(config, block=99))


def test_images_that_were_too_large_to_train_on_are_skipped(run: Path, labelled: Path, tmp_path: Path) -> None:
    data, small = tmp_path / "data", tmp_path / "small"
    shutil.copytree(labelled, data)
    for file in sorted((data / "left").iterdir())[:6]:
        with Image.open(file) as opened:
            opened.resize((64, 64)).save(file)
    shutil.copytree(run, small)
    settings = yaml.safe_load((small / "config.yaml").read_text(encoding="utf-8"))
    settings["loader"]["max_pixels"] = 32 * 48
    (small / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    common = {"data": str(data), "pools": ("mean",), "epochs": 1}
    usual = content(evaluate(config_of(run, tmp_path, **common)))["parts"]
    config = config_of(small, tmp_path, **common)
    found = content(evaluate(config))["parts"]
    found["mae"] = content(evaluate(replace(config, protocol="mae")))["parts"]["linear/mean"]
    assert found["knn/mean"]["result"]["skipped"] == found["linear/mean"]["result"]["skipped"] == 6
    assert usual["knn/mean"]["result"]["skipped"] == 0
    assert found["reconstruction"]["result"]["skipped"] == 3  # those of the six that are tested on
    assert usual["linear/mean"]["result"]["count"] - found["mae"]["result"]["count"] == 3
    assert found["reconstruction"]["key"] != usual["reconstruction"]["key"]


def test_the_checkpoint_is_read_once(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that trains may have another one the next time."""
    read: list[Path] = []
    monkeypatch.setattr(build, "newest", lambda folder: read.append(folder) or newest(folder))
    subject = open_subject(config_of(run, tmp_path))
    assert subject.autoencoder is not None
    assert torch.equal(subject.autoencoder.state_dict()["cls_token"], subject.encoder.network.cls_token)
    assert read == [run / "checkpoints"]


def test_a_run_below_the_home_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(run.parent))
    config = config_of(Path("~") / run.name, tmp_path)
    assert results_folder(replace(config, out=None)) == run / "evaluation"
    subject = open_subject(config)
    assert subject.run is not None
    assert subject.autoencoder is not None


def test_images_to_learn_from_are_not_looked_at_where_nothing_is_learnt(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their digest asks for a hundred thousand files, which may lie on a slow disk."""
    config = config_of(run, tmp_path, parts=("reconstruction",))
    subject = open_subject(config)
    images = open_images(config, subject)
    looked: list[Source] = []
    monkeypatch.setattr(parts, "images_digest", lambda source: looked.append(source) or "digest")
    for part in Measurements(config, subject, images, tmp_path, lambda *_: None):
        assert part.depends["test"] == "digest"
    assert looked == [images.test]
