"""The data sets of torchvision, by name."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from perceptual_mae.data.digest import digest
from perceptual_mae.data.load import first_line
from perceptual_mae.data.types import Item
from perceptual_mae.errors import PmaeError
from perceptual_mae.paths import cache_folder, user_path


class VisionName(NamedTuple):
    """How torchvision spells a data set: class, arguments by split, and where it keeps images and labels."""

    cls: str
    train: Mapping[str, Any]
    validation: Mapping[str, Any]
    images: str
    labels: str


_FLAG: tuple[Mapping[str, Any], Mapping[str, Any]] = ({"train": True}, {"train": False})
_TEST: tuple[Mapping[str, Any], Mapping[str, Any]] = ({"split": "train"}, {"split": "test"})
_VAL: tuple[Mapping[str, Any], Mapping[str, Any]] = ({"split": "train"}, {"split": "val"})

NAMES: dict[str, VisionName] = {
    "cifar10": VisionName("CIFAR10", *_FLAG, "data", "targets"),
    "cifar100": VisionName("CIFAR100", *_FLAG, "data", "targets"),
    "mnist": VisionName("MNIST", *_FLAG, "data", "targets"),
    "fashionmnist": VisionName("FashionMNIST", *_FLAG, "data", "targets"),
    "kmnist": VisionName("KMNIST", *_FLAG, "data", "targets"),
    "svhn": VisionName("SVHN", *_TEST, "data", "labels"),
    "stl10": VisionName("STL10", *_TEST, "data", "labels"),
    "stl10-unlabeled": VisionName("STL10", {"split": "unlabeled"}, {"split": "test"}, "data", "labels"),
    "food101": VisionName("Food101", *_TEST, "_image_files", "_labels"),
    "flowers102": VisionName("Flowers102", *_VAL, "_image_files", "_labels"),
    "dtd": VisionName("DTD", *_VAL, "_image_files", "_labels"),
    "oxfordiiitpet": VisionName("OxfordIIITPet", {"split": "trainval"}, {"split": "test"}, "_images", "_labels"),
}


class VisionSource:
    """A torchvision data set: an array of small images held in memory, or a list of files."""

    def __init__(self, name: str, images: Any, labels: Any, classes: tuple[str, ...]) -> None:
        self.name = name
        if isinstance(images, list):
            self._images: torch.Tensor | list[Path] = [Path(path) for path in images]
        else:
            self._images = _as_channels_first(torch.as_tensor(images))
        self._labels = np.asarray(labels, np.int64)
        self.classes = classes

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Item:
        image = self._images[index]
        name = f"image {index}" if isinstance(image, torch.Tensor) else "/".join(image.parts[-2:])
        return Item(image, name, int(self._labels[index]))

    def fingerprint(self) -> str:
        """Digest of the name, the number of images and their labels."""
        return digest(b"vision", self.name.encode(), self._labels.tobytes())


def open_vision(spec: str, split: str) -> VisionSource:
    """Open a torchvision data set, downloaded at the first use to `$PMAE_DATA` (`~/.cache/perceptual-mae/data`).

    Raises:
        PmaeError: it could not be downloaded.
    """
    import torchvision.datasets

    known = NAMES[spec]
    named = os.environ.get("PMAE_DATA")
    root = user_path(named) if named else cache_folder("data")
    arguments = known.train if split == "train" else known.validation
    try:
        root.mkdir(parents=True, exist_ok=True)
        dataset = getattr(torchvision.datasets, known.cls)(root, download=True, **arguments)
    except Exception as error:  # the network, the disk, an archive that is not what it should be
        raise PmaeError(
            f"{spec} could not be downloaded to {root} ({first_line(error)}): "
            "try again, or put the files there yourself (PMAE_DATA names the folder)"
        ) from error
    labels = getattr(dataset, known.labels)
    classes = getattr(dataset, "classes", None) or [str(label) for label in range(int(max(labels)) + 1)]
    return VisionSource(spec, getattr(dataset, known.images), labels, tuple(str(name) for name in classes))


def _as_channels_first(images: torch.Tensor) -> torch.Tensor:
    """`(N, H, W)`, `(N, H, W, 3)` or `(N, 3, H, W)` to `(N, C, H, W)`, as a view."""
    if images.ndim == 3:
        return images[:, None]
    return images if images.shape[1] == 3 else images.permute(0, 3, 1, 2)
