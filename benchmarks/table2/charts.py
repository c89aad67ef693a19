"""Plots of docs/results.md, from the cells' files."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.table2.page import start_of
from benchmarks.table2.pictures import IMAGES
from benchmarks.table2.table import BASE, CLS, FD, LINEAR, Column, Found, comparable, measured, rows, turned
from perceptual_mae.report.curves import LINES
from perceptual_mae.report.figures import WORDS, save

DPI = 150
NAMES = 5
"""In a line of the legend."""
BARS = 4
"""Of a plot: fewer are read as fast in the table."""
LEAST = 4.0
"""Points that the axis of a probe has at least: with 2,000 images to measure on, one point is no difference."""


def draw(found: Sequence[Found], drawn: Path = IMAGES) -> list[Path]:
    """A plot of every table with several rows or settings: `DATA-MODEL-EPOCHS-BUDGET.png`, `DATA-MODEL-knobs.png`."""
    tables = sorted({(one["cell"]["data"], one["cell"]["model"]) for one in found})
    written = []
    for data, model in tables:
        lengths = sorted({one["cell"]["epochs"] for one in found})
        for epochs, budget in itertools.product(lengths, ("epochs", "time")):
            chosen = rows(found, data, model, epochs, budget)
            if BASE in chosen and len(chosen) > 1:
                written.append(save(plane(chosen), drawn / f"{data}-{model}-{epochs}-{budget}.png"))
        if len(cells := [one for one in turned(found, data, model) if start_of(one, found)]) >= BARS:
            written.append(save(turns(cells, found), drawn / f"{data}-{model}-knobs.png"))
    return written


def plane(chosen: dict[str, list[Found]]) -> Figure:
    """What a row's features tell (linear probe, up), and how its pictures look (Fréchet distance, better to the right).

    A dot a seed. Left the mean token, right [CLS].
    """
    below = 0.7 + 0.22 * -(-len(chosen) // NAMES)
    height = 3.4 + below
    figure = Figure(figsize=(8.4, height), dpi=DPI, facecolor="none")
    panels: tuple[Axes, Axes] = figure.subplots(1, 2, sharex=True, sharey=True)
    figure.subplots_adjust(left=0.08, right=0.98, bottom=below / height, top=1 - 0.3 / height, wspace=0.06)
    for axes, column in zip(panels, (LINEAR, CLS), strict=True):
        _style(axes)
        axes.set_title(f"{column.head}, %", color=WORDS, fontsize=9)
        for number, (name, many) in enumerate(chosen.items()):
            _seeds(axes, FD.values(many), column.values(many), name, number)
        axes.set_xlabel("Fréchet distance of reconstructions (better to the right)", color=WORDS, fontsize=8.5)
    left = panels[0]
    left.margins(x=0.08, y=0.12)
    low, high = left.get_ylim()
    middle, half = (low + high) / 2, max(high - low, LEAST) / 2
    left.set_ylim(middle - half, middle + half)
    left.invert_xaxis()
    handles, labels = left.get_legend_handles_labels()
    look: dict[str, Any] = {"fontsize": 8.5, "labelcolor": WORDS, "frameon": False}
    figure.legend(handles, labels, loc="lower center", ncols=NAMES, **look)
    return figure


def _seeds(axes: Axes, xs: list[float], ys: list[float], name: str, number: int) -> None:
    if len(xs) != len(ys) or not xs:
        return
    colour, marker = LINES[number % len(LINES)], "o" if number < len(LINES) else "^"
    axes.plot(xs, ys, color=colour, linewidth=1.2, marker=marker, markersize=6, label=name)


def turns(cells: Sequence[Found], found: Sequence[Found]) -> Figure:
    """What a setting changes when it alone is turned: two numbers beside the start's, a bar a cell."""
    names = [f"{one['cell']['method']}: {one['cell']['knob'].replace('&', ' ')}" for one in cells]
    figure = Figure(figsize=(8.4, 0.8 + 0.24 * len(cells)), dpi=DPI, facecolor="none")
    left, right = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.44, right=0.98, top=1 - 0.4 / (0.8 + 0.24 * len(cells)), wspace=0.08)
    for axes, column, title in ((left, LINEAR, "linear probe, points"), (right, FD, "Fréchet distance, %")):
        values = [_difference(one, start_of(one, found), column) for one in cells]
        good = 1 if column is LINEAR else -1
        colours = [LINES[2] if good * value > 0 else LINES[1] for value in values]
        axes.barh(range(len(cells)), values, color=colours, height=0.7)
        axes.axvline(0, color=WORDS, linewidth=0.8)
        axes.set_title(title, color=WORDS, fontsize=9)
        _style(axes)
    left.set_yticks(range(len(cells)), names, fontsize=7.5)
    left.invert_yaxis()
    return figure


def _difference(one: Found, begin: Found | None, column: Column) -> float:
    there = begin is not None and column.key in measured(one) and column.key in measured(begin)
    if begin is None or not there or not comparable(one, column):
        return 0.0
    value, base = column.values([one])[0], column.values([begin])[0]
    return value - base if column is LINEAR else 100 * (value / base - 1)


def _style(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=WORDS, labelsize=8.5, length=0)
    axes.grid(color=WORDS, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
