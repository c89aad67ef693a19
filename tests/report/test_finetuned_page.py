"""The report of a fine-tuning run, and the pictures and numbers that it is made of."""

import json
import math
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from html_page import Page
from PIL import Image
from skimage import data
from torch import Tensor

from perceptual_mae.api import report
from perceptual_mae.data.labelled import Sample
from perceptual_mae.data.types import BrokenImage
from perceptual_mae.errors import UsageError
from perceptual_mae.finetune import finetune
from perceptual_mae.report.film import FRAMES
from perceptual_mae.report.finetuned import Pictures, predicted, some_samples, write_finetuned_report
from perceptual_mae.report.results import read_results, results_of
from perceptual_mae.training.config import CheckpointConfig
from perceptual_mae.transfer.config import ClassificationConfig, FinetuneLogConfig
from perceptual_mae.transfer.folder import FinetuneFolder
from perceptual_mae.transfer.loop import Evaluated

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{ 7*7 }}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps on two classes of tiny pictures, evaluated after every second."""
    root = tmp_path_factory.mktemp("finetuned")
    random = np.random.default_rng(0)
    for name, photograph in {"face": data.astronaut(), "gravel": np.stack([data.gravel()] * 3, axis=-1)}.items():
        for split, count in (("train", 4), ("val", 3)):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                top, left = random.integers(0, 450, 2)
                Image.fromarray(photograph[top : top + 40, left : left + 40]).save(folder / f"{number}.png")
    (root / "data" / "val" / "face" / "9.png").write_bytes(b"no picture")
    log = FinetuneLogConfig(every=1, pictures=4, tensorboard=False)
    config = ClassificationConfig(
        encoder="random:micro/8",
        data=str(root / "data"),
        out=str(root / "run"),
        image_size=32,
        max_steps=4,
        batch_size=4,
        device="cpu",
        workers=0,
        log=log,
        checkpoint=CheckpointConfig(minutes=1e9),
    )
    return finetune(config)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def page_of(run: Path) -> tuple[str, Page]:
    path = write_finetuned_report(run)
    assert path == run / "report.html"
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def rewrite(file: Path, **changes: Any) -> None:
    """Change some of the values in a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rows(page: Page, text: str) -> list[str]:
    """The classes of the table, in its order."""
    return [Page(name).seen for name in re.findall(r'<tr><th scope="row">(.*?)</th>', text)]


# -- what a run leaves ------------------------------------------------------------------------------------------------


def test_every_evaluation_is_drawn_and_the_best_is_kept_in_numbers(finished: Path) -> None:
    figures = sorted(path.name for path in (finished / "figures").iterdir())
    assert figures == ["confusion.png", "predictions-00000002.png", "predictions-00000004.png"]
    for name in figures:
        with Image.open(finished / "figures" / name) as image:
            assert min(image.size) > 100
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    measured = {record["step"]: record["validation/top1"] for record in records if "validation/top1" in record}
    assert list(measured) == [2, 4]
    results = json.loads((finished / "results.json").read_text())
    assert results["metrics"]["top1"] == max(measured.values())
    assert results["step"] == min(step for step, value in measured.items() if value == max(measured.values()))
    assert [one["name"] for one in results["classes"]] == ["face", "gravel"]
    assert [one["images"] for one in results["classes"]] == [3, 3]
    mean = sum(one["recall"] for one in results["classes"]) / 2
    assert mean == pytest.approx(results["metrics"]["top1"])
    low, high = results["interval"]
    assert 0 <= low <= mean <= high <= 1


