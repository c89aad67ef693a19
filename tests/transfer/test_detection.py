"""The task of detection: scored as pycocotools scores it, results that others read, data that does not fit."""

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import torch
from odd_files import encode, photograph
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

from perceptual_mae.api import pretrain
from perceptual_mae.data import SamplePlan, to_float
from perceptual_mae.data.coco import CocoSource, open_coco
from perceptual_mae.data.labelled import labelled_loader
from perceptual_mae.encoders import load_encoder
from perceptual_mae.encoders.skips import has_skips
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.models.detector import Detector
from perceptual_mae.models.task_network import Prediction, TaskNetwork
from perceptual_mae.transfer.config import DetectionConfig
from perceptual_mae.transfer.detection import Detection, coco_results, open_detection

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

SHARED = Path(__file__).parents[3] / "shared" / "data"
CPU = torch.device("cpu")
SIDE = 32
ROWS = [("mse", None, "last"), ("msg-gan", None, "several"), ("msg-gan-p", "mae", "last")]


def write(folder: Path, file: str = "annotations.json", ids: tuple[int, ...] = (3, 11, 90), images: int = 5) -> Path:
    """A folder of images of two shapes with rectangles of three classes, a crowd in the first, nothing in the last."""
    random = np.random.default_rng(0)
    entries, annotations = [], []
    for number in range(1, images + 1):
        width, height = (120, 80) if number % 2 else (64, 100)
        entries.append({"id": 10 * number, "file_name": f"{number}.png", "height": height, "width": width})
        for _ in range(0 if number == images else 4):
            x, y = random.uniform(0, 18, 2)
            w, h = random.uniform(4, 45, 2)
            annotations.append({"image_id": 10 * number, "bbox": [x, y, w, h], "area": 0.8 * w * h})
    for number, annotation in enumerate(annotations):
        x, y, w, h = annotation["bbox"]
        crowd = {"bbox": [0, 0, 60, 70], "area": 4200.0} if number == 3 else {}
        x2, y2 = x + w, y + h
        outline = {"segmentation": [[x, y, x2, y, x2, y2, x, y2]]} if not crowd else {"segmentation": []}
        facts = {"id": number, "category_id": ids[number % len(ids)], "iscrowd": int(bool(crowd))}
        annotation.update(facts | outline | crowd)
    content = {
        "info": {},
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": number, "name": f"kind {number}"} for number in ids],
    }
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for entry in entries:
        (path.parent / entry["file_name"]).write_bytes(encode(photograph((entry["width"], entry["height"])), "PNG"))
    return folder


def opened(folder: Path, split: str = "train") -> CocoSource:
    source = open_coco(str(folder), split)
    assert source is not None
    return source


class Says(TaskNetwork):
    """Says the same of each image, in order; whether they are the images that it should see is not its business."""

    def __init__(self, predictions: list[Prediction]) -> None:
        super().__init__()
        self.encoder, self.left = nn.Identity(), list(predictions)

    def predict(self, images: list[Tensor]) -> list[Prediction]:
        said, self.left = self.left[: len(images)], self.left[len(images) :]
        return said


def near_the_truth(source: CocoSource, seed: int = 0) -> list[Prediction]:
    """Objects moved, missed, mistaken and made up, with scores that know little of it; something within crowds too."""
    random = np.random.default_rng(seed)
    predictions = []
    for index in range(len(source)):
        image, truth = source.truth(index)
        height, width = image.shape[1:]
        found: list[tuple[list[float], int, float, np.ndarray]] = []
        for box, label, mask in zip(truth["boxes"], truth["labels"], truth["masks"], strict=True):
            for _ in range(random.choice([0, 1, 1, 1, 2])):
                moved = box.numpy() + random.normal(0, 2, 4)
                shifted = np.roll(mask.numpy(), random.integers(-2, 3, 2), axis=(0, 1))
                said = int(label) if random.random() < 0.8 else int(random.integers(1, len(source.classes) + 1))
                found.append((moved.tolist(), said, random.random(), shifted))
        for _ in range(3):
            x, y, w, h = *random.uniform(0, 40, 2), *random.uniform(2, 30, 2)
            mask = np.zeros((height, width), np.uint8)
            mask[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1] = 1
            found.append(
                ([x, y, x + w, y + h], int(random.integers(1, len(source.classes) + 1)), random.random(), mask)
            )
        found.sort(key=lambda one: -one[2])
        boxes, labels, scores, masks = zip(*found, strict=True)
        predictions.append(
            {
                "boxes": torch.tensor(boxes, dtype=torch.float32),
                "labels": torch.tensor(labels),
                "scores": torch.tensor(scores, dtype=torch.float32),
                "masks": torch.from_numpy(np.stack(masks)).bool(),
            }
        )
    return predictions


