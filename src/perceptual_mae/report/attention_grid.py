"""Where models look: figure 3 of the paper, for one's own images."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image

from perceptual_mae.report.figures import DPI, WORDS, draw
from perceptual_mae.report.pictures import Box, Images, Mosaic, Pictures, lay_out, to_array, to_pictures

COLOURS = "inferno"
"""Black where nothing is looked at, yellow where the most is."""
PHOTO = 0.3
"""Brightness of the photograph where nothing is looked at, or nothing is kept."""
SHADE = np.array((46, 20, 78), np.float32)
"""What lies over the patches that are not kept: a violet of the same colours, which no dark photograph looks like."""
GAP = 4
"""Pixels between the heads of a model."""


@dataclass(frozen=True)
class ModelMaps:
    """What one model does with n images.

    Attributes:
        name: the title of its columns.
        images: `(n, C, h, w)` floats in [0, 1], as the model saw them.
        maps: `(n, M, rows, columns)` attention; each of the M maps is drawn.
        kept: bool of the same shape, to show these patches of the image in place of the map; None: the map.
        labels: M words, for instance the numbers of heads, drawn into the maps; none where M is 1.
    """

    name: str
    images: Images
    maps: Images
    kept: "Images | None" = None
    labels: Sequence[str] = ()


def attention_grid(
    originals: Images,
    models: Sequence[ModelMaps],
    *,
    captions: Sequence[str] | None = None,
    footer: str = "",
) -> Figure:
    """Figure 3 of the paper: a row an image; the original, then the maps of each model over the image it saw.

    Each map has its own scale, from no attention to its own maximum. Several maps of a model stand beside and below
    each other, in one block under its name.

    Args:
        originals: `(n, C, H, W)` floats in [0, 1].
        models: one or more.
        captions: one line under each image, for instance its file name; cut to fit.
        footer: what is said of the whole figure, below it.

    Raises:
        ValueError: there is nothing to draw, or the shapes do not belong together.
    """
    count = len(to_array(originals))
    _check(count, models, captions)
    rows = _rows(max(to_array(model.maps).shape[1] for model in models))
    height = _tile_height(rows, to_array(originals).shape[-2:])
    blocks = [_block(model, rows, height) for model in models]
    first = _as_high(to_pictures(originals), rows * (height + GAP) - GAP)
    several = any(to_array(model.maps).shape[1] > 1 for model in models)
    least_gap = 4 * GAP if several else GAP  # a block of maps is seen to be one
    layout = lay_out([first, *blocks], header=40, caption=0 if captions is None else 26, least_gap=least_gap)
    room = _with_room_below(layout, lines := _lines(footer, layout.canvas.shape[1]))
    figure = draw(room, ["Original", *(model.name for model in models)], captions or ())
    for boxes in layout.pictures:
        for box, model in zip(boxes[1:], models, strict=True):
            _write_labels(figure, box, model, rows, height)
    for number, line in enumerate(lines):
        y = layout.canvas.shape[0] + 26 + 20 * number
        figure.axes[0].text(layout.canvas.shape[1] / 2, y, line, ha="center", color=WORDS, fontsize=14 * 72 / DPI)
    return figure


def heat(image: Pictures, attention: NDArray[Any]) -> Pictures:
    """One map over the image it belongs to: `image (h, w, 3)` darkened to grey, `attention (rows, columns)` in colour.

    The map is enlarged smoothly: its patches are coarse, and edges between them would say more than is known.
    """
    top = float(attention.max())
    scaled = attention.astype(np.float32) / top if top > 0 else np.zeros_like(attention, np.float32)
    high, wide = image.shape[:2]
    strength = np.asarray(Image.fromarray(scaled).resize((wide, high), Image.Resampling.BICUBIC)).clip(0, 1)
    colour = matplotlib.colormaps[COLOURS](strength)[..., :3]
    grey = image.astype(np.float32).mean(axis=2, keepdims=True) / 255
    # The photograph shows through where little is looked at. Bright colours stay clean: a white wall is no attention.
    shown = colour + PHOTO * grey * (1 - strength[..., None])
    return np.rint(shown.clip(0, 1) * 255).astype(np.uint8)


def spotlight(image: Pictures, kept: NDArray[np.bool_]) -> Pictures:
    """`image (h, w, 3)` as it is in the patches `kept (rows, columns)`, in a violet shade elsewhere."""
    high, wide = image.shape[:2]
    light = np.asarray(Image.fromarray(kept).resize((wide, high), Image.Resampling.NEAREST))
    shaded = SHADE + PHOTO * image.mean(axis=2, keepdims=True)
    return np.where(light[..., None], image, np.rint(shaded).astype(np.uint8)).astype(np.uint8)


def _check(count: int, models: Sequence[ModelMaps], captions: Sequence[str] | None) -> None:
    if not count or not models:
        raise ValueError("expected at least one image and one model")
    if captions is not None and len(captions) != count:
        raise ValueError("expected one caption an image")
    for model in models:
        images, maps = to_array(model.images).shape, to_array(model.maps).shape
        if len(images) != 4 or len(maps) != 4 or images[0] != count or maps[0] != count or not maps[1]:
            raise ValueError(f"{model.name}: expected {count} images and maps (n, M, rows, columns), not {maps}")
        if model.kept is not None and to_array(model.kept).shape != maps:
            raise ValueError(f"{model.name}: expected what is kept in the shape of the maps")
        if model.labels and len(model.labels) != maps[1]:
            raise ValueError(f"{model.name}: expected one label a map")


def _rows(maps: int) -> int:
    """Rows of the block that so many maps make."""
    return max(1, math.isqrt(maps))


def _tile_height(rows: int, shape: tuple[int, ...]) -> int:
    """Pixels of a map's height: of few maps more, and of images that are wide or high as large an area as of others."""
    high, wide = shape
    # A very long picture has less area, or it would be wider than a page by itself.
    ratio = min(max(high / wide, 1 / 9), 9)
    return max(24, round(208 / math.sqrt(rows) * math.sqrt(ratio)))


