"""COCO folders: what is read of them, against pycocotools, and what is wrong with them, told and left out."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import torch
from odd_files import encode, photograph
from pycocotools.coco import COCO

from perceptual_mae.data.coco import CocoSource, open_coco
from perceptual_mae.data.types import BrokenImage
from perceptual_mae.errors import PmaeError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

HEIGHT, WIDTH = 20, 30
SQUARE = [3.0, 2.0, 3.0, 12.0, 13.0, 12.0, 13.0, 2.0]
CATEGORIES = [{"id": 4, "name": "ant"}, {"id": 90, "name": "bee"}, {"id": 7, "name": "cat"}]


def image(number: int, name: str | None = None, height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    return {"id": number, "file_name": name or f"{number}.png", "height": height, "width": width}


def thing(number: int, **changes: Any) -> dict[str, Any]:
    """An annotation of image 1; a change to None takes a key away."""
    plain = {
        "id": number,
        "image_id": 1,
        "category_id": 90,
        "iscrowd": 0,
        "bbox": [3.0, 2.0, 10.0, 10.0],
        "area": 100.0,
        "segmentation": [SQUARE],
    }
    return {key: value for key, value in (plain | changes).items() if value is not None}


def content(*annotations: dict[str, Any], images: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"images": images or [image(1)], "annotations": list(annotations), "categories": CATEGORIES}


def write(
    folder: Path, said: Any, file: str = "annotations.json", images: str = "", names: tuple[str, ...] = ()
) -> str:
    """A folder with annotations and the images that they name (or `names`)."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(said if isinstance(said, str) else json.dumps(said))
    for one in names or tuple(entry["file_name"] for entry in said["images"]):
        there = folder / images / one
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(encode(photograph((WIDTH, HEIGHT)), "PNG"))
    return str(folder)


def opened(folder: Path, said: Any) -> CocoSource:
    source = open_coco(write(folder, said), "train")
    assert source is not None
    return source


def circle() -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return ((rows - 9) ** 2 + (columns - 14) ** 2 < 40).astype(np.uint8)


def run_lengths(mask: np.ndarray) -> list[int]:
    """Uncompressed: down the columns, beginning with the zeros."""
    runs, value = [0], 0
    for pixel in mask.ravel(order="F"):
        if pixel == value:
            runs[-1] += 1
        else:
            runs.append(1)
            value = pixel
    return runs


# -- what is read ------------------------------------------------------------------------------------------------------


