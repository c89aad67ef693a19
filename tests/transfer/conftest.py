"""Pictures of two kinds to classify, and a fine-tuning run that takes a second."""

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
