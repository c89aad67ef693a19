"""Who looks on while a run trains: what is compared with what."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from perceptual_mae.data import open_source
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.observers import NearestNeighbours
from perceptual_mae.pretraining.config import PretrainConfig


@pytest.mark.parametrize(
    ("validated", "expected"),
    [
        (("ant", "bee", "cat"), {"knn/top1": 1.0}),
        (("bee", "cat"), {"knn/top1": 1.0}),  # classes 0 and 1 of the validation images, 1 and 2 of the others
        (("cat", "dog"), {"knn/top1": 1.0}),  # nothing can be said of a dog
        (("dog",), {}),
    ],
)
def test_neighbours_are_compared_by_the_names_of_their_classes(
    photographs: Tensor, tmp_path: Path, validated: tuple[str, ...], expected: dict[str, float]
) -> None:
    """Each validation image is one of the training images, and so its own nearest neighbour."""
    for number, name in enumerate(("ant", "bee", "cat", "dog")):
        picture = Image.fromarray(photographs[number].permute(1, 2, 0).numpy())
        for split in [*(["train"] if name != "dog" else []), *(["val"] if name in validated else [])]:
            (tmp_path / split / name).mkdir(parents=True)
            picture.save(tmp_path / split / name / "0.png")
    train, validation = (open_source(str(tmp_path), split) for split in ("train", "validation"))
    config = PretrainConfig(data=str(tmp_path), model="micro", image_size=32, patch_size=8)
    moment: Any = SimpleNamespace(
        model=MaskedAutoencoder.from_size("micro", image_size=32, patch_size=8).eval(),
        train=train,
        validation=validation,
        run=SimpleNamespace(config=config, skip=list),
    )
    assert NearestNeighbours(10, 10, epochs=1, k=1)(moment) == expected
