"""A COCO annotation file, read once and checked: what can be used, and what is wrong with the rest."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from perceptual_mae.data.coco_masks import area_and_box, far, finite, numbers, outline, whole
from perceptual_mae.data.decode import MAX_PIXELS
from perceptual_mae.data.folder import printable
from perceptual_mae.data.types import Skip
from perceptual_mae.errors import PmaeError, system_words


@dataclass(frozen=True)
class CocoImage:
    """An image as the file has it: its id, its path, its sides in pixels."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class CocoObjects:
    """Annotations of many images, one behind the other, as columns.

    Columns and no objects of Python: a million annotations take a tenth of the memory, and workers that are forked keep
    sharing it.

    Attributes:
        starts: `(images + 1,)` int64: the objects of image i are `starts[i] .. starts[i + 1] - 1`.
        labels: int64, the place of the category in the file, from 1 on.
        boxes: `(objects, 4)` float64, x, y, width, height in pixels as they were annotated.
        areas: float64, pixels as they were annotated.
        crowds: bool: what cannot be told apart, such as people in a crowd.
        outlines: JSON of polygons or run lengths.
    """

    starts: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    outlines: pa.Array

    def of(self, image: int) -> range:
        """The objects of an image."""
        return range(int(self.starts[image]), int(self.starts[image + 1]))

    def outline(self, index: int) -> Any:
        """Polygons or run lengths of an object."""
        return json.loads(self.outlines[index].as_py())

    def take(self, images: np.ndarray) -> "CocoObjects":
        """The objects of some images, in their order."""
        chosen = np.concatenate([np.empty(0, np.int64), *(np.array(self.of(int(image)), np.int64) for image in images)])
        starts = np.concatenate([[0], np.cumsum(np.diff(self.starts)[images])]).astype(np.int64)
        columns = (self.labels[chosen], self.boxes[chosen], self.areas[chosen], self.crowds[chosen])
        return CocoObjects(starts, *columns, self.outlines.take(pa.array(chosen)))


@dataclass(frozen=True)
class CocoFile:
    """What there is in an annotation file.

    Attributes:
        images: in the order of the file.
        categories: id and name, likewise.
        objects: of the images.
        problems: annotations that were left out, and why.
    """

    images: list[CocoImage]
    categories: list[tuple[int, str]]
    objects: CocoObjects
    problems: list[Skip]


def read_coco_file(path: Path, max_pixels: int = MAX_PIXELS) -> CocoFile:
    """Read a file of annotations.

    Boxes of which less than a pixel lies within the image are left out and listed, and so is what names an image or a
    category that does not exist, and masks that cannot be drawn. A box that is not given is its mask's.

    Args:
        path: the file.
        max_pixels: of the largest image; of one that is said to be larger nothing is drawn.

    Raises:
        PmaeError: the file cannot be read, or is no COCO annotation file; the line names it.
    """
    content = _load(path)
    images = [_image(path, number, entry) for number, entry in enumerate(_list(path, content, "images"))]
    categories = [_category(path, number, entry) for number, entry in enumerate(_list(path, content, "categories"))]
    _all_different(path, "image", [image.id for image in images])
    _all_different(path, "category", [number for number, _ in categories])
    entries = _list(path, content, "annotations")
    content.clear()
    problems: list[Skip] = []
    rows = list(_rows(path, entries, images, [number for number, _ in categories], problems, max_pixels))
    rows.sort(key=lambda row: row[0])  # stable: an image keeps the order of its annotations
    owners = np.array([row[0] for row in rows], np.int64)
    objects = CocoObjects(
        np.searchsorted(owners, np.arange(len(images) + 1)),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float64).reshape(-1, 4),
        np.array([row[3] for row in rows], np.float64),
        np.array([row[4] for row in rows], bool),
        pa.array([row[5] for row in rows], pa.large_binary()),
    )
    return CocoFile(images, categories, objects, problems)


_Row = tuple[int, int, tuple[float, ...], float, bool, bytes]
"""Image, label, box, area, crowd, outline."""


