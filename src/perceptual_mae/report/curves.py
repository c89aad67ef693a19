"""Training curves: as stand-alone figures, and as SVG that takes its colours and letters from the page around it."""

import io
import math
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from perceptual_mae.report.panels import Line, Panel, panels
from perceptual_mae.report.shown import ShownFigure
from perceptual_mae.report.tracks import tracks
from perceptual_mae.report.words import number, scientific

# Okabe and Ito's colours: told apart with any colour vision. A page puts its own `--line-i` in place of the i-th.
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#5b5b5b")
INK = "#1c2026"
WORDS = "#6b7079"
RULES = "#e3e3df"
SIZE = (5.6, 2.7)
NOISE = 6.0
POINTS = 320


def curves(metrics: Iterable[Mapping[str, Any]], expected: Mapping[str, float] | None = None) -> dict[str, Figure]:
    """One figure a panel, by panel key, in reading order.

    Args:
        metrics: records of `metrics.jsonl`, each with a numeric `step`.
        expected: by the name of a loss (`mse`), the value of a model that has learnt nothing but the mean colour.
            `expected/<name>` in the records does the same.
    """
    return {panel.key: draw(panel) for panel in panels(tracks(metrics), expected)}


def draw(panel: Panel, *, bare: bool = False) -> Figure:
    """A panel as a figure; `bare` leaves out title and legend, which a page writes itself."""
    figure = ShownFigure(figsize=SIZE, facecolor="none")
    figure.subplots_adjust(left=0.112, right=0.98, bottom=0.12, top=0.965 if bare else 0.80)
    axes = figure.add_subplot()
    _style(axes, panel)
    handles = [_curve(axes, line, i if line.colour is None else line.colour) for i, line in enumerate(panel.lines)]
    _limits(axes, panel)
    if panel.expected is not None and math.isfinite(panel.expected):
        axes.axhline(panel.expected, color=WORDS, linewidth=1.2, linestyle=(0, (1, 2)), zorder=1.5)
        if not bare:
            axes.annotate(
                f"expected of the mean colour: {number(panel.expected)}",
                (1, panel.expected),
                xycoords=axes.get_yaxis_transform(),
                xytext=(-2, 3),
                textcoords="offset points",
                ha="right",
                color=WORDS,
                fontsize=9.5,
            )
    if not bare:
        figure.text(0.02, 0.93, panel.title, fontsize=11.5, fontweight="bold", color=WORDS, parse_math=False)
        names = [line.name for line in panel.lines]
        legend = figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0.01, 0.92), ncols=4, frameon=False)
        for text in legend.get_texts():
            text.set(color=WORDS, fontsize=9, parse_math=False)
    return figure


def svg(panel: Panel, ident: str) -> str:
    """The bare panel as an `<svg>` for a page, see `inline`."""
    return inline(draw(panel, bare=True), ident)


