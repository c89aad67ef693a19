"""Plots of docs/results.md, from the cells' files."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.table2.page import start_of
from benchmarks.table2.pictures import IMAGES
from benchmarks.table2.table import FD, LINEAR, Column, Found, measured, rows, turned
from perceptual_mae.report.curves import LINES
from perceptual_mae.report.figures import WORDS, save


def draw(found: Sequence[Found], drawn: Path = IMAGES) -> list[Path]:
    """A plot of every table that has cells: `DATA-MODEL-BUDGET.png`, `DATA-MODEL-knobs.png`."""
    tables = sorted({(one["cell"]["data"], one["cell"]["model"]) for one in found})
    written = []
    for data, model in tables:
        for budget in ("epochs", "time"):
            if chosen := rows(found, data, model, budget):
                written.append(save(plane(chosen), drawn / f"{data}-{model}-{budget}.png"))
        if cells := [one for one in turned(found, data, model) if start_of(one, found)]:
            written.append(save(turns(cells, found), drawn / f"{data}-{model}-knobs.png"))
    return written


def plane(chosen: dict[str, list[Found]]) -> Figure:
    """What a row's features tell (linear probe, up), and how its pictures look (Fréchet distance, better to the right).

    A dot a seed; the name stands at their mean.
    """
    figure, axes = _axes(7.2, 4.2)
    for number, (name, many) in enumerate(chosen.items()):
        xs, ys = FD.values(many), LINEAR.values(many)
        if len(xs) != len(ys) or not xs:
            continue
        colour = LINES[number % len(LINES)]
        marker = "o" if number < len(LINES) else "^"
        axes.plot(xs, ys, color=colour, linewidth=1.2, marker=marker, markersize=6, clip_on=False)
        axes.annotate(
            name,
            (statistics.fmean(xs), statistics.fmean(ys)),
            xytext=(7, 4),
            textcoords="offset points",
            color=colour,
            fontsize=8.5,
        )
    axes.invert_xaxis()
    axes.margins(x=0.16, y=0.12)
    axes.set_xlabel("Fréchet distance of reconstructions (better to the right)", color=WORDS)
    axes.set_ylabel("linear probe, mean token, %", color=WORDS)
    return figure


def turns(cells: Sequence[Found], found: Sequence[Found]) -> Figure:
    """What a setting changes when it alone is turned: two numbers beside the start's, a bar a cell."""
    names = [f"{one['cell']['method']}: {one['cell']['knob'].replace('&', ' ')}" for one in cells]
    figure = Figure(figsize=(8.4, 0.8 + 0.24 * len(cells)), facecolor="none")
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
    if begin is None or column.key not in measured(one) or column.key not in measured(begin):
        return 0.0
    value, base = column.values([one])[0], column.values([begin])[0]
    return value - base if column is LINEAR else 100 * (value / base - 1)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), facecolor="none")
    axes = figure.add_subplot()
    figure.subplots_adjust(left=0.1, right=0.97, bottom=0.13, top=0.96)
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=WORDS, labelsize=8.5, length=0)
    axes.grid(color=WORDS, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
