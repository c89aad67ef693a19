"""Which classes are taken for which: the confusion matrix as a picture, and its largest errors in words."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from perceptual_mae.report.curves import LINES
from perceptual_mae.report.figures import DPI, WORDS, shortened, text_width
from perceptual_mae.report.pictures import Images, to_array
from perceptual_mae.report.shown import ShownFigure

SIDE = 900
"""Pixels that a matrix of many classes is wide."""
CELLS = (11, 84)
"""The smallest cell with room for a name of its own, and the largest, in pixels."""
WRITTEN = 30
"""Pixels of a cell from which on the share is written into it."""
RIGHT, WRONG = LINES[0], LINES[1]
LEGEND = 530
"""Pixels that the legend is wide."""
FAINT = 0.12
"""Shares up to this leave a cell so pale that the grey of all words is read on it."""
MARKS = (0.01, 0.1, 0.25, 0.5, 1.0)
"""Shares that the legend shows."""


def confusion_figure(confusion: Images, names: Sequence[str]) -> Figure:
    """A confusion matrix as a picture: a row a true class, a column a predicted one.

    A cell's colour is the share of its row, blue on the diagonal and orange beside it, and its strength the square root
    of the share: a tenth of a class is still seen. Shares are written where there is room, in percent. A class without
    images has an empty row. The ground is transparent, as that of the other figures.

    Args:
        confusion: `(C, C)` counts, rows true.
        names: of the `C` classes; long ones are shortened, and of many only every so many is written.

    Raises:
        ValueError: the matrix is not square, is empty or negative, or has not one name a class.
    """
    counts = _counts(confusion, names)
    classes = len(counts)
    cell = max(1, min(CELLS[1], SIDE // classes))
    size = min(15.0, max(cell * 0.8, 9.5))
    every = math.ceil(CELLS[0] / cell)
    letters = 22 if classes <= 25 else 16
    written = [shortened(name, letters) for name in names]
    reach = max(text_width(name, size) + 4 for name in written[::every])
    flat = reach <= cell * every * 0.92
    side = cell * classes
    left, bottom = 34 + reach, (size * 1.6 if flat else reach) + 34
    legend, edge = 46, 12
    width, height = left + max(side, LEGEND) + edge, legend + side + bottom
    figure = ShownFigure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    shares = _shares(counts)
    place_of_it = (left, left + side, legend + side, legend)
    axes.imshow(_colours(shares), extent=place_of_it, interpolation="nearest", aspect="auto")
    frame = [left, left + side, left + side, left, left], [legend, legend, legend + side, legend + side, legend]
    axes.plot(*frame, color=WORDS, linewidth=0.6, alpha=0.5)
    for place in range(0, classes, every):
        middle = (place + 0.5) * cell
        _write(axes, written[place], left - 7, legend + middle, size, ha="right", va="center_baseline")
        turned = {} if flat else {"rotation": 90}
        _write(axes, written[place], left + middle, legend + side + 7, size, ha="center", va="top", **turned)
    _write(axes, "true", 11, legend + side / 2, 14, rotation=90, ha="center", va="center", fontstyle="italic")
    _write(axes, "predicted", left + side / 2, height - 11, 14, ha="center", va="center", fontstyle="italic")
    if cell >= WRITTEN:
        _numbers(axes, shares, cell, left, legend)
    _legend(axes, left)
    return figure


def _counts(confusion: Images, names: Sequence[str]) -> NDArray[np.float64]:
    counts = to_array(confusion).astype(np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.size == 0 or not (counts >= 0).all():
        raise ValueError(f"expected a square matrix of counts (C, C), got one of shape {counts.shape}")
    if len(names) != len(counts):
        raise ValueError(f"expected one name for each of {len(counts)} classes, got {len(names)}")
    return counts


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts by row as shares of the row; a row without any is zero."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _colours(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(C, C, 4)`: the strength of a colour is its opacity, so that nothing stays nothing on any page."""
    colours = np.empty((*shares.shape, 4))
    colours[...] = to_rgba(WRONG)
    colours[np.eye(len(shares), dtype=bool)] = to_rgba(RIGHT)
    colours[..., 3] = np.sqrt(shares)
    return colours


def _numbers(axes: Axes, shares: NDArray[np.float64], cell: int, left: float, top: float) -> None:
    """Shares in percent in their cells: grey on a faint colour; else white, edged so that any page behind will do."""
    for row, column in np.argwhere(shares > 0).tolist():
        share = float(shares[row, column])
        style: dict[str, Any] = {"ha": "center", "va": "center_baseline"}
        if share > FAINT:
            edge = withStroke(linewidth=2, foreground=RIGHT if row == column else WRONG)
            style |= {"color": "white", "path_effects": [edge]}
        text = f"{100 * share:.0f}" if share >= 0.005 else "<1"
        middle = left + (column + 0.5) * cell, top + (row + 0.5) * cell
        _write(axes, text, *middle, min(16.0, cell * 0.36), **style)


def _legend(axes: Axes, left: float) -> None:
    """Both colours at some shares, above the matrix."""
    box, top = 17.0, 8.0
    x = left
    for word, colour in (("right", RIGHT), ("wrong", WRONG)):
        _write(axes, word, x, top + box / 2, 13, ha="left", va="center_baseline")
        x += 50
        for mark in MARKS:
            patch = Rectangle((x, top), box, box, facecolor=to_rgba(colour, math.sqrt(mark)), edgecolor="none")
            axes.add_patch(patch)
            x += box
        x += 16
    marks = " · ".join(f"{100 * mark:g}" for mark in MARKS)
    _write(axes, f"{marks} % of the row", x, top + box / 2, 13, ha="left", va="center_baseline")


def _write(axes: Axes, text: str, x: float, y: float, pixels: float, **style: Any) -> None:
    axes.text(x, y, text, fontsize=pixels * 72 / DPI, parse_math=False, **{"color": WORDS, **style})
