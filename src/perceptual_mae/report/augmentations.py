"""What adaptive discriminator augmentation does to a photograph at rising p (arXiv 2006.06676, figure 2c)."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from perceptual_mae.augment.ada import augment, draw_ada, transforms
from perceptual_mae.augment.crops import center_crop_resize
from perceptual_mae.data import BrokenImage, decode, to_float
from perceptual_mae.data.photos import load_photos
from perceptual_mae.errors import PmaeError, UsageError, refused_by_system
from perceptual_mae.report.figures import DPI, WORDS, save
from perceptual_mae.report.pictures import to_pictures
from perceptual_mae.report.shown import ShownFigure
from perceptual_mae.seeds import Stream, generator

PROBABILITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
DRAWS = 7
SIDE = 128
"""Pixels of a picture's side."""
PHOTO = "astronaut"
"""The built-in photograph that is drawn by default: a face, and every colour there is."""
TITLE = "What the discriminator sees (ADA)"
CAPTION = "Each column is one draw: as p rises, more of its operations take place"


def draw_augmentations(image: Path | None, out: Path, seed: int) -> Path:
    """Draw the augmentations of one photograph: a row a probability, a column a draw.

    Args:
        image: a file; None: a built-in photograph.
        out: PNG to write.
        seed: of the draws.

    Returns:
        `out`.

    Raises:
        UsageError: the image cannot be read, or `out` is a folder.
        PmaeError: there is no built-in photograph, or the PNG cannot be written.
    """
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; give a PNG file to write")
    if image is not None:
        try:
            pixels = decode(image)
        except BrokenImage as broken:
            raise UsageError(f"--image {image}: {broken}") from None
    elif PHOTO in (photos := load_photos()):
        pixels = photos[PHOTO]
    else:
        raise PmaeError("this scikit-image carries no photographs: give one with --image")
    grid = augmentations(to_float(center_crop_resize(pixels, (SIDE, SIDE))), seed)
    with refused_by_system(f"--out {out}"):
        return save(augmentation_grid(grid), out)


def augmentations(image: Tensor, seed: int) -> Tensor:
    """`image: (3, H, W)` in [0, 1] at every p of `PROBABILITIES` and in every draw: `(rows, DRAWS, 3, H, W)`.

    A column's draw is the same in every row. Values are clamped to [0, 1], as screens do.
    """
    numbers = draw_ada(DRAWS, generator(seed, Stream.AUGMENTATION))
    images = image.expand(DRAWS, -1, -1, -1)
    rows = [augment([images], transforms(numbers, p, (SIDE, SIDE), len(image)))[0] for p in PROBABILITIES]
    return torch.stack(rows).clamp(0, 1)


def augmentation_grid(grid: Tensor) -> Figure:
    """The figure of `grid: (rows, columns, 3, H, W)`, a row for each p of `PROBABILITIES`."""
    rows, columns, _, high, wide = grid.shape
    gap, left, header, footer = 5, 112, 52, 40
    height, width = header + rows * (high + gap) - gap + footer, left + columns * (wide + gap) - gap
    canvas = np.zeros((height, width, 4), np.uint8)
    figure = ShownFigure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")

    def write(text: str, x: float, y: float, size: float, align: str) -> None:
        axes.text(x, y, text, ha=align, va="center_baseline", color=WORDS, fontsize=size * 72 / DPI, parse_math=False)

    for row, p in enumerate(PROBABILITIES):
        top = header + row * (high + gap)
        write(f"p = {p:g}", left - 16, top + high / 2, 20, "right")
        for column, picture in enumerate(to_pictures(grid[row])):
            x = left + column * (wide + gap)
            canvas[top : top + high, x : x + wide, :3] = picture
            canvas[top : top + high, x : x + wide, 3] = 255
    middle = (left + width) / 2
    write(TITLE, middle, header / 2, 24, "center")
    write(CAPTION, middle, height - footer / 2, 17, "center")
    # One image at exactly its own size: what is drawn is the canvas, pixel for pixel.
    axes.imshow(canvas, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    return figure