def by_pycocotools(reference: COCO, results: list[dict[str, Any]]) -> dict[str, float]:
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    found = {}
    for kind, key in (("box", "bbox"), ("mask", "segm")):
        # A result with a box counts as large as its box, even where masks are compared.
        said = [{k: v for k, v in one.items() if key == "bbox" or k != "bbox"} for one in results]
        evaluation = COCOeval(reference, reference.loadRes(json.loads(json.dumps(said))), key)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        found |= {f"{kind}_{name}": value for name, value in zip(names, evaluation.stats[:6].tolist(), strict=True)}
        for place, number in enumerate(evaluation.params.catIds):
            precision = evaluation.eval["precision"][:, :, place, 0, -1]
            found[f"{kind}_ap/{reference.cats[number]['name']}"] = float(precision.mean())
    return {name: value for name, value in found.items() if value >= 0}


def evaluated(source: CocoSource, predictions: list[Prediction]) -> dict[str, float]:
    task = Detection(_detector(len(source.classes)), source, source)
    return task.evaluate(Says(predictions), CPU)


def _detector(classes: int) -> Detector:
    torch.manual_seed(0)
    return Detector.of(load_encoder("random:micro/8", SIDE), classes, sampled=8)


# -- scores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "ids"), [(0, (3, 11, 90)), (1, (3, 11, 90)), (0, (5,))])
def test_scores_are_those_of_pycocotools(tmp_path: Path, seed: int, ids: tuple[int, ...]) -> None:
    source = opened(write(tmp_path, ids=ids, images=12))
    predictions = near_the_truth(source, seed)
    with redirect_stdout(io.StringIO()):
        content = json.loads((tmp_path / "annotations.json").read_text())
        for number, annotation in enumerate(content["annotations"], start=1):
            x, y, w, h = annotation["bbox"]
            outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            # What pycocotools cannot read: the id 0, and a box without an outline.
            annotation |= {"id": number, "segmentation": annotation["segmentation"] or outline}
        reference = COCO()
        reference.dataset = content
        reference.createIndex()
        results = coco_results(predictions, source.image_ids, source.category_ids)
        expected = by_pycocotools(reference, results)
    found = evaluated(source, predictions)
    assert found == pytest.approx(expected, abs=1e-6)
    assert 0.1 < found["box_ap"] < 0.9
    assert {"box_ap_small", "box_ap_medium", f"mask_ap/kind {ids[-1]}"} < found.keys()
    assert "box_ap_large" not in found, "there is none"


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the repository")
@pytest.mark.parametrize("name", ["coco-tiny", "coco-mini-384"])
def test_scores_on_real_annotations_are_those_of_pycocotools(name: str) -> None:
    source = opened(SHARED / name, "validation")
    predictions = near_the_truth(source)
    with redirect_stdout(io.StringIO()):
        reference = COCO(SHARED / name / "annotations" / "instances_val2017.json")
        results = coco_results(predictions, source.image_ids, source.category_ids)
        expected = by_pycocotools(reference, results)
        again = COCO()
        again.dataset = source.to_coco()
        again.createIndex()
        assert by_pycocotools(again, results) == pytest.approx(expected, abs=1e-9), "nothing is lost in `to_coco`"
    found = evaluated(source, predictions)
    assert len(expected) > 40, "there are many classes"
    assert found == pytest.approx(expected, abs=1e-6)
    assert 0.2 < found["mask_ap"] < 0.8


