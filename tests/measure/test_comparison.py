"""A comparison from training to report, interrupted and gone on with."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.evaluation.config import EvaluateConfig
from perceptual_mae.measure import comparison, pictures
from perceptual_mae.measure.comparison import compare, encoder_folder, rows_told_apart, train
from perceptual_mae.measure.config import CompareConfig
from perceptual_mae.measure.pictures import draw_side_by_side
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.training.config import LoaderConfig
from perceptual_mae.training.signals import Interrupted


@pytest.fixture
def config(make_config: Any, labelled: Path, tmp_path: Path) -> CompareConfig:
    evaluation = EvaluateConfig(encoder="", pools=("mean",), workers=0, cache=str(tmp_path / "cache"))
    pretrain = make_config(data=str(labelled), max_steps=2)
    return CompareConfig(pretrain, evaluation, methods=("mse", "msg-gan-p+mae"), out=str(tmp_path / "compared"))


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_methods_are_trained_and_measured_alike(config: CompareConfig, in_this_process: list[str]) -> None:
    config = replace(config, seeds=2, encoders=("random:tiny/8",))
    folder = compare(config, command="pmae compare ...")
    assert in_this_process == ["mse-seed0", "mse-seed1", "msg-gan-p+mae-seed0", "msg-gan-p+mae-seed1"]
    found = results(folder)
    assert found["state"] == "finished"
    assert (found["data"]["train_images"], found["data"]["validation_images"]) == (45, 9)
    rows = {row["name"]: row for row in found["rows"]}
    assert [row["kind"] for row in found["rows"]] == ["method", "method", "floor", "floor", "published"]
    for name in ("mse", "msg-gan-p+mae"):
        for key in ("linear/mean/top1", "knn/mean/top1", "l1", "ssim"):
            assert len(rows[name]["metrics"][key]) == 2
        assert rows[name]["cost"]["seconds_per_epoch"] > 0
        assert rows[name]["cost"]["peak_memory_gib"] > 0.1
    assert rows["msg-gan-p+mae"]["cost"]["discriminator_parameters"] > 0
    assert rows["msg-gan-p+mae"]["architecture"] == "mae"
    assert "linear/mean/top1" in rows["raw pixels"]["metrics"]
    assert "protocol cached" in found["protocols"]["linear/mean/top1"]
    for picture in found["pictures"].values():
        with Image.open(folder / picture) as opened:
            assert opened.size[0] > 200
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "msg-gan-p" in page
    assert "| mse |" in (folder / "results.md").read_text(encoding="utf-8").replace("**", "")

    in_this_process.clear()
    assert compare(config) == folder  # everything is there
    assert in_this_process == []
    again = results(folder)
    assert again["rows"] == found["rows"]


def test_encoders_of_one_name_have_a_row_each(
    config: CompareConfig, in_this_process: list[str], run: Path, tmp_path: Path
) -> None:
    """Neither takes the place of a method or of the other."""
    encoders = tuple(str(shutil.copytree(run, tmp_path / place / "mse")) for place in ("a", "a-b", "a/b"))
    quick = replace(config.evaluate, parts=("knn",))
    config = replace(config, evaluate=quick, methods=("mse",), floors=False, encoders=(*encoders, "random:tiny/8"))
    folder = compare(config)
    rows = results(folder)["rows"]
    assert [(row["name"], row["kind"]) for row in rows] == [
        ("mse", "method"),
        *((spec, "published") for spec in encoders),
        ("random:tiny/8", "published"),
    ]
    assert len(list((folder / "encoders").iterdir())) == 4
    trained = json.loads((folder / "runs" / "mse-seed0" / "run.json").read_text(encoding="utf-8"))["model"]
    assert {row["cost"]["encoder_parameters"] for row in rows[:4]} == {trained["encoder_parameters"]}


def test_an_encoder_stays_where_it_was_measured(tmp_path: Path) -> None:
    """Folders had other names in earlier versions; that of a floor is no encoder's."""
    spec = "timm:net:/a/b.pth"
    assert encoder_folder(tmp_path, spec) == tmp_path / "timm-net-a-b.pth"
    for name, measured in (("timm-net--a-b.pth", spec), ("raw-pixels", "pixels:16")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps({"encoder": {"spec": measured}}), encoding="utf-8")
    assert encoder_folder(tmp_path, spec) == tmp_path / "timm-net--a-b.pth"
    assert encoder_folder(tmp_path, "pixels:16") == tmp_path / "pixels-16"
    assert encoder_folder(tmp_path, "raw-pixels").name.startswith("raw-pixels-")