def test_every_kind_of_mask(tmp_path: Path) -> None:
    packed = pycocotools.mask.encode(np.asfortranarray(circle()))
    two = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0], [20.0, 10.0, 28.0, 10.0, 24.0, 18.0]]
    source = opened(
        tmp_path,
        content(
            thing(1),
            thing(2, segmentation={"size": [HEIGHT, WIDTH], "counts": run_lengths(circle())}),
            thing(3, segmentation={"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}, category_id=7),
            thing(4, segmentation=two),
            thing(5, segmentation=None, category_id=4),
            thing(6, segmentation=[]),
        ),
    )
    assert source.problems == []
    sample = source.read(0)
    assert sample.image.shape == (3, HEIGHT, WIDTH)
    assert sample.name == "1.png"
    target = sample.target
    assert target["labels"].tolist() == [2, 2, 3, 2, 1, 2]
    assert (source.classes, source.category_ids, source.image_ids) == (("ant", "bee", "cat"), (4, 90, 7), (1,))
    assert target["boxes"].dtype == torch.float32
    assert target["boxes"].tolist() == [[3, 2, 13, 12]] * 6
    square = np.zeros((HEIGHT, WIDTH), np.uint8)
    square[2:12, 3:13] = 1
    drawn = pycocotools.mask.decode(pycocotools.mask.frPyObjects(two, HEIGHT, WIDTH)).max(axis=2)
    expected = np.stack([square, circle(), circle(), drawn, square, square])
    assert target["masks"].dtype == torch.uint8
    assert np.array_equal(target["masks"].numpy(), expected)


def test_boxes_are_clipped_to_the_image_but_true_as_annotated(tmp_path: Path) -> None:
    source = opened(tmp_path, content(thing(1, bbox=[-5.0, 10.0, 100.0, 15.5], segmentation=None)))
    target = source.read(0).target
    assert target["boxes"].tolist() == [[0, 10, WIDTH, HEIGHT]]
    assert target["masks"][0].sum() == 10 * WIDTH
    assert source.truth(0)[1]["boxes"].tolist() == [[-5, 10, 95, 25.5]]


def test_crowds_are_never_objects_but_known_to_evaluation(tmp_path: Path) -> None:
    source = opened(tmp_path, content(thing(1, iscrowd=1, area=77.0), thing(2, category_id=4)))
    assert source.read(0).target["labels"].tolist() == [1]
    image, truth = source.truth(0)
    assert torch.equal(image, source.read(0).image)
    assert truth["labels"].tolist() == [2, 1]
    assert truth["iscrowd"].tolist() == [1, 0]
    assert truth["area"].tolist() == [77, 100]
    assert len(truth["masks"]) == 2
    assert [a["iscrowd"] for a in source.to_coco()["annotations"]] == [1, 0]


def test_an_image_without_objects(tmp_path: Path) -> None:
    source = opened(tmp_path, content(thing(1), images=[image(5), image(1)]))
    target = source.read(0).target
    assert {name: tuple(tensor.shape) for name, tensor in target.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, HEIGHT, WIDTH),
    }
    assert len(source.read(1).target["labels"]) == 1
    assert source.truth(0)[1]["iscrowd"].shape == (0,)


def test_a_box_that_is_not_given_is_that_of_the_mask(tmp_path: Path) -> None:
    packed = {"size": [HEIGHT, WIDTH], "counts": run_lengths(circle())}
    source = opened(tmp_path, content(thing(1, bbox=None, area=None, segmentation=packed), thing(2, area=None)))
    rows, columns = np.flatnonzero(circle().any(axis=1)), np.flatnonzero(circle().any(axis=0))
    truth = source.truth(0)[1]
    assert truth["boxes"][0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert truth["area"].tolist() == [circle().sum(), 100]


def test_objects_keep_to_their_images_in_any_order(tmp_path: Path) -> None:
    annotations = [thing(n, image_id=1 + n % 3, bbox=[1, 1, n, n], segmentation=None) for n in range(2, 14)]
    source = opened(tmp_path, content(*annotations, images=[image(3), image(1), image(2)]))
    for index, number in enumerate((3, 1, 2)):
        sizes = [a["bbox"][2] for a in annotations if a["image_id"] == number]
        boxes = source.read(index).target["boxes"]
        assert (boxes[:, 2] - boxes[:, 0]).tolist() == sizes
    part = source.subset([2, 0])
    assert [part.title(0), part.title(1), part.image_ids] == ["2.png", "3.png", (2, 3)]
    for index, whole in enumerate((2, 0)):
        assert torch.equal(part.read(index).target["boxes"], source.read(whole).target["boxes"])


def test_a_fingerprint_is_of_everything(tmp_path: Path) -> None:
    packed = {"size": [HEIGHT, WIDTH], "counts": run_lengths(circle())}
    said = [
        content(thing(1)),
        content(thing(1, category_id=4)),
        content(thing(1, bbox=[3, 2, 10, 11])),
        content(thing(1, iscrowd=1)),
        content(thing(1, segmentation=packed)),
        content(thing(1), images=[image(1, "a.png")]),
        content(thing(1), thing(2)),
    ]
    found = [opened(tmp_path / str(number), one).fingerprint() for number, one in enumerate(said)]
    assert len(set(found)) == len(said)
    assert opened(tmp_path / "again", said[0]).fingerprint() == found[0]


def test_it_travels_to_workers(tmp_path: Path) -> None:
    source = opened(tmp_path, content(thing(1)))
    there = pickle.loads(pickle.dumps(source))
    assert torch.equal(there.read(0).target["masks"], source.read(0).target["masks"])


def test_grey_and_large_images(tmp_path: Path) -> None:
    folder = write(tmp_path, content(thing(1)))
    assert open_coco(folder, "train", channels=1).read(0).image.shape == (1, HEIGHT, WIDTH)
    with pytest.raises(BrokenImage):
        open_coco(folder, "train", max_pixels=100).read(0)


@pytest.mark.parametrize(("split", "bare", "crowds"), [("train", 1, 5), ("validation", 2, 5)])
def test_real_annotations_against_pycocotools(shared: Any, split: str, bare: int, crowds: int) -> None:
    folder = shared("coco-tiny")
    source = open_coco(str(folder), split)
    assert source is not None
    assert (len(source), len(source.classes), source.problems) == (50, 80, [])
    reference = COCO(folder / "annotations" / f"instances_{'train' if split == 'train' else 'val'}2017.json")
    unannotated = crowded = 0
    for index in range(len(source)):
        annotations = reference.loadAnns(reference.getAnnIds([source.image_ids[index]]))
        unannotated += not annotations
        objects = [a for a in annotations if not a["iscrowd"]]
        target = source.read(index).target
        assert [source.category_ids[label - 1] for label in target["labels"]] == [a["category_id"] for a in objects]
        truth = source.truth(index)[1]
        assert truth["iscrowd"].tolist() == [a["iscrowd"] for a in annotations]
        crowded += sum(a["iscrowd"] for a in annotations)
        for mask, annotation in zip(truth["masks"], annotations, strict=True):
            assert np.array_equal(mask.numpy(), reference.annToMask(annotation))
        wanted = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float64).reshape(-1, 4)
        wanted[:, 2:] += wanted[:, :2]
        torch.testing.assert_close(truth["boxes"].double(), wanted, atol=1e-4, rtol=0)
    assert (unannotated, crowded) == (bare, crowds)


# -- what is wrong -----------------------------------------------------------------------------------------------------

FULL = HEIGHT * WIDTH


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_id": 9}, "there is no image with the id 9"),
        ({"category_id": 1}, "there is no category with the id 1"),
        ({"bbox": [3, 2, 0, 10]}, "less than a pixel of its box [3, 2, 0, 10] lies within the image of 30 x 20 pixels"),
        ({"bbox": [3, 2, 5, 0.5]}, "less than a pixel of its box"),
        ({"bbox": [29.5, 2, 50, 10]}, "less than a pixel of its box"),
        ({"bbox": [3, 2, -5, 10]}, "less than a pixel of its box"),
        ({"bbox": [3, 2, 5]}, "its box is not four numbers"),
        ({"bbox": [3, 2, 5, float("nan")]}, "its box is not four numbers"),
        ({"bbox": "3 2 5 5"}, "its box is not four numbers"),
        ({"bbox": None, "segmentation": None}, "it has neither box nor mask"),
        ({"segmentation": [[1.0, 2.0, 3.0, 4.0]]}, "none of its polygons has three corners"),
        ({"segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]}, "its polygons are no pairs of numbers"),
        ({"segmentation": [["a"] * 6]}, "its polygons are no pairs of numbers"),
        ({"segmentation": [[0.0, 0.0, 1e9, 0.0, 1e9, 1e9]]}, "its polygons lie far outside of the image"),
        ({"segmentation": "x"}, "its segmentation is neither polygons nor run lengths"),
        ({"segmentation": {"size": [HEIGHT, WIDTH]}}, "its run lengths are not `size` and `counts`"),
        (
            {"segmentation": {"size": [WIDTH, HEIGHT], "counts": [FULL]}},
            "its mask is of 20 x 30 pixels, the image of 30 x 20",
        ),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [FULL - 1]}},
            "its run lengths are of 599 pixels, the image of 600",
        ),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [FULL + 5, -5]}}, "its run lengths are no whole numbers"),
        # pycocotools decodes these two to whatever is in memory.
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": ""}}, "its run lengths are of 0 pixels"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "11"}}, "its run lengths are of 2 pixels"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "PPP"}}, "its run lengths are no whole numbers"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "~é"}}, "its run lengths are no whole numbers"),
    ],
)
def test_annotations_that_cannot_be_used_are_listed(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    source = opened(tmp_path, content(thing(12, **changes), thing(13)))
    assert len(source.problems) == 1
    assert source.problems[0].name.startswith("annotation 12")
    assert source.problems[0].reason.startswith(reason)
    assert len(source.read(0).target["labels"]) == 1
    assert len(source.to_coco()["annotations"]) == 1


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("\x00", "is no JSON"),
        ([], "it is no object"),
        ({"images": [], "categories": []}, "it has no list `annotations`"),
        ({"images": {}, "categories": [], "annotations": []}, "it has no list `images`"),
        (content() | {"categories": [{"id": "1", "name": "x"}]}, "categories[0] has no whole number id"),
        (content() | {"categories": [*CATEGORIES, CATEGORIES[0]]}, "the category id 4 is there twice"),
        (content(images=[image(1), image(1)]), "the image id 1 is there twice"),
        (content(images=[image(True)]), "images[0] has no whole number id"),
        (content(images=[image(1, height=0)]), "images[0] has no whole number height"),
        (content() | {"images": [{"id": 1, "height": 2, "width": 2}]}, "images[0] has no text file_name"),
        (content() | {"images": ["a.png"]}, "images[0] is no object"),
        (content() | {"annotations": [7]}, "annotations[0] is no object"),
        (content(thing(1, image_id="1")), "annotations[0] has no whole numbers image_id and category_id"),
        (content() | {"categories": []}, "has no categories"),
    ],
)
def test_files_that_are_no_annotations(tmp_path: Path, said: Any, reason: str) -> None:
    folder = write(tmp_path, said if isinstance(said, str) else json.dumps(said), names=("1.png",))
    with pytest.raises(PmaeError) as error:
        open_coco(folder, "train")
    assert str(tmp_path / "annotations.json") in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_images_that_are_missing_or_lead_out(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(encode(photograph((WIDTH, HEIGHT)), "PNG"))
    names = ["1.png", "gone.png", "../secret.png", str(tmp_path / "secret.png"), "deep/../../secret.png", "a\x00b.png"]
    images = [image(number, name) for number, name in enumerate(names, start=1)]
    said = content(thing(1), thing(2, image_id=2), thing(3, image_id=3), images=images)
    folder = write(tmp_path / "coco", json.dumps(said), names=("1.png", "deep/2.png"))
    source = open_coco(folder, "train")
    assert len(source) == 1
    assert source.title(0) == "1.png"
    assert len(source.to_coco()["annotations"]) == 1
    reasons = [problem.reason for problem in source.problems]
    assert reasons == [
        "there is no such file",
        *["its path leads out of the folder of images"] * 3,
        "there is no such file",
    ]
    assert all(problem.name.isprintable() for problem in source.problems)


def test_no_image_at_all(tmp_path: Path) -> None:
    folder = write(tmp_path, content(thing(1)), names=("other.png",))
    with pytest.raises(PmaeError, match=r"names 1 images, and none of them is in .*"):
        open_coco(folder, "train")


def test_an_image_of_another_size_or_broken(tmp_path: Path) -> None:
    said = content(thing(1), thing(2, image_id=2), images=[image(1, height=HEIGHT + 1), image(2)])
    source = opened(tmp_path, said)
    with pytest.raises(BrokenImage, match="it is of 30 x 20 pixels, but was annotated as 30 x 21"):
        source.read(0)
    (tmp_path / "2.png").write_bytes(b"nothing")
    with pytest.raises(BrokenImage):
        source.truth(1)


def test_without_pycocotools_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, content(thing(1)))
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    monkeypatch.delattr("pycocotools.mask")
    with pytest.raises(PmaeError, match=r"pip install 'perceptual-mae\[detection\]'"):
        open_coco(folder, "train")