def _block(model: ModelMaps, rows: int, height: int) -> Pictures:
    """All maps of a model, `(n, h, w, 4)`, with transparent gaps."""
    images, maps = _as_high(to_pictures(model.images), height), to_array(model.maps)
    width = images.shape[2]
    columns = math.ceil(maps.shape[1] / rows)
    block = np.zeros((len(maps), rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 4), np.uint8)
    for n, m in np.ndindex(*maps.shape[:2]):
        top, left = (m // columns) * (height + GAP), (m % columns) * (width + GAP)
        part = block[n, top : top + height, left : left + width]
        part[..., 3] = 255
        kept = None if model.kept is None else to_array(model.kept)[n, m]
        part[..., :3] = heat(images[n], maps[n, m]) if kept is None else spotlight(images[n], kept)
    return block


def _as_high(pictures: Pictures, height: int) -> Pictures:
    """Pictures of another height and the same proportions. Smooth when enlarged, to lie under smooth maps."""
    size = max(1, round(pictures.shape[2] * height / pictures.shape[1])), height
    return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.LANCZOS)) for p in pictures])


def _write_labels(figure: Figure, block: Box, model: ModelMaps, rows: int, height: int) -> None:
    """The labels of a model's maps, each in the top left corner of its own."""
    columns = math.ceil(len(model.labels) / rows)
    width = (block.width + GAP) // max(columns, 1) - GAP
    for m, label in enumerate(model.labels):
        x, y = block.left + (m % columns) * (width + GAP) + 5, block.top + (m // columns) * (height + GAP) + 15
        text = figure.axes[0].text(x, y, label, color="white", fontsize=12 * 72 / DPI, parse_math=False)
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _lines(text: str, width: int) -> list[str]:
    """As few lines as fit into `width` pixels, and about equally long."""
    letters = max(20, int(width / (0.55 * 14)))
    fewest = len(textwrap.wrap(text, letters))
    return next(lines for n in range(20, letters + 1) if len(lines := textwrap.wrap(text, n)) <= fewest)


def _with_room_below(layout: Mosaic, lines: Sequence[str]) -> Mosaic:
    extra = 20 * len(lines) + 16 if lines else 0
    return replace(layout, canvas=np.pad(layout.canvas, ((0, extra), (0, 0), (0, 0))))
