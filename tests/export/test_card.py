"""The model card: what a reader of the hub needs, and nothing that is nobody's business."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Runs, WriteVit

from perceptual_mae.errors import UsageError
from perceptual_mae.evaluation.feature_cache import weights_digest
from perceptual_mae.export import export_encoder
from perceptual_mae.export.source import open_source
from perceptual_mae.export.story import data_name, measured, read_record


def front_matter(card: str) -> dict[str, Any]:
    begin, front, _ = card.split("---\n", 2)
    assert begin == ""
    found: dict[str, Any] = yaml.safe_load(front)
    return found


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was evaluated and looked at, exported."""
    run = tmp_path_factory.mktemp("somewhere") / "secret-place" / "mine"
    shutil.copytree(trained, run)
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    settings |= {"data": "/home/somebody/hospital/scans", "out": str(run)}
    (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    scores = {"top1": 0.5, "top5": 0.75, "interval": [0.25, 0.625]}
    results = {
        "encoder": {"matched": "vit 96/6/3, patch 8, 32 x 32: step 2 of the run; all match", "image_size": [32, 32]},
        "data": {"spec": "/home/somebody/labelled", "test": "half", "test_images": 8, "train_images": 9},
        "parts": {"knn/cls": {"result": {"20": scores}}, "linear/mean": {"result": scores}},
    }
    (run / "evaluation").mkdir()
    (run / "evaluation" / "results.json").write_text(json.dumps(results), encoding="utf-8")
    shutil.copyfile(next((run / "figures").glob("reconstruction-*.png")), run / "figures" / "attention.png")
    return export_encoder(run, "timm", licence="CC-BY-4.0").path


def test_it_says_what_a_reader_needs(folder: Path) -> None:
    assert folder.parts[-3:] == ("mine", "export", "timm")
    card = (folder / "README.md").read_text(encoding="utf-8")
    front = front_matter(card)
    assert (front["library_name"], front["license"]) == ("timm", "cc-by-4.0")
    assert front["pipeline_tag"] == "image-feature-extraction"
    assert {"timm", "masked-autoencoder", "arxiv:2212.14504"} <= set(front["tags"])
    assert "datasets" not in front
    for text in (
        "# mine\n", "| Trained on | scans |", "| Method | mse: ", "| Steps | 2 of 4 images |",
        "| Learning rate | 0.001 |", "width 96, depth 6, 3 heads", "8 × 8 pixels", "0.485, 0.456, 0.406",
        "labelled: 8 images", "| linear probe | 50.0% |", "| k-NN, k = 20 | 50.0% |", "low by nature",
        "largest difference", "tukra2023improving", "timm.create_model(",
        "AutoModel.from_pretrained(", "load_encoder(", "`cc-by-4.0`",
    ):  # fmt: skip
        assert text in card, text
    for name in ("reconstruction.png", "attention.png"):
        assert f"]({name})" in card
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"


def test_parameters_are_those_that_training_counts(folder: Path, trained: Path) -> None:
    counted = json.loads((trained / "run.json").read_text(encoding="utf-8"))["model"]["encoder_parameters"]
    assert f"| Parameters | {counted:,} |" in (folder / "README.md").read_text(encoding="utf-8")
    assert open_source(str(trained)).at((64, 64)).parameter_count == counted


def test_nothing_private_is_in_it(folder: Path) -> None:
    for file in folder.iterdir():
        content = file.read_bytes()
        for word in (b"somebody", b"hospital", b"/home", b"secret-place", b"/tmp"):
            assert word not in content, f"{word!r} in {file.name}"


def test_the_record_names_every_file(folder: Path) -> None:
    record = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert set(record["files"]) == {file.name for file in folder.iterdir()}
    assert record["target"] == "timm"
    assert record["libraries"]["timm"]
    assert all(check["largest"] <= check["allowed"] for check in record["checks"])


def test_without_a_run_a_card_is_short(write_vit: WriteVit, tmp_path: Path) -> None:
    folder = export_encoder(write_vit(), "timm", tmp_path / "out").path
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license" not in front_matter(card)  # any word there would state one
    assert "Not stated" in card
    assert "How it was trained" not in card
    assert "![" not in card
    assert "local-dir:out" in card


def test_a_run_that_was_not_measured_says_so(runs: Runs, tmp_path: Path) -> None:
    card = (export_encoder(runs(), "timm", tmp_path / "out", pictures=False).path / "README.md").read_text("utf-8")
    assert "Nothing yet: `pmae evaluate`" in card


@pytest.mark.parametrize("damage", ["[]", "{", '{"parts": {"knn/cls": {}}}', '{"parts": 3, "data": []}'])
def test_a_damaged_evaluation_is_none(runs: Runs, tmp_path: Path, damage: str) -> None:
    shutil.copytree(runs(), tmp_path / "run")
    (tmp_path / "run" / "evaluation").mkdir()
    (tmp_path / "run" / "evaluation" / "results.json").write_text(damage, encoding="utf-8")
    source = open_source(str(tmp_path / "run"))
    record = read_record(source)
    assert record is not None
    assert measured(source, record)[1] == []


@pytest.mark.parametrize(
    ("step", "weights", "size", "shown"),
    [(2, None, 32, True), (1, None, 32, False), (2, None, 64, False), (2, "own", 32, True), (2, "other", 32, False)],
)
def test_what_was_measured_of_other_weights_is_not_said(
    runs: Runs, tmp_path: Path, step: int, weights: str | None, size: int, shown: bool
) -> None:
    shutil.copytree(runs(), tmp_path / "run")
    source = open_source(str(tmp_path / "run"))
    part: dict[str, Any] = {"result": {"top1": 0.5, "top5": 0.75, "interval": [0.25, 0.625]}}
    if weights is not None:
        part["depends"] = {"weights": weights_digest(source.encoder) if weights == "own" else weights}
    content = {
        "encoder": {"matched": f"vit 96/6/3: step {step} of the run; all match", "image_size": [size, size]},
        "data": {"spec": "photos", "test": "half", "test_images": 8, "train_images": 9},
        "parts": {"linear/mean": part},
    }
    (tmp_path / "run" / "evaluation").mkdir()
    (tmp_path / "run" / "evaluation" / "results.json").write_text(json.dumps(content), encoding="utf-8")
    record = read_record(source)
    assert record is not None
    assert [name for name, _, _ in measured(source, record)[1]] == ["linear probe"] * shown


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("photos", "photos"),
        ("cifar10", "cifar10"),
        ("hub:some/set", "hub:some/set"),
        ("hub:some/set:small", "hub:some/set:small"),
        ("./photos", "photos"),
        ("../../x/photos/", "photos"),
        ("/home/me/secret/photos", "photos"),
        ("~/photos", "photos"),
        ("C:\\Users\\me\\photos", "photos"),
        ("/data/table.parquet", "table.parquet"),
        ("wds:/data/secret/shards/{000..099}.tar", "wds:shards"),
        ("wds:{000..099}.tar", "wds:{000..099}.tar"),
        ("stream:s3://bucket/secret/shards", "stream:shards"),
        ("https://me:pass@host.org/a/table.parquet?signature=abc", "table.parquet"),
        ("hub:x/hf_abcdefghijklmnopqrstuvwxyz", "hub:x/hf_..."),
        ("/", "images"),
    ],
)
def test_data_in_public(spec: str, name: str) -> None:
    assert data_name(spec) == name


@pytest.mark.parametrize("licence", ["my own", "", "[apache]", "x\ny"])
def test_a_licence_is_a_name(runs: Runs, tmp_path: Path, licence: str) -> None:
    with pytest.raises(UsageError, match=r"--licence .*: give a name as the hub has it"):
        export_encoder(runs(), "timm", tmp_path / "out", licence=licence)


def test_the_lines_that_it_shows_run(write_vit: WriteVit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    card = (export_encoder(write_vit(image_size=(16, 24)), "timm", "out").path / "README.md").read_text("utf-8")
    snippets = [part.split("```")[0] for part in card.split("```python\n")[1:]]
    assert len(snippets) == 3  # timm, transformers, ours
    for code in snippets:
        names: dict[str, Any] = {}
        exec(code, names)
        assert names["tokens"].shape == (1, 7, 64)
