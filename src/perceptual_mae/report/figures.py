"""Pictures of what a model sees: figure 2 of the paper, for one's own images.

Figures have a transparent ground and mid-grey words, so the same PNG reads on a white page and on a black one.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import ImageFont

from perceptual_mae.files import write_atomically
from perceptual_mae.report.pictures import Box, Images, Mosaic, hide, mosaic, to_array, to_pictures
from perceptual_mae.report.shown import ShownFigure

WORDS = "#7a7f87"
DPI = 100
TITLES = ("Original", "Masked", "Reconstruction", "Pasted back")
Show = Callable[[Path, int], None]
"""Told of a picture that was drawn after so many steps."""
BEFORE_AFTER_TITLES = ("Original", "Masked", "Before training", "After training")


def reconstruction_grid(
    originals: Images,
    masks: Images,
    reconstructions: Images,
    pasted: Images,
    *,
    captions: Sequence[str] | None = None,
) -> Figure:
    """Figure 2 of the paper: a row an image; original, masked, reconstruction, visible patches pasted back.

    Args:
        originals: `(n, C, H, W)` floats in [0, 1] (clamped here), as are the other images; any C.
        masks: bool, of pixels, `(n, 1, H, W)`, True = removed (shown grey).
        reconstructions: the model's output as it is.
        pasted: the same with the visible patches of the originals, see `evaluation.reconstruction.Look.pasted`.
        captions: one line under each image, for instance its file name; cut to fit.

    Raises:
        ValueError: the shapes do not belong together.
    """
    return _grid([originals, hide(originals, masks), reconstructions, pasted], TITLES, captions)


def before_after_grid(originals: Images, masks: Images, before: Images, after: Images) -> Figure:
    """What training changed: original, masked, the untrained model's picture, the trained one's. Arguments as above."""
    return _grid([originals, hide(originals, masks), before, after], BEFORE_AFTER_TITLES, None)


def side_by_side(originals: Images, masks: Images, pictures: Mapping[str, Images]) -> Figure:
    """What several models make of the same masked images: original, masked, then a column a model under its name."""
    columns = [originals, hide(originals, masks), *pictures.values()]
    return _grid(columns, ("Original", "Masked", *pictures), None)


def save(figure: Figure, path: Path) -> Path:
    """Write `figure` to `path` as PNG, whole or not at all, at the resolution it was made for."""
    with warnings.catch_warnings():
        # File names come in every script; a font without one of their letters draws a box, and that is fine.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=figure.dpi))


def unseen(picture: Path, step: int) -> None:
    """Nobody else is told of a picture."""


def _grid(columns: Sequence[Images], titles: Sequence[str], captions: Sequence[str] | None) -> Figure:
    pictures = [to_pictures(column) for column in columns]
    if len({p.shape for p in pictures}) > 1 or len(pictures[0]) == 0:
        raise ValueError(f"expected {len(pictures)} times the same number of images of one size, got "
                         + ", ".join(str(to_array(column).shape) for column in columns))  # fmt: skip
    if len(titles) != len(pictures) or (captions is not None and len(captions) != len(pictures[0])):
        raise ValueError("expected one title a column and one caption an image")
    return draw(mosaic(pictures, header=40, caption=0 if captions is None else 26), titles, captions or ())


def draw(layout: Mosaic, titles: Sequence[str], captions: Sequence[str]) -> Figure:
    """A layout with its words: one title a column, and one caption an image or none. What is too long is shortened."""
    height, width = layout.canvas.shape[:2]
    figure = ShownFigure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    # One image at exactly its own size: what is drawn is the canvas, pixel for pixel.
    axes.imshow(layout.canvas, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))

    def write(text: str, box: Box, size: float, lift: float) -> None:
        x, y = box.left + box.width / 2, box.top + box.height - lift
        axes.text(x, y, text, ha="center", va="baseline", color=WORDS, fontsize=size * 72 / DPI, parse_math=False)

    for headers in layout.headers:
        shown = [shortened(title, int(box.width / (0.6 * 12))) for box, title in zip(headers, titles, strict=True)]
        # All titles of a figure have one size: the largest with which the longest fits.
        size = min(20.0, *(box.width / (0.6 * max(len(title), 1)) for box, title in zip(headers, shown, strict=True)))
        for box, title in zip(headers, shown, strict=True):
            write(title, box, size, lift=11)
    for box, caption in zip(layout.captions, captions, strict=bool(captions)):
        write(shortened(caption, int(box.width / (0.6 * 14))), box, 14, lift=8)
    return figure


def shortened(text: str, letters: int) -> str:
    """One printable line of at most `letters` letters; the middle goes first, as file names differ at their end."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    if len(line) <= letters:
        return line
    kept = max(letters - 1, 2)
    return line[: kept - kept // 2] + "…" + line[len(line) - kept // 2 :]


def text_width(text: str, pixels: float) -> float:
    """Pixels that a line takes in letters of so many."""
    return float(letters(pixels).getlength(text))


@cache
def letters(pixels: float) -> ImageFont.FreeTypeFont:
    """The letters of all figures, those of most of the world's alphabets, so many pixels high: for Pillow."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), pixels)
