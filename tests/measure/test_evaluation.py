"""Evaluations as a user starts them: what is measured, kept, repeated and left out."""

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from perceptual_mae.data import eval_batches, open_source, to_float
from perceptual_mae.data.subset import held_out
from perceptual_mae.encoders import open_encoder
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.evaluation.config import EvaluateConfig
from perceptual_mae.evaluation.knn import knn_accuracy
from perceptual_mae.measure import evaluation, parts
from perceptual_mae.measure.evaluation import evaluate
from perceptual_mae.report.evaluation import headline


def config_of(run: Path, tmp_path: Path, **settings: Any) -> EvaluateConfig:
    defaults = {"out": str(tmp_path / "out"), "cache": str(tmp_path / "cache"), "workers": 0, "device": "cpu"}
    return EvaluateConfig(encoder=str(run), **(defaults | settings))


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_everything_is_measured_and_told(run: Path, labelled: Path, tmp_path: Path) -> None:
    folder = evaluate(config_of(run, tmp_path))
    found = content(folder)
    assert list(found["parts"]) == ["reconstruction", "knn/cls", "linear/cls", "knn/mean", "linear/mean"]
    assert found["data"]["test"].startswith("20% of the images of each class, held out")
    assert found["data"]["classes"] == ["left", "rare", "right"]
    # A fifth of 20 and of 24; the one image of the rare class stays with the training images.
    assert (found["data"]["train_images"], found["data"]["test_images"]) == (36, 9)
    numbers = headline(found)
    for key in ("linear/mean/top1", "knn/cls/top5", "l1", "psnr", "ssim"):
        assert key in numbers
    text = (folder / "results.md").read_text(encoding="utf-8")
    assert "linear probe, protocol cached" in text
    assert "| rare |" in text
    for picture in ("reconstructions.png", "confusion-linear-mean.png", "confusion-linear-cls.png"):
        with Image.open(folder / picture) as opened:
            assert opened.size[0] > 100
    # The rare class was learnt from one image and not tested.
    assert found["parts"]["linear/mean"]["result"]["per_class"][1] is None


def test_numbers_are_those_of_the_parts(run: Path, labelled: Path, tmp_path: Path) -> None:
    """k-NN of the evaluation is k-NN of features that are made here, image by image."""
    found = content(evaluate(config_of(run, tmp_path, parts=("knn",), pools=("mean",))))
    encoder, _ = open_encoder(str(run))
    source = open_source(str(labelled))
    assert source is not None

    def features(part: Any) -> tuple[torch.Tensor, torch.Tensor]:
        (batch,) = eval_batches(part, image_size=encoder.image_size, batch_size=100)
        with torch.no_grad():
            return encoder(to_float(batch.images))[:, 1:].mean(dim=1), batch.labels

    train, test = map(features, held_out(source, 0.2, 0))
    expected = knn_accuracy(*train, *test, k=20)
    assert found["parts"]["knn/mean"]["result"]["20"]["top1"] == pytest.approx(expected)


