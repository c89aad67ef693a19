"""Predictions on labelled images beside what is true, as one picture: of any number of images of any sizes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from perceptual_mae.data.labelled import Sample, Target
from perceptual_mae.data.palette import class_colours
from perceptual_mae.models.task_network import Prediction
from perceptual_mae.report.figures import DPI, WORDS, draw, shortened, text_width
from perceptual_mae.report.overlay import overlay, resized, to_rgb
from perceptual_mae.report.pictures import Box, Mosaic, Pictures, lay_out

PIXELS = 1_700_000
"""Of all pictures of a figure together, at most: so a PNG stays below about two megabytes."""
SIDES = (24, 264)
"""The least and the greatest side that a square picture has, in pixels."""
GUESSES, MANY = 3, 60
"""Classes that are named under a classified image; under more than so many images it is the likeliest alone."""
RIGHT, WRONG = "#2a9d5c", "#dd4b39"
LINE = 21
"""Height of a line of text under an image, in pixels."""
LEGEND = 48
"""Classes that the legend names; of more, those that take the most room."""


def prediction_grid(samples: Sequence[Sample], predictions: Sequence[Prediction], classes: Sequence[str]) -> Figure:
    """Images with what is true and what was predicted. What that looks like depends on what a prediction is:

    - classified: each image over its true class and the likeliest ones, green where right and red where wrong.
    - segmented: image, truth and prediction side by side, and a legend of the classes that are seen.
    - detected: truth beside those predicted objects whose score is at least `overlay.SCORE`.

    Args:
        samples: one or more; images of one or more channels, see `overlay.overlay`.
        predictions: as many.
        classes: names by label, as in `overlay.overlay`.

    Raises:
        ValueError: there is nothing to draw, or not one prediction a sample.
    """
    if not samples or len(samples) != len(predictions):
        raise ValueError(f"expected one prediction for each of some samples, got {len(predictions)} of {len(samples)}")
    if "probabilities" in predictions[0]:
        return _classified(samples, predictions, classes)
    detected = "boxes" in predictions[0]
    columns = 2 if detected else 3
    size = _tile([sample.image for sample in samples], columns)
    rows = []
    for sample, prediction in zip(samples, predictions, strict=True):
        said: list[Prediction] = [*([] if detected else [{}]), truth(sample.target), prediction]
        rows.append([_tiled(sample.image, one, classes, size) for one in said])
    stacked = [np.stack([row[column] for row in rows]) for column in range(columns)]
    layout = lay_out(stacked, header=40, caption=26)
    titles = ("Truth", "Prediction") if detected else ("Image", "Truth", "Prediction")
    captions = [sample.name for sample in samples]
    if detected:
        return draw(layout, titles, captions)
    seen = _seen([*(truth(sample.target) for sample in samples), *predictions], len(classes))
    return _with_legend(layout, titles, captions, seen, classes)


def truth(target: Target) -> Prediction:
    """What is true of an image that was segmented or detected, as a network would say it."""
    return dict(target) if isinstance(target, dict) else {"labels": target}


# -- one picture ------------------------------------------------------------------------------------------------------


def _tile(images: Sequence[Tensor], columns: int) -> tuple[int, int]:
    """Height and width in which each image has room: of their usual shape, and small enough for all to fit a page."""
    ratio = min(2.0, max(0.5, median(image.shape[1] / image.shape[2] for image in images)))
    # The smaller a picture of the same thing, the more bytes a pixel takes: like side² + 70 side in all.
    side = math.sqrt(35**2 + PIXELS / (len(images) * columns)) - 35
    side = min(SIDES[1], max(SIDES[0], side))
    return round(side * math.sqrt(ratio)), round(side / math.sqrt(ratio))


def _tiled(image: Tensor, said: Prediction, classes: Sequence[str], size: tuple[int, int]) -> Pictures:
    """An image with what is said of it (nothing where that is empty) in a picture `(*size, 4)`, clear around it."""
    factor = min(size[0] / image.shape[1], size[1] / image.shape[2])
    high, wide = (min(most, max(1, round(side * factor))) for most, side in zip(size, image.shape[1:], strict=True))
    small, said = resized(image, said, (high, wide))
    shown = overlay(small, said, classes) if said else to_rgb(small)
    picture = np.zeros((*size, 4), np.uint8)
    top, left = (size[0] - high) // 2, (size[1] - wide) // 2
    picture[top : top + high, left : left + wide, :3] = shown.permute(1, 2, 0).numpy()
    picture[top : top + high, left : left + wide, 3] = 255
    return picture


# -- classified -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Guess:
    """A line under an image: a class, its probability, and the colour of both."""

    name: str
    probability: float
    colour: str


def _classified(samples: Sequence[Sample], predictions: Sequence[Prediction], classes: Sequence[str]) -> Figure:
    size = _tile([sample.image for sample in samples], 1)
    pictures = np.stack([_tiled(sample.image, {}, classes, size) for sample in samples])
    guesses = min(GUESSES if len(samples) <= MANY else 1, len(classes))
    layout = lay_out([pictures], header=4, caption=LINE * (guesses + 1) + 26)
    figure = draw(layout, ("",), ())
    axes = figure.axes[0]
    for sample, prediction, box in zip(samples, predictions, layout.captions, strict=True):
        assert isinstance(sample.target, Tensor)
        label, probabilities = int(sample.target), prediction["probabilities"]
        _write(axes, f"true: {classes[label]}", "", box, 0, WORDS)
        order = probabilities.argsort(descending=True)[:guesses].tolist()
        for place, guess in enumerate(order):
            wrong = WRONG if place == 0 else WORDS
            line = _Guess(classes[guess], float(probabilities[guess]), RIGHT if guess == label else wrong)
            _write_guess(axes, line, box, place + 1)
    return figure


def _write_guess(axes: Axes, guess: _Guess, box: Box, line: int) -> None:
    """A class with its probability, in percent and as a bar below."""
    mark = {RIGHT: "✓ ", WRONG: "✗ "}.get(guess.colour, "")  # colours are not told apart by everybody
    _write(axes, mark + guess.name, f"{100 * guess.probability:.0f} %", box, line, guess.colour)
    y = box.top + LINE * (line + 1) + 1
    for share, opacity in ((1.0, 0.18), (guess.probability, 1.0)):
        bar = Rectangle((box.left, y), box.width * share, 2, facecolor=guess.colour, alpha=opacity, edgecolor="none")
        axes.add_patch(bar)


def _write(axes: Axes, left: str, right: str, box: Box, line: int, colour: str) -> None:
    """Words at both edges of a line of a caption; the left ones are shortened to fit."""
    y, pixels = box.top + LINE * (line + 1) - 4, 13
    style: dict[str, Any] = {"color": colour, "fontsize": pixels * 72 / DPI, "va": "baseline", "parse_math": False}
    room = box.width - (text_width(right, pixels) + 6 if right else 0)
    axes.text(box.left, y, _cut(left, room, pixels), ha="left", **style)
    if right:
        axes.text(box.left + box.width, y, right, ha="right", **style)


def _cut(text: str, room: float, pixels: float) -> str:
    """One line of a text that is at most so many pixels wide."""
    line = shortened(text, 80)
    while len(line) > 4 and text_width(line, pixels) > room:
        line = shortened(line, len(line) - 1)
    return line


# -- segmented --------------------------------------------------------------------------------------------------------


def _seen(said: Sequence[Prediction], classes: int) -> list[int]:
    """The classes in some maps, by label; of very many those of the most pixels."""
    counts = sum(np.bincount(one["labels"].flatten().clamp(max=classes).numpy(), minlength=classes + 1) for one in said)
    assert isinstance(counts, np.ndarray)
    largest = np.argsort(-counts[:classes], kind="stable")[:LEGEND]
    return sorted(int(label) for label in largest if counts[label])


def _with_legend(
    layout: Mosaic, titles: Sequence[str], captions: Sequence[str], seen: Sequence[int], classes: Sequence[str]
) -> Figure:
    """The figure of a layout, with the colours and names of the classes that are seen below it."""
    height, width = layout.canvas.shape[:2]
    pixels, swatch, high = 14, 16, 26
    names = [shortened(classes[label], 28) for label in seen]
    places, x, line = [], 0.0, 0
    for name in names:
        wide = swatch + 7 + text_width(name, pixels)
        if x and x + wide > width:
            x, line = 0.0, line + 1
        places.append((x, height + 14 + line * high))
        x += wide + 20
    room = 22 + (line + 1) * high
    figure = draw(replace(layout, canvas=np.pad(layout.canvas, ((0, room), (0, 0), (0, 0)))), titles, captions)
    colours = class_colours(len(classes)) / 255
    style: dict[str, Any] = {"color": WORDS, "fontsize": pixels * 72 / DPI, "parse_math": False}
    for label, name, (left, top) in zip(seen, names, places, strict=True):
        patch = Rectangle((left, top), swatch, swatch, facecolor=to_hex(colours[label]), edgecolor=WORDS, linewidth=0.5)
        figure.axes[0].add_patch(patch)
        figure.axes[0].text(left + swatch + 7, top + swatch / 2, name, va="center_baseline", **style)
    return figure