def inline(figure: Figure, ident: str) -> str:
    """A figure as an `<svg>` for a page.

    Colours become the page's variables (`--line-0`, `--ink`, `--words`, `--rules`) and letters take its font, so that a
    dark page has a dark figure. `ident` makes the few ids inside unique on the page.
    """
    file = io.StringIO()
    # Text stays text: smaller, sharper, searchable. The setting is only read while the file is written.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": ident}):
        figure.savefig(file, format="svg", metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{ident}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{ident}-", text)
    text = re.sub(
        r"font: (\d+ |bold )?([\d.]+px) [^;\"]*", _size_and_weight, re.sub(r"font-family: [^;\"]*;? ?", "", text)
    )
    for index, colour in enumerate(LINES):
        text = text.replace(colour, f"var(--line-{index})")
    for colour, name in ((INK, "ink"), (WORDS, "words"), (RULES, "rules")):
        text = text.replace(colour, f"var(--{name})")
    # A hundredth of a point is finer than any screen; the matches are attributes, never the labels.
    text = re.sub(r'(?<==")[^"]*', lambda m: re.sub(r"(\d\.\d\d)\d+", r"\1", m[0]), text)
    return re.sub(r"\s+", " ", re.sub(r">\s+<", "><", text)).strip()


def _size_and_weight(font: re.Match[str]) -> str:
    return f"font-size: {font[2]}" + (f"; font-weight: {font[1].strip()}" if font[1] else "")


def plot_area(panel: Panel) -> tuple[float, float, float, float]:
    """Where the axes of `svg` lie, left and right as fractions of the width, and the steps at these edges."""
    axes = draw(panel, bare=True).axes[0]
    box, (first, last) = axes.get_position(), axes.get_xlim()
    return box.x0, box.x1, first, last


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exponential moving average over about a fortieth of the curve, `(n,)`, without the bias towards its start."""
    keep = 1 - 1 / max(2.0, len(values) / 40)
    result = np.full_like(values, np.nan)
    total = weight = 0.0
    for index, value in enumerate(values):
        if math.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
            result[index] = total / weight
    return result


def is_noisy(values: NDArray[np.float64]) -> bool:
    """Whether a curve of many points goes up and down so much that its course is better read from an average."""
    finite = values[np.isfinite(values)]
    if len(finite) < 40:
        return False
    low, high = np.percentile(finite, [2, 98])
    return bool(high > low and np.abs(np.diff(finite)).sum() > NOISE * (high - low))


def thinned(line: Line, points: int = POINTS) -> Line:
    """At most about `points` points that keep every peak and valley: the lowest and highest of each stretch."""
    n = len(line.values)
    if n <= points:
        return line
    kept = {0, n - 1}
    edges = np.linspace(0, n, points // 2 + 1).astype(int)
    for start, stop in pairwise(edges):
        stretch = line.values[start:stop]
        if np.isfinite(stretch).any():
            kept |= {start + int(np.nanargmin(stretch)), start + int(np.nanargmax(stretch))}
    order = sorted(kept)
    return Line(line.name, line.steps[order], line.values[order])


def sampled(line: Line, points: int) -> Line:
    """At most `points` points evenly through the curve, its first and last among them."""
    if len(line.values) <= points:
        return line
    order = np.linspace(0, len(line.values) - 1, points).round().astype(int)
    return Line(line.name, line.steps[order], line.values[order])


def _curve(axes: Axes, line: Line, colour: int) -> Any:
    style: dict[str, Any] = {"color": LINES[colour % len(LINES)], "solid_joinstyle": "round", "solid_capstyle": "round"}
    if colour >= len(LINES):
        style["linestyle"] = (0, (3, 1.5))
    if is_noisy(line.values):
        raw = thinned(line)
        axes.plot(raw.steps, raw.values, linewidth=0.7, alpha=0.3, **style)
        line = Line(line.name, line.steps, smooth(line.values))
    line = sampled(line, POINTS)
    marker: dict[str, Any] = {"marker": "o", "markersize": 4.5, "markeredgewidth": 0} if len(line.steps) <= 24 else {}
    return axes.plot(line.steps, line.values, linewidth=1.8, **style, **marker)[0]


def _style(axes: Axes, panel: Panel) -> None:
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=RULES, linewidth=1)
    axes.grid(axis="y", color=RULES, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=11, labelcolor=WORDS, pad=4)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    if panel.log:
        axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _limits(axes: Axes, panel: Panel) -> None:
    values = [line.values[np.isfinite(line.values)] for line in panel.lines]
    everything = np.concatenate([*values, [panel.expected] if panel.expected is not None else []])
    everything = everything[np.isfinite(everything)]
    axes.set_xlim(-0.015 * panel.last, 1.015 * panel.last)
    if len(everything) == 0:
        return
    low, high = float(everything.min()), float(everything.max())
    if panel.log:
        low, high = max(low, 1e-30), max(high, 1e-30)
        axes.set_ylim(low / (high / low) ** 0.06, high * (high / low) ** 0.1)
        decades = math.log10(high / low)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1,), numticks=6))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
        return
    if not panel.close and (0 <= low < 0.6 * high or panel.from_zero):
        low = 0.0  # a curve that reaches down half-way is read against zero
    room = (high - low) or abs(high) or 1.0
    axes.set_ylim(low - (0.1 if panel.close else 0.04) * room if low else 0.0, high + 0.1 * room)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _short(value: float) -> str:
    """A tick label: 0.25, 20k, 1.5M, 3e-4."""
    size = abs(value)
    if size >= 1e3:
        for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if size >= unit:
                return f"{value / unit:.4g}{letter}"
    if 0 < size < 1e-3:
        return scientific(value)
    return f"{value:.5g}"
