"""From image tensors to one big picture, pixel by pixel and with no plotting library in between.

Shapes: `images (n, C, H, W)` floats in [0, 1] of any C; `pictures (n, H, W, 3)` uint8, what a screen shows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

Images: TypeAlias = "Tensor | NDArray[Any]"
Pictures: TypeAlias = NDArray[np.uint8]

HIDDEN = 0.5
"""The grey of a removed patch."""


def to_array(values: Images) -> NDArray[Any]:
    """A tensor of any device and precision, or an array, as a NumPy array on the host."""
    if hasattr(values, "detach"):
        tensor = values.detach()
        return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).cpu())
    return np.asarray(values)


def to_pictures(images: Images) -> Pictures:
    """What a screen can show of `images (n, C, H, W)`: `(n, H, W, 3)` uint8.

    Values are clamped to [0, 1] and NaN is black. One channel becomes grey; of more than three channels the first three
    are shown; of two, the third is black.

    Raises:
        ValueError: not four-dimensional, or not floats (uint8 images would all come out white).
    """
    array = to_array(images)
    if array.ndim != 4 or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"expected float images (n, C, H, W) in [0, 1], got {array.dtype} {array.shape}")
    shown = np.repeat(array, 3, axis=1) if array.shape[1] == 1 else array[:, :3]
    if shown.shape[1] == 2:
        shown = np.concatenate([shown, np.zeros_like(shown[:, :1])], axis=1)
    levels = np.nan_to_num(shown.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255
    return np.rint(levels).astype(np.uint8).transpose(0, 2, 3, 1)


def hide(images: Images, masks: Images) -> NDArray[np.float32]:
    """Images `(n, C, H, W)` with the removed pixels of `masks (n, 1, H, W)` (bool, True = removed) painted grey."""
    return np.where(_pixels(masks), np.float32(HIDDEN), to_array(images)).astype(np.float32)


def _pixels(masks: Images) -> NDArray[np.bool_]:
    array = to_array(masks)
    if array.dtype != np.bool_ or array.ndim != 4:
        raise ValueError(f"expected a bool mask of pixels (n, 1, H, W), got {array.dtype} {array.shape}")
    return array


@dataclass(frozen=True)
class Box:
    """A rectangle of a `Mosaic`, in pixels from its top left corner."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Mosaic:
    """Rows of pictures side by side, with room above and between for words.

    Attributes:
        canvas: `(height, width, 4)` uint8; transparent where there is no picture, to suit a page of any colour.
        headers: for each group of columns, one box a column, above the first row.
        captions: for each image, the box under its row.
        pictures: for each image, one box a column: where its picture is.
    """

    canvas: Pictures
    headers: list[list[Box]]
    captions: list[Box]
    pictures: list[list[Box]]


def mosaic(columns: Sequence[Pictures], *, header: int, caption: int) -> Mosaic:
    """Lay out `columns`, each `(n, h, w, 3)`: a row an image, and several groups of columns across when n is large.

    Small pictures are enlarged by a whole factor, so that a pixel stays a sharp square; large ones are reduced.
    `header` and `caption` are the heights left for words, in pixels.
    """
    columns = [_resized(column, target=224 if len(column) < 5 else 192) for column in columns]
    return lay_out(columns, header=header, caption=caption)


def lay_out(columns: Sequence[Pictures], *, header: int, caption: int, least_gap: int = 4) -> Mosaic:
    """The same for `columns` of the size that they are to have: of one height, each of any width.

    Each is `(n, h, w, 3)`, or `(n, h, w, 4)` with transparency; at least `least_gap` pixels lie between them.
    """
    n, high = columns[0].shape[:2]
    wides = [column.shape[2] for column in columns]
    # A sliver of an image still needs a column wide enough for its title.
    cells = [max(wide, 112) for wide in wides]
    gap = max(least_gap, round(min(high, *wides) * 0.03))
    between, row = gap * 5, high + caption + gap
    group_width = sum(cells) + gap * (len(cells) - 1)

    def extent(groups: int) -> tuple[int, int]:
        return groups * (group_width + between) - between, header + math.ceil(n / groups) * row - gap

    def awkwardness(groups: int) -> float:
        # A page is somewhat wider than high; beyond 1,700 pixels pictures get small on any screen; gaps look lost.
        width, height = extent(groups)
        empty = math.ceil(n / groups) * groups - n
        return abs(math.log(width / height / 1.6)) + 2 * max(0.0, width / 1700 - 1) + 2 * empty / n

    groups = min(range(1, n + 1), key=awkwardness)
    rows = math.ceil(n / groups)
    groups = math.ceil(n / rows)  # no empty group at the end
    width, height = extent(groups)
    canvas = np.zeros((height, width, 4), np.uint8)

    def left(group: int, column: int) -> int:
        return group * (group_width + between) + sum(cells[:column]) + column * gap

    captions, places = [], []
    for index in range(n):
        group, line = divmod(index, rows)
        top = header + line * row
        boxes = []
        for column, pictures in enumerate(columns):
            box = Box(left(group, column) + (cells[column] - wides[column]) // 2, top, wides[column], high)
            part = canvas[top : top + high, box.left : box.left + box.width]
            part[..., 3] = 255
            part[..., : pictures.shape[3]] = pictures[index]
            boxes.append(box)
        captions.append(Box(left(group, 0), top + high, group_width, caption))
        places.append(boxes)
    headers = [[Box(left(group, c), 0, cells[c], header) for c in range(len(columns))] for group in range(groups)]
    return Mosaic(canvas, headers, captions, places)


def _resized(pictures: Pictures, target: int) -> Pictures:
    """Pictures of about `target` squared pixels: enlarged by a whole factor or, when much larger, reduced."""
    high, wide = pictures.shape[1:3]
    # A very long picture has less area, or it would be wider than a page by itself.
    factor = min(target / math.sqrt(high * wide), 3 * target / max(high, wide))
    if factor >= 0.8:
        whole = max(1, round(factor))
        return pictures.repeat(whole, axis=1).repeat(whole, axis=2)
    size = max(1, round(wide * factor)), max(1, round(high * factor))
    return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.LANCZOS)) for p in pictures])