def _rows(
    path: Path,
    entries: list[Any],
    images: list[CocoImage],
    categories: list[int],
    problems: list[Skip],
    max_pixels: int,
) -> Iterator[_Row]:
    """The annotations that can be used; the others go to `problems`."""
    places = {image.id: place for place, image in enumerate(images)}
    labels = {number: place + 1 for place, number in enumerate(categories)}
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise _broken(path, f"annotations[{place}] is no object")
        known = entry.get("id")
        name = f"annotation {known}" if whole(known) else f"annotation at place {place}"
        image, category = entry.get("image_id"), entry.get("category_id")
        if not whole(image) or not whole(category):
            raise _broken(path, f"annotations[{place}] has no whole numbers image_id and category_id")
        if image not in places:
            problems.append(Skip(name, f"there is no image with the id {image}"))
        elif category not in labels:
            problems.append(Skip(name, f"there is no category with the id {category}"))
        else:
            found = _object(entry, images[places[image]], max_pixels)
            if isinstance(found, str):
                problems.append(Skip(f"{name} of {printable(images[places[image]].file_name)}", found))
            else:
                yield (places[image], labels[category], *found)


def _object(
    entry: dict[str, Any], image: CocoImage, max_pixels: int
) -> tuple[tuple[float, ...], float, bool, bytes] | str:
    """Box, area, crowd and outline of an annotation, or why it is left out."""
    height, width = image.height, image.width
    given, segmentation, area = entry.get("bbox"), entry.get("segmentation"), entry.get("area")
    if height * width > max_pixels:
        return f"its image is said to have more than {max_pixels} pixels (--loader.max-pixels)"
    if given is not None and not numbers(given, 4):
        return "its box is not four numbers"
    if given is not None and far([*given, given[0] + given[2], given[1] + given[3]], height, width):
        return f"its box lies far outside of the image of {width} x {height} pixels"
    if given is None and not segmentation:
        return "it has neither box nor mask"
    drawn, reason = outline(segmentation, tuple(given or ()), height, width)
    if reason:
        return reason
    known = area if finite(area) else None
    if given is None or known is None:
        pixels, around = area_and_box(drawn, height, width)
        given = around if given is None else given
        known = (pixels if segmentation else given[2] * given[3]) if known is None else known
    x, y, w, h = (float(value) for value in given)
    inside_w, inside_h = min(x + w, width) - max(x, 0.0), min(y + h, height) - max(y, 0.0)
    if inside_w < 1 or inside_h < 1:
        shown = ", ".join(f"{value:g}" for value in (x, y, w, h))
        return f"less than a pixel of its box [{shown}] lies within the image of {width} x {height} pixels"
    return (x, y, w, h), float(known), bool(entry.get("iscrowd", 0)), json.dumps(drawn).encode()


# -- what a file has to be ---------------------------------------------------------------------------------------------


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise PmaeError(f"{path} cannot be read: {system_words(error)}") from None
    except (ValueError, RecursionError) as error:
        raise PmaeError(f"{path} is no JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise _broken(path, "it is no object with images, annotations and categories")
    return content


def _list(path: Path, content: dict[str, Any], key: str) -> list[Any]:
    found = content.get(key)
    if not isinstance(found, list):
        raise _broken(path, f"it has no list `{key}`")
    return found


def _image(path: Path, number: int, entry: Any) -> CocoImage:
    if not isinstance(entry, dict):
        raise _broken(path, f"images[{number}] is no object")
    name = entry.get("file_name")
    if not isinstance(name, str):
        raise _broken(path, f"images[{number}] has no text file_name")
    for key in ("id", "height", "width"):
        if not whole(entry.get(key)) or (key != "id" and entry[key] < 1):
            raise _broken(path, f"images[{number}] has no whole number {key}")
    return CocoImage(entry["id"], name, entry["height"], entry["width"])


def _category(path: Path, number: int, entry: Any) -> tuple[int, str]:
    if not isinstance(entry, dict) or not whole(entry.get("id")) or not isinstance(entry.get("name"), str):
        raise _broken(path, f"categories[{number}] has no whole number id and text name")
    return entry["id"], entry["name"]


def _all_different(path: Path, what: str, ids: list[int]) -> None:
    seen: set[int] = set()
    for number in ids:
        if number in seen:
            raise _broken(path, f"the {what} id {number} is there twice")
        seen.add(number)


def _broken(path: Path, reason: str) -> PmaeError:
    return PmaeError(f"{path} is no file of COCO annotations: {reason}")
