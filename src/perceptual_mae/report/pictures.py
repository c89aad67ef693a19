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


def paste(reconstructions: Images, originals: Images, masks: Images) -> NDArray[np.float32]:
    """Reconstructions with the visible patches of the originals pasted back. Masks as in `hide`."""
    return np.where(_pixels(masks), to_array(reconstructions), to_array(originals)).astype(np.float32)


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
    """

    canvas: Pictures
    headers: list[list[Box]]
    captions: list[Box]


def mosaic(columns: Sequence[Pictures], *, header: int, caption: int) -> Mosaic:
    """Lay out `columns`, each `(n, h, w, 3)`: a row an image, and several groups of columns across when n is large.

    Small pictures are enlarged by a whole factor, so that a pixel stays a sharp square; large ones are reduced.
    `header` and `caption` are the heights left for words, in pixels.
    """
    columns = [_resized(column, target=224 if len(column) < 5 else 192) for column in columns]
    n, high, wide = columns[0].shape[:3]
    # A sliver of an image still needs a column wide enough for its title.
    cell, gap = max(wide, 112), max(4, round(min(high, wide) * 0.03))
    between, row = gap * 5, high + caption + gap

    def extent(groups: int) -> tuple[int, int]:
        group = len(columns) * (cell + gap) - gap
        return groups * (group + between) - between, header + math.ceil(n / groups) * row - gap

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
        return group * (len(columns) * (cell + gap) - gap + between) + column * (cell + gap)

    group_width = left(0, len(columns) - 1) + cell
    captions = []
    for index in range(n):
        group, line = divmod(index, rows)
        top = header + line * row
        for column, pictures in enumerate(columns):
            x = left(group, column) + (cell - wide) // 2
            canvas[top : top + high, x : x + wide, :3] = pictures[index]
            canvas[top : top + high, x : x + wide, 3] = 255
        captions.append(Box(left(group, 0), top + high, group_width, caption))
    headers = [[Box(left(group, c), 0, cell, header) for c in range(len(columns))] for group in range(groups)]
    return Mosaic(canvas, headers, captions)


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