def test_what_is_there_is_not_measured_again(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(run, tmp_path, pools=("mean",))
    monkeypatch.setattr(parts, "cached_probe", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config)
    assert list(content(tmp_path / "out")["parts"]) == ["reconstruction", "knn/mean"]  # kept, as far as it came
    monkeypatch.undo()
    first = content(evaluate(config))

    for name in ("measure_reconstructions", "knn_scores", "cached_probe", "extract"):
        monkeypatch.setattr(parts, name, interrupt)
    assert content(evaluate(config)) == first
    with pytest.raises(KeyboardInterrupt):  # other masks are another measurement
        evaluate(replace(config, seed=1))
    monkeypatch.undo()
    more = content(evaluate(replace(config, pools=("mean", "both"))))
    assert more["parts"]["knn/mean"] == first["parts"]["knn/mean"]
    assert "linear/both" in more["parts"]


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_parts_of_other_images_or_of_an_earlier_encoder_do_not_stay(
    run: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(run, tmp_path, pools=("mean",))
    first = content(evaluate(config))
    monkeypatch.setattr(parts, "knn_scores", interrupt)
    monkeypatch.setattr(parts, "cached_probe", interrupt)
    again = content(evaluate(replace(config, parts=("reconstruction",), mask_ratio=0.5)))
    assert again["parts"]["linear/mean"] == first["parts"]["linear/mean"]  # the same encoder and images
    assert again["parts"]["reconstruction"] != first["parts"]["reconstruction"]
    monkeypatch.undo()

    two = tmp_path / "two"
    for name in ("left", "right"):
        shutil.copytree(labelled / name, two / name)
    other = replace(config, data=str(two), parts=("reconstruction",))
    console = Console(file=StringIO(), width=300)
    found = content(evaluate(other, console))  # three classes were told apart before, and here there are two
    assert list(found["parts"]) == ["reconstruction"]
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "knn/mean, linear/mean, reconstruction in " in told
    assert "of other images, weights or image size: they go to results-before-2.json" in told
    kept = [json.loads((tmp_path / "out" / f"results-before{n}.json").read_text(encoding="utf-8")) for n in ("", "-2")]
    assert kept == [first, again]
    assert "**linear/mean**" not in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert not list((tmp_path / "out").glob("confusion-*.png"))
    assert (tmp_path / "out" / "reconstructions.png").is_file()

    evaluate(replace(config, parts=("knn",)))
    later = replace(config, encoder="random:micro/8", data=str(labelled), image_size=32, parts=("linear",))
    assert list(content(evaluate(later))["parts"]) == ["linear/mean"]


def test_a_part_that_is_measured_another_way_is_put_beside(run: Path, tmp_path: Path) -> None:
    """It may have taken hours, as the probe of the MAE paper does."""
    config = config_of(run, tmp_path, parts=("linear",), pools=("mean",))
    contents, told = [], []
    for settings in ({"protocol": "mae", "epochs": 1}, {"block": 3}, {}, {}):
        console = Console(file=StringIO(), width=300)
        contents.append(content(evaluate(replace(config, **settings), console)))
        told.append(console.file.getvalue())  # type: ignore[attr-defined]
    said = (
        f"linear/mean in {tmp_path / 'out'} was measured another way: it goes to results-before{{}}.json; --out FOLDER"
    )
    assert ["another way" in line for line in told] == [False, True, True, False]
    assert said.format("") in told[1]
    assert said.format("-2") in told[2]
    for number, before in (("", contents[0]), ("-2", contents[1])):
        assert json.loads((tmp_path / "out" / f"results-before{number}.json").read_text(encoding="utf-8")) == before
    assert not (tmp_path / "out" / "results-before-3.json").exists()


@pytest.mark.parametrize("lost", ["depends", "padding"])
def test_results_of_an_earlier_version_stay_where_their_key_is_right(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    config = config_of(run, tmp_path, parts=("knn", "linear"), pools=("mean",))
    first = content(evaluate(config))
    old = json.loads(json.dumps(first))
    for entry in old["parts"].values():
        del entry["depends"]
    if lost == "padding":  # a class without a test image at the end had no row
        probe = old["parts"]["linear/mean"]["result"]
        probe |= {"per_class": probe["per_class"][:1], "confusion": [probe["confusion"][0][:1]]}
    (tmp_path / "out" / "results.json").write_text(json.dumps(old), encoding="utf-8")
    for name in ("knn_scores", "cached_probe"):
        monkeypatch.setattr(parts, name, interrupt)
    found = content(evaluate(replace(config, parts=("knn",), pools=("mean",))))
    assert found["parts"].keys() == first["parts"].keys()
    assert found["parts"]["knn/mean"] == first["parts"]["knn/mean"]
    assert len(found["parts"]["linear/mean"]["result"]["confusion"]) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda part: [],
        lambda part: {"knn/mean": 3, "\0/": {}},
        lambda part: {"knn/mean": {"key": part["key"]}},
        lambda part: {"knn/mean": part | {"result": {"20": 1}}},
        lambda part: {"knn/mean": part | {"result": {"20": part["result"]["20"] | {"confusion": 3}}}},
        lambda part: {"knn/mean": part | {"depends": part["depends"] | {"version": 0}, "result": {}}},
        lambda part: {"knn/mean": part, "knn/max": part, "linear/mean": part},
    ],
)
def test_damaged_results_are_measured_anew(run: Path, tmp_path: Path, damage: Any) -> None:
    config = config_of(run, tmp_path, parts=("knn",), pools=("mean",))
    (part,) = content(evaluate(config))["parts"].values()
    damaged = {"parts": damage(part)}
    (tmp_path / "out" / "results.json").write_text(json.dumps(damaged), encoding="utf-8")
    found = content(evaluate(config))["parts"]
    assert found.keys() == {"knn/mean"}
    assert found["knn/mean"]["result"] == part["result"]


def test_a_last_class_that_cannot_be_read_has_an_empty_row(run: Path, labelled: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("left", "right"):
        shutil.copytree(labelled / name, data / name)
    (data / "torn").mkdir()
    for number in range(5):
        (data / "torn" / f"{number}.png").write_bytes(b"no image")
    folder = evaluate(config_of(run, tmp_path, data=str(data), parts=("knn", "linear"), pools=("mean",)))
    found = content(folder)["parts"]
    for scores in (found["knn/mean"]["result"]["20"], found["linear/mean"]["result"]):
        assert scores["per_class"][2] is None
        assert [sum(row) for row in scores["confusion"]] == [4, 5, 0]
        assert {len(row) for row in scores["confusion"]} == {3}
    assert "| torn |" in (folder / "results.md").read_text(encoding="utf-8")
    assert (folder / "confusion-linear-mean.png").is_file()


def test_images_without_labels_are_reconstructed_and_the_rest_is_explained(
    run: Path, labelled: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in (labelled / "left").iterdir():
        shutil.copy(file, flat)
    found = content(evaluate(config_of(run, tmp_path, data=str(flat))))
    assert list(found["parts"]) == ["reconstruction"]
    assert "have no labels" in found["notes"][0]


@pytest.mark.parametrize("classes", [("left",), ("left", "rare")])
def test_one_class_is_no_classification(run: Path, labelled: Path, tmp_path: Path, classes: tuple[str, ...]) -> None:
    few = tmp_path / "few"
    for name in classes:
        shutil.copytree(labelled / name, few / name)
    found = content(evaluate(config_of(run, tmp_path, data=str(few), pools=("mean",))))
    if len(classes) == 1:
        assert list(found["parts"]) == ["reconstruction"]
        assert any("at least two classes" in note or "no labels" in note for note in found["notes"])
    else:  # one image teaches a class that is not tested
        assert "linear/mean" in found["parts"]


def test_splits_are_taken_and_labels_follow_names(run: Path, labelled: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(labelled, data / "train")
    shutil.copytree(labelled / "right", data / "val" / "right")  # alone it would be class 0
    shutil.copytree(labelled / "left", data / "val" / "unheard-of")
    found = content(evaluate(config_of(run, tmp_path, data=str(data), parts=("knn",), pools=("mean",))))
    assert found["data"]["test"] == "the validation split"
    confusion = np.array(found["parts"]["knn/mean"]["result"]["10"]["confusion"])
    assert confusion.sum(axis=1).tolist() == [0, 0, len(list((labelled / "right").iterdir()))]
    assert "unheard-of" in found["notes"][0]


@pytest.mark.parametrize(("split", "said"), [("val", "the validation split of"), ("", "the images of")])
def test_images_to_test_on_are_named(run: Path, labelled: Path, tmp_path: Path, split: str, said: str) -> None:
    tested = tmp_path / "tested"
    for name in ("rare", "right"):
        shutil.copytree(labelled / name, tested / split / name)
    if split:
        shutil.copytree(labelled / "left", tested / "train" / "left")
    config = config_of(run, tmp_path, data=str(labelled), parts=("knn",), pools=("mean",))
    held_out_part = content(evaluate(config))["parts"]["knn/mean"]
    found = content(evaluate(config, val_data=str(tested)))
    assert found["data"]["test"] == f"{said} tested"
    assert f"tested on {said} tested" in found["parts"]["knn/mean"]["protocol"]
    assert (found["data"]["train_images"], found["data"]["test_images"]) == (45, 25)
    assert found["parts"]["knn/mean"]["key"] != held_out_part["key"]
    confusion = np.array(found["parts"]["knn/mean"]["result"]["10"]["confusion"])
    assert confusion.sum(axis=1).tolist() == [0, 1, 24]


def test_parameters_are_those_that_training_counts(run: Path, labelled: Path, tmp_path: Path) -> None:
    """A fixed position embedding is computed and not learnt."""
    counted = json.loads((run / "run.json").read_text(encoding="utf-8"))["model"]["encoder_parameters"]
    weights = load_file(run / "encoder.safetensors")
    assert counted == sum(weights[name].numel() for name in weights if name not in ("pos_embed", "mean", "std"))
    for number, spec in enumerate((str(run), f"{run}/encoder.safetensors", "random:micro/8")):
        config = config_of(run, tmp_path, data=str(labelled), image_size=32, parts=("knn",), pools=("mean",))
        found = content(evaluate(replace(config, encoder=spec, out=str(tmp_path / str(number)))))
        assert found["encoder"]["parameters"] == counted


def test_an_encoder_without_a_decoder_and_the_floors(run: Path, labelled: Path, tmp_path: Path) -> None:
    settings = {"data": str(labelled), "image_size": 32, "pools": ("cls",)}
    for spec in (f"{run}/encoder.safetensors", "random:micro/8", "pixels:8"):
        config = replace(config_of(run, tmp_path, **settings), encoder=spec, out=str(tmp_path / spec.replace("/", "-")))
        found = content(evaluate(config))
        assert list(found["parts"]) == ["knn/cls", "linear/cls"]
        assert "reconstruction is left out" in found["notes"][-1]


def test_both_protocols(run: Path, labelled: Path, tmp_path: Path) -> None:
    common = {"parts": ("linear",), "pools": ("mean",)}
    views = content(evaluate(config_of(run, tmp_path, views=2, **common)))
    assert "2 random crops of each training image" in views["parts"]["linear/mean"]["protocol"]
    found = content(evaluate(config_of(run, tmp_path, protocol="mae", epochs=2, **common)))
    assert found["parts"]["linear/mean"]["protocol"].startswith("linear probe, protocol mae: 2 epochs")
    assert found["parts"]["linear/mean"]["key"] != views["parts"]["linear/mean"]["key"]


def test_where_results_go(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert evaluation.results_folder(EvaluateConfig(encoder=str(run))) == run / "evaluation"
    named = evaluation.results_folder(EvaluateConfig(encoder="timm:resnet18:some/file.pth"))
    assert named == Path("evaluation/timm-resnet18-some-file.pth")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="this is a file"):
        evaluation.results_folder(EvaluateConfig(encoder="x", out=str(tmp_path / "file")))


def test_encoders_whose_names_look_alike_have_a_folder_each(
    run: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for name in ("a/b", "a-b"):
        shutil.copy(run / "encoder.safetensors", tmp_path / name)
    quick = {"data": str(labelled), "parts": ("knn",), "pools": ("mean",), "out": None}
    folders = [evaluate(config_of(Path(name), tmp_path, **quick)) for name in ("a/b", "a-b", "./a/b", "a-b")]
    assert folders[0] == folders[2] == Path("evaluation/a-b")
    assert folders[1] == folders[3] != folders[0]
    assert folders[1].name.startswith("a-b-")
    assert not list(tmp_path.rglob("results-before*.json"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"parts": ("knn", "liner")}, "--parts knn,liner: 'liner' is none of"),
        ({"parts": ()}, "--parts: name at least one"),
        ({"pools": ("max",)}, "--pools max"),
        ({"mask_ratio": 1.0}, "--mask-ratio 1.0"),
        ({"views": 2, "protocol": "mae"}, "--views 2"),
        ({"train_images": 1}, "--train-images 1"),
        ({"workers": -1}, "--workers -1"),
    ],
)
def test_settings_that_cannot_be_right(run: Path, tmp_path: Path, settings: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        evaluate(config_of(run, tmp_path, **settings))


def test_two_judges_of_one_name_would_be_taken_for_each_other(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other" / run.name)
    judges = (str(run), str(tmp_path / "other" / run.name))
    with pytest.raises(UsageError, match=rf"^--fd .*: two are called {run.name}"):
        evaluate(config_of(run, tmp_path, parts=("reconstruction",), fd=judges))


def test_a_file_of_somebody_else_is_not_written_over(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("{")
    with pytest.raises(PmaeError, match="name another --out"):
        evaluate(config_of(run, tmp_path))


def test_data_must_be_named_for_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data is missing"):
        evaluate(EvaluateConfig(encoder="random:micro/8", image_size=32, out=str(tmp_path / "out")))