def test_the_report_says_what_there_is_to_know(finished: Path) -> None:
    assert report(finished) == finished / "report.html"  # `pmae report` knows which kind of run it is
    text = (finished / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    results = json.loads((finished / "results.json").read_text())
    for told in (
        "fine-tuning report", "classification", "finished", "top-1 accuracy",
        f"{100 * results['metrics']['top1']:.3g} %",
        "95 % interval", "guessing would be right for 50 %", f"after step {results['step']}", "random:micro/8",
        "tell 2 classes apart", "8 images", "4 steps", "face", "gravel", "Class by class", "What is taken for what",
        "Gradient norm", "Learning rate", "Images a second", "Use it", "random weights", "CVPR 2023",
    ):  # fmt: skip
        assert told in page.seen, told
    assert "What is missing here" not in page.seen
    assert len(page.all("img")) == 3  # two evaluations and the confusion
    assert [one["title"] for one in page.all("input")] == ["Step 2", "Step 4"]
    assert len(page.all("svg")) == 5  # validation, loss, lr, gradient norm, images a second
    recalls = {one["name"]: one["recall"] for one in results["classes"]}
    assert rows(page, text) == sorted(recalls, key=recalls.__getitem__)
    assert page.seen.count("Top-5 accuracy100 %") <= 1
    loads = [value for _, a in page.elements for key, value in a.items() if key in ("src", "srcset", "data")]
    assert all(value.startswith("data:image/") for value in loads)


def test_settings_that_differ_from_their_default_are_marked(finished: Path) -> None:
    text, _ = page_of(finished)
    marked = set(re.findall(r'<div class="changed"><dt>([^<]+)</dt>', text))
    assert {
        "encoder",
        "data",
        "out",
        "image_size",
        "max_steps",
        "batch_size",
        "device",
        "workers",
        "pictures",
    } <= marked
    assert not {"recipe", "lr", "seed", "smoothing", "scale"} & marked


@pytest.mark.parametrize("end", ["", "/"])
def test_the_commands_survive_a_shell(run: Path, end: str) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"out": f"my runs/it's $HOME{end}"}))
    text, _ = page_of(run)
    again, use = (shlex.split(Page(one).seen) for one in (
        re.search(r'<pre class="command"><code>(.*?)</code>', text, re.DOTALL)[1],  # type: ignore[index]
        re.search(r"<pre><code>(pmae predict.*?)</code>", text, re.DOTALL)[1],  # type: ignore[index]
    ))  # fmt: skip
    assert again == [
        "pmae", "finetune", "classification", "--config", "my runs/it's $HOME/config.yaml",
        "--out", "my runs/it's $HOME-again",
    ]  # fmt: skip
    assert use[:3] == ["pmae", "predict", "my runs/it's $HOME"]


# -- odd runs ---------------------------------------------------------------------------------------------------------


def test_what_comes_from_data_is_text_wherever_it_stands(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {"encoder": HOSTILE, "data": HOSTILE, "task": HOSTILE, "out": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE]}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    classes = [{"name": HOSTILE, "recall": 0.5, HOSTILE: 0.25, "taken_for": HOSTILE, "taken_share": 0.1}]
    rewrite(run / "results.json", classes=classes, notes=[HOSTILE], metrics={"top1": 0.5, HOSTILE: 0.3})
    more = {"message": HOSTILE, "notes": [HOSTILE], "data": {"classes": [HOSTILE], HOSTILE: HOSTILE}}
    rewrite(run / "run.json", state="stopped", model={"encoder": HOSTILE, HOSTILE: HOSTILE}, **more)
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": 5, f"validation/{HOSTILE}": 0.5, f"loss/{HOSTILE}": 1.0}) + "\n")
    (run / "skipped.txt").write_text(f"{HOSTILE}\t{HOSTILE}\n")
    _, page = page_of(run.rename(run.parent / "<b>run &copy;"))
    assert len(page.all("script")) == 1
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert all(one["src"].startswith("data:image/") for one in page.all("img"))
    assert page.seen.count("<script>alert(1)</script>") >= 14
    assert "{{ 7*7 }}" in page.seen
    assert "<b>run &copy;" in page.seen


@pytest.mark.parametrize("content", ["[1, 2]", "{", "\x00", '"text"', '{"classes": 3, "metrics": [], "interval": "x"}'])
def test_numbers_that_are_missing_or_broken_are_said_and_taken_from_the_curves(run: Path, content: str) -> None:
    (run / "results.json").write_text(content)
    text, page = page_of(run)
    assert "top-1 accuracy" in page.seen  # the best that was logged
    assert "Nothing has been measured" in page.seen
    assert not rows(page, text)
    if "classes" not in content:
        assert "results.json" in page.seen[page.seen.index("What is missing here") :]


