"""Pictures of two kinds to classify, and a fine-tuning run that takes a second."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from perceptual_mae.training.config import CheckpointConfig
from perceptual_mae.transfer.config import ClassificationConfig, FinetuneLogConfig

MakeClassification = Callable[..., ClassificationConfig]


@pytest.fixture(scope="session")
def two_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training and validation folders with crops of two photographs, 24 and 8 of each, 24 to 40 pixels a side."""
    root = tmp_path_factory.mktemp("two-kinds")
    random = np.random.default_rng(0)
    for name, photograph in {"astronaut": data.astronaut(), "grass": np.stack([data.grass()] * 3, axis=-1)}.items():
        for split, count in (("train", 24), ("val", 8)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                side = int(random.integers(24, 41))
                top, left = random.integers(0, 512 - side, 2)
                Image.fromarray(photograph[top : top + side, left : left + side]).save(folder / f"{number}.png")
    return root


@pytest.fixture
def make_classification(tmp_path: Path, two_kinds: Path) -> MakeClassification:
    """`make_classification("name", ...)`: the settings of a run that takes a second; those of `log` by their names."""

    def make(name: str = "run", **settings: Any) -> ClassificationConfig:
        log = {"every": 1, "evaluate_every": 1.0, "pictures": 0, "tensorboard": False}
        log |= {key: settings.pop(key) for key in list(settings) if key in log}
        defaults: dict[str, Any] = {
            "encoder": "random:micro/8",
            "data": str(two_kinds),
            "out": str(tmp_path / name),
            "image_size": 32,
            "batch_size": 16,
            "epochs": 3,
            "lr": 1e-3,
            "save_every": 1000,
            "device": "cpu",
            "workers": 0,
            "log": FinetuneLogConfig(**log),
            "checkpoint": CheckpointConfig(minutes=1e9),
        }
        return ClassificationConfig(**(defaults | settings))

    return make


@pytest.fixture(scope="session")
def few_objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder: four pieces of photographs with bright rectangles to find, one of them without any."""
    root = tmp_path_factory.mktemp("objects")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / split).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(4):
            picture = data.chelsea()[60 * number : 60 * number + 48, 100:164].copy()
            for _ in range(2 if number else 0):
                top, left = (int(value) for value in random.integers(2, 20, 2))
                picture[top : top + 20, left : left + 24] = 255
                box = {"bbox": [left, top, 24, 20], "area": 480, "iscrowd": 0, "category_id": 7}
                corners = [left, top, left + 24, top, left + 24, top + 20, left, top + 20]
                annotations.append({"id": len(annotations) + 1, "image_id": number, "segmentation": [corners], **box})
            Image.fromarray(picture).save(root / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": 48, "width": 64})
        (root / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "bright"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def few_masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in ADE20K's layout: pieces of a photograph, bright places are one class and dark ones another."""
    root = tmp_path_factory.mktemp("masks")
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for number in range(4):
            picture = data.coffee()[80 * number : 80 * number + 40, 200:248]
            Image.fromarray(picture).save(root / "images" / split / f"{number}.png")
            mask = (1 + (picture.mean(axis=2) > 100)).astype(np.uint8)
            Image.fromarray(mask).save(root / "annotations" / split / f"{number}.png")
    (root / "classes.txt").write_text("dark\nbright\n")
    return root