def test_the_truth_is_perfect_and_what_lies_in_a_crowd_does_not_count(tmp_path: Path) -> None:
    source = opened(write(tmp_path))
    predictions = []
    for index in range(len(source)):
        _, truth = source.truth(index)
        kept = truth["iscrowd"] == 0
        said = {name: truth[name][kept] for name in ("boxes", "labels", "masks")}
        predictions.append({**said, "masks": said["masks"].bool(), "scores": torch.full((int(kept.sum()),), 0.9)})
    found = evaluated(source, predictions)
    assert found["box_ap"] == found["mask_ap"] == pytest.approx(1)
    _, truth = source.truth(0)
    crowd = int(truth["iscrowd"].argmax())
    x1, y1 = truth["boxes"][crowd, :2].tolist()
    within = torch.zeros(1, 80, 120, dtype=torch.bool)
    within[0, int(y1) + 2 : int(y1) + 20, int(x1) + 2 : int(x1) + 20] = True
    more = {
        "boxes": torch.tensor([[x1 + 2, y1 + 2, x1 + 20, y1 + 20]]),
        "labels": truth["labels"][crowd : crowd + 1],
        "scores": torch.tensor([0.99]),
        "masks": within,
    }
    added = {name: torch.cat([more[name], predictions[0][name]]) for name in more}
    assert evaluated(source, [added, *predictions[1:]])["box_ap"] == pytest.approx(1)
    elsewhere = added | {"labels": added["labels"].clone()}
    elsewhere["labels"][0] = truth["labels"][crowd] % 3 + 1
    assert evaluated(source, [elsewhere, *predictions[1:]])["box_ap"] < 0.95


def test_nothing_found_and_nothing_there(tmp_path: Path) -> None:
    source = opened(write(tmp_path))
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
        "masks": torch.zeros(0, 80, 120, dtype=torch.bool),
    }
    assert evaluated(source, [nothing] * len(source))["box_ap"] == 0
    assert evaluated(source.subset([4]), [nothing]) == {"box_ap": 0.0, "mask_ap": 0.0}
    assert evaluated(source.subset([4]), near_the_truth(source)[4:]) == {"box_ap": 0.0, "mask_ap": 0.0}