def test_values_of_the_wrong_kind_are_not_fatal(run: Path) -> None:
    odd = [{"name": None, "recall": "much"}, 7, {"recall": math.nan}, {"name": "ok", "recall": 2.5, "taken_for": 3}]
    rewrite(run / "results.json", classes=odd, step="late", interval=[1, "x"], notes={}, metrics={"top1": None})
    rewrite(run / "run.json", metric=["top1"], notes="none", model=[], data={"classes": 9}, steps=None)
    _, page = page_of(run)
    assert "ok" in page.seen
    rewrite(run / "run.json", metric="top1")
    page_of(run)


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("task: segmentation\n")
    _, page = page_of(tmp_path)
    for said in (
        "Nothing has been measured yet",
        "No picture has been drawn yet",
        "There are no prediction pictures yet",
    ):
        assert said in page.seen
    assert "fine-tuning report" in page.seen
    report(tmp_path)


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config\.yaml.*pmae finetune"):
        write_finetuned_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_broken_settings_are_reported_as_those_of_pre_training(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: [")
    assert "config.yaml could not be read" in Page(report(tmp_path).read_text()).seen


def test_a_long_film_and_many_classes_stay_readable(run: Path) -> None:
    picture = run / "figures" / "predictions-00000004.png"
    for step in range(10, 60):
        shutil.copy(picture, run / "figures" / f"predictions-{step:08d}.png")
    (run / "figures" / "predictions-00000060.png").write_bytes(b"\x89PNG")
    names = [f"class {number}" for number in range(700)]
    classes = [{"name": name, "recall": number / 700} for number, name in enumerate(reversed(names))]
    rewrite(run / "results.json", classes=classes)
    text, page = page_of(run)
    assert 8 <= len(page.all("input")) <= FRAMES
    assert "predictions-00000060.png could not be read" in page.seen
    assert rows(page, text) == list(reversed(names))[:500]
    assert "200 better ones" in page.seen
    shown = re.findall(r'<span class="bar"><i style="width: ([\d.]+)%">', text)
    assert [float(width) for width in shown] == pytest.approx([n / 7 for n in range(500)], abs=0.051)


# -- other tasks, by stand-ins ----------------------------------------------------------------------------------------


def stand_in(metrics: dict[str, float], confusion: Tensor | None = None) -> tuple[Evaluated, Any]:
    """An evaluation of a segmentation."""
    task = SimpleNamespace(
        name="segmentation", metric="miou", train=SimpleNamespace(classes=("sky", "a/b", "road")), confusion=confusion
    )
    return Evaluated(7, torch.nn.Identity(), metrics, True), task  # type: ignore[arg-type]


def test_numbers_of_classes_are_told_from_those_of_all() -> None:
    measured = {"miou": 0.4, "pixel_accuracy": math.nan, "edge/width": 0.3, "iou/sky": 0.7, "iou/a/b": 0.1}
    confusion = torch.tensor([[6, 2, 2], [0, 0, 0], [3, 1, 16]])
    found = results_of(*stand_in(measured, confusion))
    assert found["metrics"] == {"miou": 0.4, "pixel_accuracy": None, "edge/width": 0.3}
    assert found["step"] == 7
    sky, both, road = found["classes"]
    assert sky == {"name": "sky", "iou": 0.7, "taken_for": "a/b", "taken_share": 0.2}
    assert both == {"name": "a/b", "iou": 0.1}
    assert road == {"name": "road", "taken_for": "sky", "taken_share": pytest.approx(0.15)}


def test_classes_are_read_worst_first_and_those_without_a_number_last(tmp_path: Path) -> None:
    found = results_of(*stand_in({"miou": 0.4, "iou/sky": 0.7, "iou/a/b": 0.1}))
    (tmp_path / "results.json").write_text(json.dumps(found))
    notes: list[str] = []
    results = read_results(tmp_path, notes)
    assert [one.name for one in results.classes] == ["a/b", "sky", "road"]
    assert results.measures == ("iou",)
    assert not notes


def test_a_segmentation_is_reported_without_a_curve_for_every_class(run: Path) -> None:
    found = results_of(*stand_in({"miou": 0.4, "pixel_accuracy": 0.8, "iou/sky": 0.7, "iou/road": 0.1}))
    (run / "results.json").write_text(json.dumps(found))
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"task": "segmentation"}))
    rewrite(run / "run.json", metric="miou", data={"classes": ["sky", "a/b", "road"], "images": 3})
    line = {"step": 7, "loss/total": 1.0, "validation/miou": 0.4, "validation/iou/sky": 0.7, "validation/iou/road": 0.1}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    text, page = page_of(run)
    assert "40 % mean IoU" in " ".join(page.seen.split())
    assert "intersection over union" in page.seen
    assert rows(page, text) == ["road", "sky", "a/b"]
    assert len(page.all("svg")) == 2
    assert "sky" not in page.seen[page.seen.index("How it got there") : page.seen.index("Network, images, machine")]


