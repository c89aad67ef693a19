"""A folder of images with COCO annotations (arXiv 1405.0312): boxes, masks and labels of objects."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceptual_mae.data.coco_file import CocoImage, CocoObjects, read_coco_file
from perceptual_mae.data.coco_masks import coco_masks, draw
from perceptual_mae.data.decode import MAX_PIXELS, decode
from perceptual_mae.data.digest import digest
from perceptual_mae.data.folder import printable
from perceptual_mae.data.labelled import Sample
from perceptual_mae.data.types import BrokenImage, Skip
from perceptual_mae.errors import PmaeError, UsageError, refused_by_system
from perceptual_mae.paths import user_path

_FORMS = (
    "give a folder that holds annotations/instances_train*.json and images, a folder with annotations.json or "
    "_annotations.coco.json beside its images, or such a .json file"
)
_SINGLE = ("annotations.json", "_annotations.coco.json")
_SPLITS = {"train": ("train",), "validation": ("val", "valid", "test")}
"""Words for a split in the names of files and folders."""


class CocoSource:
    """Images with objects in them.

    Attributes:
        name: what the user typed.
        classes: names of the K categories in the order of the file; an object of the label k, from 1 to K, is of the
            class `classes[k - 1]`.
        category_ids: ids of the categories in the file, in the same order; there may be gaps between them.
        image_ids: ids of the images in the file.
        problems: images and annotations that were left out, and why.
        channels: of the images that `read` gives.
        max_pixels: of the largest image that is decoded.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        images: Sequence[CocoImage],
        categories: Sequence[tuple[int, str]],
        objects: CocoObjects,
        problems: list[Skip],
        channels: int = 3,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.name, self.folder = name, folder
        self.channels, self.max_pixels = channels, max_pixels
        self.classes = tuple(printable(text) for _, text in categories)
        self.category_ids = tuple(number for number, _ in categories)
        self.image_ids = tuple(image.id for image in images)
        self.problems = problems
        self._images, self._objects = list(images), objects

    def __len__(self) -> int:
        return len(self._images)

    def title(self, index: int) -> str:
        """The path of an image, relative to the folder of images."""
        return printable(self._images[index].file_name)

    def read(self, index: int) -> Sample:
        """One image `(channels, H, W)` uint8 and its objects, crowds left out: boxes are clipped to the image.

        Raises:
            BrokenImage: the image cannot be decoded or is not of the size that was annotated.
        """
        image = self._decode(index)
        found = self._target(index, [place for place in self._objects.of(index) if not self._objects.crowds[place]])
        height, width = image.shape[1:]
        boxes = found["boxes"].clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        return Sample(image, {"boxes": boxes, "labels": found["labels"], "masks": found["masks"]}, self.title(index))

    def truth(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """One image and all that evaluation has to know of it, boxes and areas being as they were annotated.

        Returns:
            `(channels, H, W)` uint8, and beside what `read` says `iscrowd` `(n,)` int64 and `area` `(n,)` float32.

        Raises:
            BrokenImage: as `read`.
        """
        places = list(self._objects.of(index))
        more = {
            "iscrowd": torch.from_numpy(self._objects.crowds[places].astype(np.int64)),
            "area": torch.from_numpy(self._objects.areas[places].astype(np.float32)),
        }
        return self._decode(index), self._target(index, places) | more

    def to_coco(self) -> dict[str, Any]:
        """All of it as the content of a COCO annotation file, with crowds and without what was left out."""
        annotations: list[dict[str, Any]] = []
        for index, image in enumerate(self._images):
            annotations += [
                {
                    "id": place + 1,  # from 1 on: pycocotools takes 0 for "none"
                    "image_id": image.id,
                    "category_id": self.category_ids[int(self._objects.labels[place]) - 1],
                    "bbox": self._objects.boxes[place].tolist(),
                    "area": float(self._objects.areas[place]),
                    "iscrowd": int(self._objects.crowds[place]),
                    "segmentation": self._objects.outline(place),
                }
                for place in self._objects.of(index)
            ]
        images = [{"id": i.id, "file_name": i.file_name, "height": i.height, "width": i.width} for i in self._images]
        categories = zip(self.category_ids, self.classes, strict=True)
        return {
            "info": {},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in categories],
        }

    def subset(self, indices: Sequence[int] | np.ndarray) -> "CocoSource":
        """Some of the images, in the order of `indices`."""
        chosen = np.asarray(indices, np.int64)
        images = [self._images[index] for index in chosen]
        categories = list(zip(self.category_ids, self.classes, strict=True))
        objects = self._objects.take(chosen)
        limits = (self.channels, self.max_pixels)
        return CocoSource(self.name, self.folder, images, categories, objects, self.problems, *limits)

    def fingerprint(self) -> str:
        """Digest of the paths of the images and of all that is said of them."""
        objects = self._objects
        columns = (objects.starts, objects.labels, objects.boxes, objects.areas, objects.crowds)
        names = "\0".join([*self.classes, *(image.file_name for image in self._images)])
        outlines = digest(*(outline.as_py() for outline in objects.outlines))
        return digest(b"coco", names.encode(errors="replace"), *(c.tobytes() for c in columns), outlines.encode())

    def _decode(self, index: int) -> Tensor:
        known = self._images[index]
        image = decode(self.folder / known.file_name, self.channels, self.max_pixels)
        if tuple(image.shape[1:]) != (known.height, known.width):
            found, annotated = f"{image.shape[2]} x {image.shape[1]}", f"{known.width} x {known.height}"
            raise BrokenImage(f"it is of {found} pixels, but was annotated as {annotated}")
        return image

    def _target(self, index: int, places: list[int]) -> dict[str, Tensor]:
        """Boxes as corners, labels and masks of some objects of an image."""
        objects, height, width = self._objects, self._images[index].height, self._images[index].width
        boxes = torch.from_numpy(objects.boxes[places])
        masks = [torch.from_numpy(draw(objects.outline(place), height, width)) for place in places]
        return {
            "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1).float(),
            "labels": torch.from_numpy(objects.labels[places]),
            "masks": torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.uint8),
        }