def test_images_that_cannot_be_read_are_left_out_and_noted(tmp_path: Path) -> None:
    source = opened(write(tmp_path))
    predictions = near_the_truth(source)
    (tmp_path / "2.png").write_bytes(b"nothing")
    task = Detection(_detector(3), source, source)
    found = task.evaluate(Says(predictions[:1] + predictions[2:]), CPU)
    assert found == evaluated(source.subset([0, 2, 3, 4]), predictions[:1] + predictions[2:])
    assert [skip.name for skip in task.skipped] == ["2.png"]
    for name in ("1.png", "3.png", "4.png", "5.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(PmaeError, match=r"no validation image of .* can be read"):
        task.evaluate(Says([]), CPU)


def test_results_are_what_pycocotools_reads(tmp_path: Path) -> None:
    source = opened(write(tmp_path))
    predictions = near_the_truth(source)
    results = json.loads(json.dumps(coco_results(predictions, source.image_ids, source.category_ids)))
    assert len(results) == sum(len(one["labels"]) for one in predictions)
    numbered = zip(source.image_ids, predictions, strict=True)
    places = [(number, one, i) for number, one in numbered for i in range(len(one["labels"]))]
    for result, (image, one, i) in zip(results, places, strict=True):
        assert result["image_id"] == image
        assert result["category_id"] == {1: 3, 2: 11, 3: 90}[int(one["labels"][i])]
        assert result["score"] == pytest.approx(float(one["scores"][i]))
        x1, y1, x2, y2 = one["boxes"][i].tolist()
        assert result["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-4)
        assert np.array_equal(pycocotools.mask.decode(result["segmentation"]), one["masks"][i].numpy())


# -- training ----------------------------------------------------------------------------------------------------------


def test_its_samples_train_the_network(tmp_path: Path) -> None:
    source = opened(write(tmp_path))
    task = Detection(_detector(3), source, source, scale=(0.5, 1.5))
    batches = list(labelled_loader(source, SamplePlan(len(source), 2, 0), task.augment, last_step=2))
    again = list(labelled_loader(source, SamplePlan(len(source), 2, 0), task.augment, last_step=2))
    for batch, same in zip(batches, again, strict=True):
        assert batch.images.shape == (2, 3, SIDE, SIDE)
        assert torch.equal(batch.images, same.images)
        images, targets = task.mix(to_float(batch.images), batch.targets)
        losses = task.network.train()(images, targets)
        assert all(loss.isfinite() for loss in losses.values())
    metrics = task.evaluate(task.network.eval(), CPU)
    assert metrics[task.metric] >= 0


# -- from settings -----------------------------------------------------------------------------------------------------


def settings(folder: Path, **changes: Any) -> DetectionConfig:
    defaults: dict[str, Any] = {"encoder": "random:micro/8", "data": str(folder), "image_size": SIDE}
    return DetectionConfig(**(defaults | changes))


def test_opened_from_settings(tmp_path: Path) -> None:
    write(tmp_path, "train/_annotations.coco.json")
    write(tmp_path, "valid/_annotations.coco.json", images=2)
    task, told = open_detection(settings(tmp_path, backbone="windowed", window=2, pyramid="several", jitter=(0.5, 0.6)))
    assert (len(task.train), len(task.validation)) == (5, 2)
    assert task.augment.jitter.scale == (0.5, 0.6)
    assert task.augment.jitter.side == SIDE
    description = json.loads(json.dumps(dict(task.description)))
    assert description["category_ids"] == [3, 11, 90]
    assert (description["window"], description["pyramid"], description["classes"]) == (2, "several", 3)
    Detector.from_description(description).load_state_dict(task.network.state_dict())
    assert len(told) == 1


def test_a_part_is_held_out_where_there_is_no_validation(tmp_path: Path) -> None:
    write(tmp_path, images=10)
    task, told = open_detection(settings(tmp_path, seed=1))
    assert (len(task.train), len(task.validation)) == (8, 2)
    assert not set(task.train.image_ids) & set(task.validation.image_ids)
    assert "20% of the images are held out" in told[1]
    assert open_detection(settings(tmp_path, seed=1))[0].train.image_ids == task.train.image_ids
    assert open_detection(settings(tmp_path, seed=2))[0].train.image_ids != task.train.image_ids


def test_validation_images_of_another_folder(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b", images=3)
    task, _ = open_detection(settings(first, val_data=str(second)))
    assert (len(task.train), len(task.validation)) == (5, 3)
    other = write(tmp_path / "c", ids=(3, 12, 90))
    with pytest.raises(UsageError, match=r"--val-data .*: the categories of the validation images are not those"):
        open_detection(settings(first, val_data=str(other)))
    with pytest.raises(UsageError, match=r"^--val-data /nowhere: there is no such file or folder"):
        open_detection(settings(first, val_data="/nowhere"))


@pytest.mark.parametrize(("method", "architecture", "pyramid"), ROWS)
def test_encoders_that_had_skips_give_several_maps(
    tmp_path: Path, make_config: Any, method: str, architecture: str | None, pyramid: str
) -> None:
    run = pretrain(make_config(method=method, architecture=architecture, max_steps=1))
    assert has_skips(run) == (pyramid == "several")
    task, _ = open_detection(settings(write(tmp_path / "coco"), encoder=str(run)))
    assert task.description["pyramid"] == pyramid
    chosen, _ = open_detection(settings(tmp_path / "coco", encoder=str(run), pyramid="last"))
    assert chosen.description["pyramid"] == "last"


def test_what_was_left_out_is_told(tmp_path: Path) -> None:
    write(tmp_path, images=10)
    (tmp_path / "3.png").unlink()
    _, told = open_detection(settings(tmp_path))
    assert any("1 images or annotations are left out: 3.png: there is no such file" in one for one in told)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": "32x64"}, "ENCODER random:micro/8: detection takes square images, not 32 x 64"),
        ({"encoder": "pixels:4"}, "ENCODER pixels:4: .* is no Vision Transformer"),
        ({"data": "nowhere"}, "--data nowhere: there is no such file or folder"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_detection(settings(write(tmp_path), **changes))


def test_one_image_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is one image only, and none to validate on: give --val-data"):
        open_detection(settings(write(tmp_path, images=1)))


@pytest.mark.parametrize("package", ["faster_coco_eval", "pycocotools"])
def test_packages_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    write(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PmaeError, match=r"pip install 'perceptual-mae\[detection\]'"):
        open_detection(settings(tmp_path))