def test_a_detection_is_reported_in_its_own_numbers(run: Path) -> None:
    metrics = {"box_ap": 0.31, "box_ap50": 0.52, "mask_ap": 0.28, "mask_ap50": 0.5}
    classes = [{"name": "cat", "box_ap": 0.4, "mask_ap": 0.3}, {"name": "dog"}, {"name": "owl", "box_ap": 0.2}]
    rewrite(run / "results.json", metrics=metrics, classes=classes, interval=None, task="detection")
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"task": "detection"}))
    rewrite(run / "run.json", metric="box_ap", data={"classes": ["cat", "dog", "owl"]})
    line = {"step": 7, "loss/total": 1.0, "validation/box_ap/cat": 0.4}
    line |= {f"validation/{name}": value for name, value in metrics.items()}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    text, page = page_of(run)
    assert "31 % box AP" in " ".join(page.seen.split())
    assert "In numbers" in page.seen
    assert rows(page, text) == ["Box AP", "Box AP50", "Mask AP", "Mask AP50", "owl", "cat", "dog"]
    titles = {title.strip() for title in re.findall(r"<h3>([^<]*) <span", text)}
    assert titles == {"Boxes, on validation images", "Masks, on validation images", "Loss"}
    rewrite(run / "results.json", classes=[{"name": "cat"}, {"name": "dog"}])
    assert "Nothing has been measured class by class." in page_of(run)[1].seen


# -- the observer -----------------------------------------------------------------------------------------------------


class Pixels:
    """Validation images of one grey each, the number of an image being its grey; some are broken."""

    name, classes = "pixels", ("dark", "bright")

    def __init__(self, length: int, broken: Mapping[int, str]) -> None:
        self.length, self.broken, self.read_ones = length, broken, list[int]()

    def __len__(self) -> int:
        return self.length

    def title(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> Sample:
        if index in self.broken:
            raise BrokenImage(self.broken[index])
        self.read_ones.append(index)
        return Sample(torch.full((3, 9, 12), index, dtype=torch.uint8), torch.tensor(index % 2), str(index))

    def fingerprint(self) -> str:
        return ""


def test_samples_are_the_same_at_every_evaluation_and_others_stand_for_broken_ones() -> None:
    whole = some_samples(Pixels(100, {}), 8, seed=3)
    names = [int(sample.name) for sample in whole]
    assert len(set(names)) == 8
    assert names == sorted(names) != list(range(8))
    assert [sample.name for sample in some_samples(Pixels(100, {}), 8, seed=3)] == [sample.name for sample in whole]
    assert [int(sample.name) for sample in some_samples(Pixels(100, {}), 8, seed=4)] != names
    without = [int(sample.name) for sample in some_samples(Pixels(100, dict.fromkeys(names[:2], "cut off")), 8, seed=3)]
    assert len(without) == 8
    assert not set(names[:2]) & set(without)
    assert set(names[2:]) < set(without)
    assert len(some_samples(Pixels(3, {}), 8, seed=0)) == 3
    assert not some_samples(Pixels(3, dict.fromkeys(range(3), "cut off")), 8, seed=0)
    nothing = Pixels(3, {})
    assert not some_samples(nothing, 0, seed=0)
    assert not nothing.read_ones


class Brightness(torch.nn.Module):
    """Says how bright an image is, and notes how many it was shown at once."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []

    def predict(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        self.shown.append(len(images))
        shares = [image.float().mean() / 255 for image in images]
        return [{"probabilities": torch.stack([1 - share, share])} for share in shares]


def test_predictions_come_in_the_order_of_the_samples_a_few_at_once() -> None:
    samples, network = some_samples(Pixels(50, {}), 20, seed=0), Brightness()
    shares = [float(one["probabilities"][1]) for one in predicted(network, samples)]  # type: ignore[arg-type]
    assert shares == pytest.approx([int(sample.name) / 255 for sample in samples])
    assert max(network.shown) <= 8


def test_of_detected_objects_those_that_are_drawn_are_kept() -> None:
    network = SimpleNamespace(
        predict=lambda images: [{"scores": torch.tensor([0.9, 0.5, 0.1]), "boxes": torch.eye(3, 4)}]
    )
    (found,) = predicted(network, some_samples(Pixels(1, {}), 1, seed=0))  # type: ignore[arg-type]
    assert found["scores"].tolist() == pytest.approx([0.9, 0.5])
    assert len(found["boxes"]) == 2


def test_only_the_best_evaluation_writes_numbers_and_none_draws_on_random_states(run: Path) -> None:
    folder = FinetuneFolder.read(run)
    (run / "results.json").unlink()
    source = Pixels(20, {})
    task: Any = SimpleNamespace(name="x", metric="top1", train=source, validation=source)
    evaluated = Evaluated(9, Brightness(), {"top1": 0.5}, best=False)  # type: ignore[arg-type]
    states = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    Pictures(5, seed=0)(evaluated, task, folder)
    assert (run / "figures" / "predictions-00000009.png").is_file()
    assert not (run / "results.json").exists()
    Pictures(0, seed=0)(replace(evaluated, step=10, best=True), task, folder)
    assert not (run / "figures" / "predictions-00000010.png").exists()
    assert json.loads((run / "results.json").read_text())["metrics"] == {"top1": 0.5}
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