def open_coco(spec: str, split: str, *, channels: int = 3, max_pixels: int = MAX_PIXELS) -> CocoSource | None:
    """Open images with COCO annotations, one split of them (`train` or `validation`).

    | `spec` | its splits |
    | --- | --- |
    | a folder with `annotations/instances_train2017.json`, `..._val2017.json` | images in `train2017`, `images/train2017`, `images`, or the folder itself |
    | a folder with `annotations.json` or `_annotations.coco.json` | all is for training |
    | a folder with such folders called `train`, `valid`, ... | these |
    | a `.json` file | all is for training; images beside it, or in `images` |

    Images that are missing, or whose path leads out of the folder, are left out and listed in `problems`.

    Returns:
        the images; None: there are none for validation.

    Raises:
        UsageError: it is none of these.
        PmaeError: the annotations cannot be used, no image is there, or pycocotools is not installed.
    """  # noqa: E501 (a table)
    if split not in _SPLITS:
        raise UsageError(f"there is no split {split!r}: give train or validation")
    coco_masks()
    with refused_by_system(f"--data {spec}"):
        return _open(spec, user_path(spec), split, channels, max_pixels)


def _open(spec: str, path: Path, split: str, channels: int, max_pixels: int) -> CocoSource | None:
    if not path.exists():
        raise UsageError(f"--data {spec}: there is no such file or folder: {_FORMS}")
    file, folders = _annotations(spec, path, split)
    if file is None:
        return None
    content = read_coco_file(file, max_pixels)
    listed = lru_cache(maxsize=None)(_names)
    folder = next((one for one in folders if any(_is_there(one, i.file_name, listed) for i in content.images)), None)
    problems = list(content.problems)
    kept = []
    for place, image in enumerate(content.images):
        if _leads_out(image.file_name):
            problems.append(Skip(printable(image.file_name), "its path leads out of the folder of images"))
        elif folder is None or not _is_there(folder, image.file_name, listed):
            problems.append(Skip(printable(image.file_name), "there is no such file"))
        else:
            kept.append(place)
    if folder is None or not kept:
        looked = ", ".join(str(one) for one in folders if one.is_dir())
        raise PmaeError(f"{file} names {len(content.images)} images, and none of them is in {looked}")
    if not content.categories:
        raise PmaeError(f"{file} has no categories: there is nothing to learn")
    parts = (content.images, content.categories, content.objects)
    source = CocoSource(spec, folder, *parts, problems, channels, max_pixels)
    return source if len(kept) == len(source) else source.subset(kept)


def _annotations(spec: str, path: Path, split: str) -> tuple[Path | None, list[Path]]:
    """The annotation file of a split (None: there is none for validation) and where its images may lie."""
    if path.is_file():
        if path.suffix.lower() != ".json":
            raise UsageError(f"--data {spec}: no COCO annotations: {_FORMS}")
        return (path if split == "train" else None), [path.parent, path.parent / "images"]
    instances = {word: sorted((path / "annotations").glob(f"instances_{word}*.json")) for word in ("train", "val")}
    if instances["train"]:
        found = instances["train" if split == "train" else "val"]
        if not found:
            return None, []
        year = found[-1].stem.removeprefix("instances_")
        return found[-1], [path / year, path / "images" / year, path / "images", path]
    for name in _SINGLE:
        if (path / name).is_file():
            return (path / name if split == "train" else None), [path, path / "images"]
    folders = {word: path / word for words in _SPLITS.values() for word in words}
    singles = {word: folder / name for word, folder in folders.items() for name in _SINGLE if (folder / name).is_file()}
    if "train" in singles:
        word = next((word for word in _SPLITS[split] if word in singles), None)
        return (None, []) if word is None else (singles[word], [folders[word], folders[word] / "images"])
    raise UsageError(f"--data {spec}: no COCO annotations: {_FORMS}")


def _leads_out(file_name: str) -> bool:
    path = PurePosixPath(file_name)
    return path.is_absolute() or ".." in path.parts


def _is_there(folder: Path, file_name: str, listed: Any) -> bool:
    """Whether an image is in a folder; each folder is listed once: a call for every file takes minutes on a network."""
    path = folder / file_name
    return not _leads_out(file_name) and path.name in listed(path.parent)


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (OSError, ValueError):  # a zero byte in a path is a ValueError
        return frozenset()
