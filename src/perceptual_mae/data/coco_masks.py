"""Outlines of objects as COCO writes them (polygons, run lengths, or nothing but the box), to masks of pixels."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from perceptual_mae.errors import PmaeError

INSTALL = "detection needs pycocotools and faster-coco-eval: pip install 'perceptual-mae[detection]'"
_FAR = 10
"""A corner that lies so many image sides away is a slip, and would take all memory to draw."""
_LONGEST = 2_000_000
"""Pixels along the outlines of an object: pycocotools takes 80 bytes for each, and says nothing where it gets none."""
_WIDEST = 60
"""Bits of a run length; COCO's text could hold a number of any size."""


def coco_masks() -> Any:
    """`pycocotools.mask`; raises PmaeError with the line that installs it."""
    try:
        import pycocotools.mask
    except ImportError:
        raise PmaeError(INSTALL) from None
    return pycocotools.mask


def outline(segmentation: Any, box: tuple[float, ...], height: int, width: int) -> tuple[Any, str]:
    """What an annotation of an image of `height` x `width` pixels draws, and why it cannot be drawn.

    Args:
        segmentation: polygons, run lengths (compressed or not), or None or `[]` for the box.
        box: x, y, width, height in pixels.

    Returns:
        polygons of three corners or more or run lengths, and ""; or None and a reason.
    """
    if segmentation is None or segmentation == []:
        x, y, w, h = box
        return [[x, y, x + w, y, x + w, y + h, x, y + h]], ""
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, height, width)
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        return None, "its segmentation is neither polygons nor run lengths"
    polygons: list[list[float]] = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not polygons:
        return None, "none of its polygons has three corners"
    if not all(len(polygon) % 2 == 0 and numbers(polygon) for polygon in polygons):
        return None, "its polygons are no pairs of numbers"
    if any(far(polygon, height, width) for polygon in polygons):
        return None, f"its polygons lie far outside of the image of {width} x {height} pixels"
    if sum(map(_length, polygons)) > _LONGEST:
        return None, f"its outline is more than {_LONGEST} pixels long"
    return polygons, ""


def far(values: Sequence[float], height: int, width: int) -> bool:
    """Whether one of some coordinates lies where no object of an image can be."""
    return max(map(abs, values)) > _FAR * max(height, width)


def _length(polygon: Sequence[float]) -> float:
    """Of an outline in pixels, as far as it takes memory to draw: from corner to corner the longer way."""
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    following = corners[1:] + corners[:1]
    return sum(1 + max(abs(x - a), abs(y - b)) for (x, y), (a, b) in zip(corners, following, strict=True))


def _run_lengths(segmentation: dict[str, Any], height: int, width: int) -> tuple[Any, str]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(map(whole, size)) and isinstance(counts, str | list)):
        return None, "its run lengths are not `size` and `counts`"
    if size != [height, width]:
        return None, f"its mask is of {size[1]} x {size[0]} pixels, the image of {width} x {height}"
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    if runs is None or not all(whole(run) and run >= 0 for run in runs):
        return None, "its run lengths are no whole numbers"
    if sum(runs) != height * width:  # pycocotools would show what happens to be in memory
        return None, f"its run lengths are of {sum(runs)} pixels, the image of {height * width}"
    return {"size": size, "counts": counts}, ""


def _decompressed(text: str) -> list[int] | None:
    """Run lengths out of COCO's text: five bits a character, least first; from the third on, less the last but one."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > _WIDEST:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last of a number
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs


def draw(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask of what `outline` let pass, `(height, width)` uint8, by the rules of pycocotools."""
    masks = coco_masks()
    if isinstance(segmentation, list):
        return masks.decode(masks.merge(masks.frPyObjects(segmentation, height, width)))
    if isinstance(segmentation["counts"], list):
        segmentation = masks.frPyObjects(segmentation, height, width)
    return masks.decode(segmentation)


def encode(mask: np.ndarray) -> dict[str, Any]:
    """A mask `(h, w)` of 0 and 1 to compressed run lengths, ready for JSON."""
    found = coco_masks().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode("ascii")}


def area_and_box(segmentation: Any, height: int, width: int) -> tuple[float, tuple[float, ...]]:
    """Pixels of what `outline` let pass, and its bounding box x, y, width, height."""
    masks = coco_masks()
    found = encode(draw(segmentation, height, width))
    return float(masks.area(found)), tuple(float(value) for value in masks.toBbox(found))


def numbers(values: Any, count: int | None = None) -> bool:
    """Whether this is a list of finite numbers, `count` of them."""
    return isinstance(values, list) and (count is None or len(values) == count) and all(map(finite, values))


def finite(value: Any) -> bool:
    """Whether this is a finite number; a whole one of hundreds of digits, which JSON can hold, is none."""
    return whole(value) or (isinstance(value, float) and math.isfinite(value))


def whole(value: Any) -> bool:
    """Whether this is a whole number of a size that arrays can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