def test_a_method_and_a_folder_of_its_name_are_told_apart() -> None:
    method, published = {"name": "mse", "kind": "method"}, {"name": "mse", "kind": "published", "spec": "mse"}
    assert [row["name"] for row in rows_told_apart([method, published])] == ["mse", "mse (encoder)"]
    encoders = [
        {"name": name, "kind": "published", "spec": spec}
        for name, spec in (("x/run", "/q/x/run"), ("run", "run"), ("run", "x/run"))
    ]
    assert [row["name"] for row in rows_told_apart([method, *encoders])] == ["mse", "x/run", "run", "x/run (2)"]


def test_validation_images_are_those_that_were_named(
    config: CompareConfig, in_this_process: list[str], labelled: Path, tmp_path: Path
) -> None:
    for name in ("left", "rare"):
        shutil.copytree(labelled / name, tmp_path / "other" / name)
    pretrain = replace(config.pretrain, val_data=str(tmp_path / "other"))
    quick = replace(config.evaluate, parts=("knn",))
    config = replace(config, pretrain=pretrain, evaluate=quick, methods=("mse",), encoders=("random:tiny/8",))
    found = results(compare(config))
    assert found["data"] == {
        "spec": str(labelled),
        "val_data": str(tmp_path / "other"),
        "train_images": 45,
        "validation_images": 21,
        "classes": ["left", "rare", "right"],
    }
    assert "tested on the images of other" in found["protocols"]["knn/mean/top1"]
    for file in Path(config.out).rglob("results.json"):
        measured = results(file.parent)
        assert measured.get("encoder") is None or measured["data"]["test_images"] == 21


def test_every_row_is_measured_on_the_images_that_a_training_reads(
    config: CompareConfig, in_this_process: list[str], run: Path, tmp_path: Path
) -> None:
    """Floors, too, and a run that was trained with another limit."""
    data = shutil.copytree(config.pretrain.data, tmp_path / "data")
    enlarge(sorted((data / "left").iterdir())[:6])
    pretrain = replace(config.pretrain, data=str(data), loader=LoaderConfig(max_pixels=32 * 48))
    quick = replace(config.evaluate, parts=("knn",))
    folder = compare(replace(config, pretrain=pretrain, evaluate=quick, methods=("mse",), encoders=(str(run),)))
    measured = [results(file.parent) for file in folder.rglob("results.json") if file.parent != folder]
    assert [one["parts"]["knn/mean"]["result"]["skipped"] for one in measured] == [6, 6, 6, 6]


