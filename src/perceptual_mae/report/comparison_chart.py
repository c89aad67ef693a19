"""A comparison at a glance: for one number, a line a row, a dot a seed, a bar for their mean."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from perceptual_mae.report.comparison_folder import METHOD, PUBLISHED, Comparison, Row, Spread
from perceptual_mae.report.comparison_table import DISTANCES, Measure, baseline, best, columns, lookup
from perceptual_mae.report.curves import INK, LINES, RULES, WORDS, inline
from perceptual_mae.report.figures import shortened
from perceptual_mae.report.shown import ShownFigure

WIDTH = 380.0
"""Points; a little less than a panel of curves, so that letters are larger on a phone."""
SIZE = 11.5
LETTER, ROOM = 6.5, 20.0
"""Points that a letter takes, and that are left free beside the axes."""
NARROWEST = 80.0
"""Points that are left for the axes, however long names and numbers are."""
LINE, GAP, FOOT = 25.0, 9.0, 24.0
LETTERS = 18
FAR = 2.5
"""A published model that would make the axis this many times as long is drawn at its edge."""


@dataclass(frozen=True)
class Chart:
    """A panel on the page: title, which way is better, the SVG, the same in words, whether a row is beyond its edge."""

    title: str
    direction: str
    svg: Markup
    alt: str
    far: bool


def charts(comparison: Comparison) -> list[Chart]:
    """Up to four panels: linear probe, k-NN, a Fréchet distance and L1, as far as they were measured."""
    shown = columns(comparison)
    wanted = [("linear",), ("knn",), DISTANCES, ("l1",)]
    chosen = [next((one for one in shown if one.key.startswith(family)), None) for family in wanted]
    return [chart(comparison, one, f"d{place}") for place, one in enumerate(chosen) if one is not None]


def chart(comparison: Comparison, one: Measure, ident: str) -> Chart:
    """The panel of one number; `ident` makes the ids inside unique on the page."""
    rows = [(row, spread) for row in comparison.rows if (spread := lookup(row, one)[0]) is not None]
    text = inline(dots(comparison, one), ident)
    # Names come from data: they are put in where everything else has been taken care of, and escaped.
    for place, (row, _) in enumerate(rows):
        text = text.replace(f">{_stand_in(place)}<", f">{html.escape(shortened(row.name, LETTERS))}<")
    words = "; ".join(f"{row.name} {one.spread(spread)}{one.unit}" for row, spread in rows)
    far = any(one.value(spread.mean) > _limits(rows, one)[1] for _, spread in rows)
    return Chart(one.title, one.direction, Markup(text), f"{one.title}, {one.direction}: {words}.", far)


def dots(comparison: Comparison, one: Measure) -> Figure:
    """The figure of a number. Names are stand-ins, see `chart`.

    Methods stand above, floors and published models below them in grey; the dotted line is the plain masked
    autoencoder's mean.
    """
    rows = [(row, spread) for row in comparison.rows if (spread := lookup(row, one)[0]) is not None]
    heights = _heights([row for row, _ in rows])
    tall = heights[-1] + LINE / 2 + FOOT
    figure = ShownFigure(figsize=(WIDTH / 72, tall / 72), facecolor="none")
    labels = ROOM + LETTER * max(min(len(row.name), LETTERS) for row, _ in rows)
    wide = max(NARROWEST, WIDTH - labels - ROOM - LETTER * max(len(one.spread(spread)) for _, spread in rows))
    axes = figure.add_axes((labels / WIDTH, FOOT / tall, wide / WIDTH, 1 - FOOT / tall))
    _style(axes)
    axes.set_ylim(heights[-1] + LINE / 2, 0)
    low, high = _limits(rows, one)
    axes.set_xlim(low, high)
    first = best(comparison, one)
    several = sum(row.kind == METHOD for row, _ in rows) > 1
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    for place, ((row, spread), height) in enumerate(zip(rows, heights, strict=True)):
        axes.axhline(height, color=RULES, linewidth=0.8, zorder=1)
        style: dict[str, Any] = {
            "transform": beside,
            "color": INK if row.kind == METHOD else WORDS,
            "fontsize": SIZE,
            "fontweight": "bold" if first is row and several else "normal",
            "va": "center_baseline",
        }
        axes.text(-12 / wide, height, _stand_in(place), ha="right", **style)
        axes.text(1 + 12 / wide, height, one.spread(spread), ha="left", **style)
        _marks(axes, row, spread, one, height, high)
        if place and _begins_scale(row, rows[place - 1][0]):
            line, ends = height - (LINE + GAP) / 2, [-labels / wide, (WIDTH - labels) / wide]
            axes.plot(ends, [line, line], transform=beside, color=RULES, linewidth=1, clip_on=False, zorder=1)
    base = baseline(comparison)
    if base is not None and one.key in base.metrics:
        mean = one.value(base.metrics[one.key].mean)
        axes.axvline(mean, color=WORDS, linewidth=1.1, linestyle=(0, (1, 2)), zorder=1.5)
    return figure


def _marks(axes: Axes, row: Row, spread: Spread, one: Measure, height: float, edge: float) -> None:
    """The seeds of a row, their mean and spread; an arrow at the edge of the axis for what is beyond it."""
    values, mean = [one.value(value) for value in spread.values], one.value(spread.mean)
    colour = LINES[row.colour % len(LINES)] if row.kind == METHOD else WORDS
    if mean > edge:
        axes.plot([edge], [height], marker=">", markersize=7, color=colour, clip_on=False, markeredgewidth=0, zorder=3)
        return
    if spread.deviation is not None:
        reach = one.value(spread.deviation)
        axes.plot([mean - reach, mean + reach], [height, height], color=colour, alpha=0.22, linewidth=9,
                  solid_capstyle="butt", zorder=2)  # fmt: skip
        axes.plot([mean, mean], [height - 7, height + 7], color=colour, linewidth=2.4, solid_capstyle="round", zorder=3)
    single = len(values) == 1
    shape: dict[str, Any] = {"marker": "D" if row.kind == PUBLISHED else "o", "markersize": 7.5 if single else 4.6}
    axes.plot(values, [height] * len(values), linestyle="none", color=colour, markeredgewidth=0, zorder=4,
              alpha=1 if single else 0.75, **shape)  # fmt: skip


def _heights(rows: Sequence[Row]) -> list[float]:
    """Where the lines of the rows stand, in points from the top; a gap before what is no method."""
    heights, at = [], LINE / 2
    for place, row in enumerate(rows):
        if place and _begins_scale(row, rows[place - 1]):
            at += GAP
        heights.append(at)
        at += LINE
    return heights


def _begins_scale(row: Row, above: Row) -> bool:
    """Whether a row is the first below the methods."""
    return row.kind != METHOD and above.kind == METHOD


def _limits(rows: Sequence[tuple[Row, Spread]], one: Measure) -> tuple[float, float]:
    """Ends of the axis: around everything but published models that are far away to the right."""
    near = [_reach(spread, one) for row, spread in rows if row.kind != PUBLISHED]
    everything = [_reach(spread, one) for _, spread in rows]
    low, high = (min(pair[0] for pair in everything), max(pair[1] for pair in everything))
    if near:
        start, stop = min(pair[0] for pair in near), max(pair[1] for pair in near)
        high = stop if stop > start and high - min(low, start) > FAR * (stop - start) else high
    room = (high - low) or abs(high) or 1.0
    return low - 0.06 * room, high + 0.06 * room


def _reach(spread: Spread, one: Measure) -> tuple[float, float]:
    around = one.value(spread.deviation or 0.0)
    values = [one.value(value) for value in spread.values]
    return min(*values, one.value(spread.mean) - around), max(*values, one.value(spread.mean) + around)


def _style(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0, labelsize=SIZE - 0.5, labelcolor=WORDS, pad=5)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x", color=RULES, linewidth=0.8)
    axes.set_axisbelow(True)


def _stand_in(place: int) -> str:
    return f"name{place:04d}"
