"""The segmentation task: its metrics against scikit-learn's, its views, and whole runs of it over a small folder."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score
from torch import Tensor

from perceptual_mae.data.ade import AdeSource, open_ade
from perceptual_mae.data.labelled import labelled_loader
from perceptual_mae.data.palette import class_colours
from perceptual_mae.data.plan import SamplePlan
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.models.task_network import Prediction, TaskNetwork
from perceptual_mae.transfer.config import SegmentationConfig
from perceptual_mae.transfer.masks import write_mask
from perceptual_mae.transfer.segmentation import Segmentation, open_segmentation, scores, segmenter_class

NAMES = ("sky", "road", "car", "boat")
CPU = torch.device("cpu")


def write(root: Path, split: str, name: str, mask: np.ndarray) -> None:
    """An image whose red says the class, and its mask."""
    for parent, values in (("images", np.stack([mask * 60, mask * 0, mask * 0], axis=-1)), ("annotations", mask)):
        folder = root / parent / split
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{name}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight images to train on, five of several sizes to validate on; nothing is a boat."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "streets"
    for number in range(8):
        write(folder, "training", f"t{number}", draw.integers(0, 4, (48, 64)))
    for number, size in enumerate([(32, 32), (40, 56), (20, 33), (32, 32), (64, 30)]):
        write(folder, "validation", f"v{number}", draw.integers(0, 4, size))
    (folder / "classes.txt").write_text("\n".join(NAMES))
    return folder


def opened(root: Path, **settings: object) -> tuple[Segmentation, list[str]]:
    config = SegmentationConfig(encoder="random:micro/8", data=str(root), image_size=32, **settings)  # type: ignore[arg-type]
    return open_segmentation(config)


class Fixed(TaskNetwork):
    """Says of every image what it was told to say of its colours."""

    def __init__(self, says: dict[int, int]) -> None:
        super().__init__()
        self.says = says

    def predict(self, images: list[Tensor]) -> list[Prediction]:
        """By the red of a pixel, which is 60 times the value of its mask."""
        table = torch.tensor([self.says.get(value, 0) for value in range(5)], dtype=torch.uint8)
        return [{"labels": table[(image[0].long() / 60).round().long()]} for image in images]


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_all_pixels_together(root: Path) -> None:
    """Against scikit-learn on the pixels of all images in one row; a mean over images would be another number."""
    task, _ = opened(root)
    says = {0: 2, 1: 0, 2: 1, 3: 0}  # the sky is sky, roads are roads, cars are called sky, nothing a boat
    found = task.evaluate(Fixed(says), CPU)
    masks = [np.asarray(Image.open(path)).flatten() for path in sorted((root / "annotations/validation").iterdir())]
    values = np.concatenate(masks)
    truth, said = values[values > 0] - 1, np.array([says[value] for value in values[values > 0]])
    iou = jaccard_score(truth, said, labels=[0, 1, 2], average=None)
    assert found["miou"] == pytest.approx(iou.mean(), abs=1e-9)
    assert {name: found[f"iou/{name}"] for name in NAMES[:3]} == pytest.approx(
        dict(zip(NAMES[:3], iou, strict=True)), abs=1e-9
    )
    assert found["pixel_accuracy"] == pytest.approx((truth == said).mean(), abs=1e-9)
    recalls = [(said[truth == k] == k).mean() for k in range(3)]
    assert found["mean_accuracy"] == pytest.approx(np.mean(recalls), abs=1e-9)
    assert "iou/boat" not in found
    assert task.confusion is not None
    assert int(task.confusion.sum()) == len(truth)
    assert found[task.metric] == found["miou"]


def test_perfect_predictions(root: Path) -> None:
    task, _ = opened(root)
    found = task.evaluate(Fixed({1: 0, 2: 1, 3: 2}), CPU)
    assert set(found.values()) == {1.0}


def by_loop(truth: Tensor, said: Tensor, classes: int) -> dict[str, float]:
    """Each number from its definition, a class at a time, in float64."""
    iou, accuracies = {}, []
    for k in range(classes):
        both = float(((truth == k) & (said == k)).sum())
        either = float(((truth == k) | (said == k)).sum())
        if either:
            iou[k] = both / either
        if (truth == k).any():
            accuracies.append(both / float((truth == k).sum()))
    named = {f"iou/{k}": value for k, value in iou.items()}
    mean, hit = sum(iou.values()) / len(iou), float((truth == said).double().mean())
    return {"miou": mean, "pixel_accuracy": hit, "mean_accuracy": sum(accuracies) / len(accuracies), **named}


@pytest.mark.parametrize("seed", range(4))
def test_scores_of_a_confusion(seed: int) -> None:
    """Class 5 is nowhere, class 4 is called but never is, class 3 is but is never called."""
    random = torch.Generator().manual_seed(seed)
    truth, said = torch.randint(4, (500,), generator=random), torch.randint(4, (500,), generator=random)
    said[said == 3] = 4
    confusion = torch.zeros(6, 6, dtype=torch.int64)
    for pair in zip(truth.tolist(), said.tolist(), strict=True):
        confusion[pair] += 1
    found = scores(confusion, tuple("012345"))
    assert found == pytest.approx(by_loop(truth, said, 6), abs=1e-12)
    assert found["iou/3"] == found["iou/4"] == 0
    assert "iou/5" not in found


def test_no_pixel_has_a_class(root: Path) -> None:
    for path in (root / "annotations/validation").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) * 0).save(path)
    task, _ = opened(root)
    with pytest.raises(PmaeError, match="no pixel of the validation masks has a class"):
        task.evaluate(Fixed({}), CPU)


def test_validation_images_that_cannot_be_read_are_left_out(root: Path) -> None:
    task, _ = opened(root)
    (root / "images/validation/v1.png").write_bytes(b"nothing")
    found = task.evaluate(Fixed({1: 0, 2: 1, 3: 2}), CPU)
    assert found["miou"] == 1
    assert [skip.name for skip in task.skipped] == ["v1.png"]
    for path in (root / "images/validation").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(PmaeError, match=r"no validation image of .* can be read; the first, v0.png: not an image"):
        task.evaluate(Fixed({}), CPU)


# -- the task ----------------------------------------------------------------------------------------------------------


def test_what_a_step_learns_from(root: Path) -> None:
    task, notes = opened(root, drop_path=0.2, scale=(0.5, 0.6))
    assert task.train.classes == task.validation.classes == NAMES
    assert (len(task.train), len(task.validation)) == (8, 5)
    assert len(notes) == 1  # which weights matched, and nothing to complain of
    assert task.network.encoder.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    (batch,) = labelled_loader(task.train, SamplePlan(len(task.train), 4, 0), task.augment, last_step=1)
    assert batch.images.shape == (4, 3, 32, 32)
    targets = torch.stack(batch.targets)  # type: ignore[arg-type]
    assert set(targets.unique().tolist()) == {0, 1, 2, 255}
    # At scales up to 0.6 an image of 48 x 64 does not fill a view of 32 x 32: the rest is the mean colour.
    mean = (255 * task.network.backbone.mean.flatten()).round()
    assert (batch.images[:, :, -1, -1] == mean).all()
    assert (targets[:, -1, -1] == 255).all()
    images, mixed = task.mix(batch.images / 255, batch.targets)
    losses = task.network.train()(images, mixed)
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())


def test_a_real_network_is_measured(root: Path) -> None:
    task, _ = opened(root)
    found = task.evaluate(task.network.eval(), CPU)
    assert {"miou", "pixel_accuracy", "mean_accuracy"} < found.keys()
    assert all(0 <= value <= 1 for value in found.values())


def test_masks_that_are_wrong_are_told_before_anything_is_learnt(root: Path) -> None:
    mask = np.full((48, 64), 57, np.uint8)
    Image.fromarray(mask).save(root / "annotations/training/t3.png")
    (root / "images/validation/v0.png").unlink()
    task, notes = opened(root)
    assert len(task.train) == 7
    assert len(notes) == 3
    assert "1 training image or mask is left out (the first, t3.png: its mask" in notes[1]
    assert "the value 57, but there are 4 classes" in notes[1]
    assert "1 validation image or mask is left out (the first, v0.png: is a mask without an image" in notes[2]


def test_no_mask_can_be_used(root: Path) -> None:
    for path in (root / "annotations/training").iterdir():
        Image.fromarray(np.full((48, 64), 57, np.uint8)).save(path)
    with pytest.raises(UsageError, match=r"no training image can be used; the last, t7.png: .* the value 57"):
        opened(root)


def test_validation_data_that_is_not_there_is_named_by_its_flag(root: Path) -> None:
    with pytest.raises(UsageError, match=r"^--val-data /nowhere: there is no such folder"):
        opened(root, val_data="/nowhere")


def test_one_class_is_nothing_to_tell_apart(root: Path) -> None:
    """As masks of 0 and 1 are, which everybody has."""
    (root / "classes.txt").unlink(missing_ok=True)
    for path in (root / "annotations").rglob("*.png"):
        Image.fromarray((np.asarray(Image.open(path)) > 2).astype(np.uint8)).save(path)
    with pytest.raises(UsageError, match=r"there is one class.*write 1 and 2 for background and object"):
        opened(root)


def test_nothing_to_measure_on(root: Path) -> None:
    (root / "images/validation").rename(root / "images/other")
    with pytest.raises(UsageError, match=r"there is no images/validation to measure on: .* --val-data"):
        opened(root)


def test_other_data_to_measure_on(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other, "training", "x", np.ones((32, 32), int))
    task, _ = opened(root, val_data=str(other))
    assert task.validation.classes == NAMES
    assert [task.validation.title(index) for index in range(len(task.validation))] == ["x.png"]


def test_an_encoder_that_cannot(root: Path) -> None:
    with pytest.raises(UsageError, match=r"^ENCODER pixels:8: pixels:8 is no Vision Transformer"):
        open_segmentation(SegmentationConfig(encoder="pixels:8", data=str(root), image_size=32))


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("segmenter", "upernet"):
        monkeypatch.delitem(sys.modules, f"perceptual_mae.models.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not there
    with pytest.raises(PmaeError, match=r"pip install 'perceptual-mae\[segmentation\]'$"):
        segmenter_class()


# -- masks as files ----------------------------------------------------------------------------------------------------


def test_masks_are_written_as_they_are_read(root: Path, tmp_path: Path) -> None:
    labels = torch.tensor([[0, 1, 3], [2, 2, 0]], dtype=torch.uint8)
    path = write_mask(tmp_path / "streets/annotations/training/t0.png", labels)
    write_mask(tmp_path / "all.png", torch.arange(254, dtype=torch.uint8)[None])
    with Image.open(path) as image, Image.open(tmp_path / "all.png") as every:
        assert image.mode == "P"
        assert np.asarray(image).tolist() == [[1, 2, 4], [3, 3, 1]]
        assert np.asarray(every)[0].tolist() == list(range(1, 255))
        colours = np.asarray(image.convert("RGB"))
    assert colours.tolist() == class_colours(4)[labels.numpy()].tolist()
    Image.new("RGB", (3, 2)).save(root / "images/training/t0.png")
    source = open_ade(str(root), "train")
    assert isinstance(source, AdeSource)
    assert torch.equal(source.read(0).target, labels.long())  # type: ignore[arg-type]
