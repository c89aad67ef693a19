"""What a part says of itself, and on which images it is measured."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from test_evaluation import config_of, content

from perceptual_mae.data import Source
from perceptual_mae.encoders import open_encoder
from perceptual_mae.errors import UsageError
from perceptual_mae.evaluation.feature_cache import weights_digest
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


def test_reconstructions_do_not_depend_on_the_size_that_an_encoder_is_measured_at(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(run, tmp_path, parts=("reconstruction", "knn"), pools=("mean",))
    first = content(evaluate(config))["parts"]
    assert "; central crops (32 x 32 pixels) of 20% of the images" in first["reconstruction"]["protocol"]
    monkeypatch.setattr(parts, "measure_reconstructions", None)
    console = Console(file=StringIO(), width=300)
    found = content(evaluate(replace(config, image_size=64), console))["parts"]
    assert found["reconstruction"] == first["reconstruction"]
    assert found["knn/mean"]["key"] != first["knn/mean"]["key"]
    said = f"knn/mean in {tmp_path / 'out'} are of other images, weights or image size: they go to results-before.json"
    assert said in console.file.getvalue()  # type: ignore[attr-defined]


def test_results_of_an_earlier_version_are_found_under_their_keys_of_today(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reconstructions had the digest of the encoder at the size of the features; a block was noted as it was typed."""
    config = config_of(run, tmp_path, pools=("mean",), parts=("reconstruction", "knn"), image_size=64, block=-1)
    found = content(evaluate(config))
    old = json.loads(json.dumps(found))
    for name, as_before in (
        ("reconstruction", {"model": weights_digest(open_encoder(str(run), 64)[0])}),
        ("knn/mean", {"block": -1}),
    ):
        entry = old["parts"][name]
        entry["depends"] |= as_before
        entry["key"] = sha256(json.dumps(entry["depends"], sort_keys=True).encode()).hexdigest()[:16]
        assert entry["key"] != found["parts"][name]["key"]
    (tmp_path / "out" / "results.json").write_text(json.dumps(old), encoding="utf-8")
    for measuring in ("measure_reconstructions", "knn_scores"):
        monkeypatch.setattr(parts, measuring, None)
    assert content(evaluate(config)) == found


def test_a_block_is_the_same_from_either_end(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(run, tmp_path, parts=("knn",), pools=("mean",))
    last = content(evaluate(replace(config, block=-1)))
    monkeypatch.setattr(parts, "knn_scores", None)
    assert content(evaluate(replace(config, block=5))) == last
    monkeypatch.undo()
    usual = content(evaluate(config))["parts"]["knn/mean"]
    assert usual["key"] != last["parts"]["knn/mean"]["key"]
    assert usual["depends"]["block"] is None  # as in results of earlier versions


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