def test_pictures_are_of_images_that_a_training_reads(
    run: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, mine = shutil.copytree(labelled / "left", tmp_path / "data"), shutil.copytree(run, tmp_path / "mine")
    enlarge(sorted(data.iterdir())[2:])
    settings = yaml.safe_load((mine / "config.yaml").read_text(encoding="utf-8"))
    settings |= {"data": str(data), "loader": settings["loader"] | {"max_pixels": 32 * 48}}
    (mine / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    shown: list[int] = []

    def see(images: Tensor) -> Figure:
        shown.append(len(images))
        return Figure()

    monkeypatch.setattr(pictures, "side_by_side", lambda originals, *_: see(originals))
    monkeypatch.setattr(pictures, "attention_figure", lambda _, images, *names, **titles: see(images[0]))
    draw_side_by_side(tmp_path, {"mse": mine}, "cpu")
    assert shown == [2, 2]


def enlarge(files: list[Path]) -> None:
    for file in files:
        with Image.open(file) as opened:
            opened.resize((64, 64)).save(file)


def test_a_method_that_fails_is_told_and_the_others_go_on(
    config: CompareConfig, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(settings: PretrainConfig, folder: Path, console: Any) -> str | None:
        return "loss/total is nan" if settings.method == "mse" else train(settings, folder, console)

    monkeypatch.setattr(comparison, "train", failing)
    rows = {row["name"]: row for row in results(compare(config))["rows"]}
    assert rows["mse"]["failed"] == "mse-seed0: loss/total is nan"
    assert rows["mse"]["metrics"] == {}
    assert rows["msg-gan-p+mae"]["failed"] is None
    with pytest.raises(PmaeError, match="no method could be trained; mse-seed0: loss/total is nan"):
        compare(replace(config, methods=("mse",), floors=False, out=f"{config.out}-2"))
    failed = results(Path(f"{config.out}-2"))
    assert failed["state"] == "finished"
    assert failed["rows"][0]["failed"] == "mse-seed0: loss/total is nan"
    assert "mse failed" in (Path(f"{config.out}-2") / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("code", "expected"), [(130, "interrupted"), (143, "interrupted"), (-9, "killed"), (1, "exit code 1")]
)
def test_how_a_training_ended(config: CompareConfig, monkeypatch: pytest.MonkeyPatch, code: int, expected: str) -> None:
    class Ended:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def wait(self, timeout: float) -> int:
            return code

    monkeypatch.setattr(comparison.subprocess, "Popen", Ended)
    settings = config.run("mse", 0)
    if expected == "interrupted":
        with pytest.raises(Interrupted, match="the same command continues") as stopped:
            train(settings, Path(config.out), None)
        assert stopped.value.exit_code == code
    else:
        failure = train(settings, Path(config.out), None)
        assert failure is not None
        assert expected in failure


def test_whoever_ends_the_comparison_ends_the_training(config: CompareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kill` and a container's end reach one process alone; the other would go on, and lock its folder."""
    began = subprocess.Popen

    def begun(command: list[str], **streams: Any) -> "subprocess.Popen[bytes]":
        process = began([sys.executable, "-c", "import time; time.sleep(60)"], **streams)
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr(comparison.subprocess, "Popen", begun)
    begin = time.monotonic()
    with pytest.raises(Interrupted, match="the same command continues") as stopped:
        train(config.run("mse", 0), Path(config.out), None)
    assert stopped.value.exit_code == 143
    assert time.monotonic() - begin < 30


def test_images_without_labels(config: CompareConfig, in_this_process: list[str], few_images: Path) -> None:
    config = replace(config, pretrain=replace(config.pretrain, data=str(few_images)), methods=("mse",), floors=False)
    found = results(compare(config))
    assert list(found["rows"][0]["metrics"]) == ["l1", "psnr", "ssim"]
    assert "have no labels" in found["notes"][0]


@pytest.fixture
def few_images(labelled: Path) -> Path:
    return labelled / "left"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"methods": ("mse", "msee")}, "--methods msee: .*did you mean mse"),
        ({"methods": ("mse+msg-mae",)}, "--architecture msg-mae"),
        ({"methods": ("mse", "mse")}, "names a method twice"),
        ({"methods": ("mse", "mse+mae")}, r"--methods mse,mse\+mae: mse and mse\+mae are the same training"),
        ({"encoders": ("random:tiny/8", "random:tiny/8")}, "--encoders random:tiny/8,random:tiny/8: names an encoder"),
        ({"methods": ()}, "--methods: name one"),
        ({"methods": ("timm-p",)}, "needs a network, --loss-networks timm:"),
        ({"seeds": 0}, "--seeds 0"),
    ],
)
def test_settings_that_cannot_be_right(config: CompareConfig, settings: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        compare(replace(config, **settings))


def test_two_architectures_of_a_method_are_two_trainings(config: CompareConfig) -> None:
    replace(config, methods=("msg-gan-p", "msg-gan-p+mae", "mse")).check()
    with pytest.raises(UsageError, match="are the same training"):
        replace(config, methods=("msg-gan-p", "msg-gan-p+msg-mae")).check()


def test_each_method_gets_its_own_network(config: CompareConfig) -> None:
    networks = ("dvae:a.safetensors", "timm:resnet18:b.pth")
    config = replace(config, loss_networks=networks)
    assert config.run("timm-p", 0).loss_network == "timm:resnet18:b.pth"
    assert config.run("dvae-p", 3).loss_network == "dvae:a.safetensors"
    assert config.run("dvae-p", 3).seed == 3
    assert config.run("mse", 0).loss_network is None
