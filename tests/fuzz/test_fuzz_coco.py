"""COCO annotation files that lie."""

import json
from pathlib import Path
from typing import Any

import pytest
from hostile import damaged, fuzz, mutated, outcome
from hypothesis import given
from hypothesis import strategies as st
from odd_files import encode, photograph

from perceptual_mae.data.coco import open_coco
from perceptual_mae.data.types import BrokenImage

pytest.importorskip("pycocotools")

HEIGHT, WIDTH = 12, 16


def annotation(number: int, **more: Any) -> dict[str, Any]:
    base = {"id": number, "image_id": 1, "category_id": 7, "bbox": [2.0, 3.0, 8.0, 6.0], "area": 40.0, "iscrowd": 0}
    return base | more


CONTENT: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        {"id": 2, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
    ],
    "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    "annotations": [
        annotation(1),
        annotation(2, segmentation=[[2, 3, 10, 3, 10, 9, 2, 9]], category_id=3),
        annotation(3, segmentation={"size": [HEIGHT, WIDTH], "counts": [50, 20, 122]}, iscrowd=1),
        annotation(4, segmentation={"size": [HEIGHT, WIDTH], "counts": "b1d0j3"}, image_id=2),
        annotation(5, segmentation=[[2.5, 3, 10, 3, 10, 9]], bbox=None, area=None),
    ],
}


def used(text: bytes, folder: Path) -> None:
    """Everything that training and evaluation do with a file of annotations."""
    (folder / "annotations.json").write_bytes(text)
    source = open_coco(str(folder), "train")
    assert source is not None
    assert all(name.isprintable() for name in source.classes)
    assert all(problem.name.isprintable() and problem.reason.isprintable() for problem in source.problems)
    source.fingerprint()
    json.dumps(source.to_coco(), allow_nan=False)
    for index in range(len(source)):
        sample = source.read(index)
        assert isinstance(sample.target, dict)
        boxes, masks = sample.target["boxes"], sample.target["masks"]
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
        assert masks.shape[1:] == (HEIGHT, WIDTH)
        source.truth(index)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coco")
    for name in ("a.png", "b.png"):
        (path / name).write_bytes(encode(photograph((WIDTH, HEIGHT)), "PNG"))
    return path


@fuzz(250)
@given(content=mutated(CONTENT))
def test_annotations_that_lie(content: Any, folder: Path) -> None:
    outcome(lambda: used(json.dumps(content).encode(), folder), BrokenImage)


@fuzz(60)
@given(text=damaged(json.dumps(CONTENT).encode()) | st.binary(max_size=40))
def test_damaged_json(text: bytes, folder: Path) -> None:
    outcome(lambda: used(text, folder), BrokenImage)


FAR, HUGE = 1.7e308, 10**9
LIES: tuple[dict[str, Any], ...] = (
    {"bbox": [0, 0, FAR, FAR]},
    {"bbox": [0, 0, 10**400, 1]},
    {"bbox": [-FAR, -FAR, FAR, FAR]},
    {"area": 10**400},
    {"area": float("nan"), "segmentation": [[0, 0, FAR, 0, 0, FAR]]},
    {"segmentation": [[0, 0, 160, 0] * 200_000 + [0, 120]]},
    {"segmentation": {"size": [12.0, 16.0], "counts": [192]}},
    {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "p" * 300_000}},
    {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [True] * 192}},
    {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [0] * 100_000 + [192], "more": [[[[0]]]]}},
    {"segmentation": {"size": [HEIGHT, WIDTH], "counts": []}},
    {"segmentation": {"size": [HEIGHT, WIDTH], "counts": ""}},
    {"id": "a\nb\x1b[31m", "image_id": 99},
    {"id": [[[1]]] * 1000, "image_id": 99},
)


@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
def test_an_annotation_that_would_hurt(lie: dict[str, Any], folder: Path) -> None:
    content = CONTENT | {"annotations": [annotation(1), annotation(9, **lie)]}
    outcome(lambda: used(json.dumps(content).encode(), folder), BrokenImage)


@pytest.mark.parametrize(("height", "width"), [(HUGE, HUGE), (1, HUGE), (2**40, 1), (10**300, 10**300), (9000, 9000)])
@pytest.mark.parametrize("form", [{"segmentation": [[0, 0, 10, 0, 10, 10]]}, {}, {"bbox": None}])
def test_an_image_that_claims_to_be_enormous(height: int, width: int, form: dict[str, Any], folder: Path) -> None:
    image = {"id": 1, "file_name": "a.png", "height": height, "width": width}
    whole = {"segmentation": [[0, 0, width, 0, width, height, 0, height]], "bbox": None}
    content = CONTENT | {"images": [image], "annotations": [annotation(1, area=None, **(form or whole))]}
    outcome(lambda: used(json.dumps(content).encode(), folder), BrokenImage)


MADE_TO_HURT = ("[" * 100_000, '{"a":' * 100_000, "9" * 5000, "NaN", '{"images": ' + "[" * 900 + "]" * 900 + "}")


@pytest.mark.parametrize("text", MADE_TO_HURT, ids=range(len(MADE_TO_HURT)))
def test_json_that_is_made_to_hurt(text: str, folder: Path) -> None:
    outcome(lambda: used(text.encode(), folder), BrokenImage)