# -- where it may lie --------------------------------------------------------------------------------------------------

BOTH = {"train": 1, "validation": 2}
SINGLE = {"train": 1, "validation": None}


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        ({"annotations/instances_train2017.json": "train2017", "annotations/instances_val2017.json": "val2017"}, BOTH),
        ({"annotations/instances_train.json": "images", "annotations/instances_val.json": "images"}, BOTH),
        ({"annotations/instances_train2014.json": "images/train2014", "annotations/instances_val2014.json": ""}, BOTH),
        ({"annotations/instances_train2017.json": ""}, SINGLE),
        ({"annotations.json": ""}, SINGLE),
        ({"_annotations.coco.json": "images"}, SINGLE),
        ({"train/_annotations.coco.json": "train", "valid/_annotations.coco.json": "valid"}, BOTH),
        ({"train/_annotations.coco.json": "train"}, SINGLE),
    ],
)
def test_layouts(tmp_path: Path, files: dict[str, str], splits: dict[str, int | None]) -> None:
    for number, (file, images) in enumerate(files.items(), start=1):
        write(tmp_path, content(images=[image(number)]), file, images)
    for split, number in splits.items():
        source = open_coco(str(tmp_path), split)
        assert (source and source.image_ids) == (number and (number,))
        if source is not None:
            assert source.read(0).image.shape == (3, HEIGHT, WIDTH)


def test_a_single_file(tmp_path: Path) -> None:
    write(tmp_path, content(thing(1)), "mine.json")
    assert len(open_coco(str(tmp_path / "mine.json"), "train").read(0).target["labels"]) == 1
    assert open_coco(str(tmp_path / "mine.json"), "validation") is None


@pytest.mark.parametrize("what", ["nowhere", "empty", "file.txt"])
def test_what_is_no_coco_data(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("{}")
    with pytest.raises(UsageError, match=rf"^--data .*{what}: .*give a folder that holds annotations/instances_train"):
        open_coco(str(tmp_path / what), "train")
