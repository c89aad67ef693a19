"""What every page of this package is made of: its templates, its own style and script, and curves to hover over."""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from perceptual_mae import __version__
from perceptual_mae.report.curves import LINES, is_noisy, plot_area, sampled, svg
from perceptual_mae.report.panels import Panel
from perceptual_mae.report.words import is_number, number

HOVER_POINTS = 120


@dataclass(frozen=True)
class Drawing:
    """A panel of curves on the page: title, legend (name, latest value, style), the SVG, and the numbers to hover."""

    title: str
    legend: list[tuple[str, str, str]]
    expected: str | None
    noisy: bool
    alt: str
    svg: Markup
    numbers: str


def write_page(template: str, styles: Sequence[str], values: Mapping[str, Any]) -> str:
    """The text of a page that holds everything it needs.

    Everything that comes from data is escaped, and the content security policy lets the page load nothing and run no
    script but its own.

    Args:
        template: a file of `templates/` that extends `page.html.j2`.
        styles: the files of `templates/` that are its style, in this order.
        values: what the template names.
    """
    environment = Environment(
        loader=PackageLoader("perceptual_mae.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _own(environment, "report.js")
    page = environment.get_template(template).render(
        style=Markup("").join(_own(environment, name) for name in styles),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **values,
    )
    # Half a character, which JSON can hold and UTF-8 cannot, is a question mark.
    return page.encode("utf-8", "replace").decode("utf-8")


def _own(environment: Environment, name: str) -> Markup:
    """A file of this package, put into the page as it is."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def drawing(panel: Panel, index: int) -> Drawing:
    """A panel for a page; `index` tells it from the page's others."""
    legend, steps, values, words = [], [], [], []
    for place, line in enumerate(panel.lines):
        latest = float(line.values[-1])
        shown = number(latest) + panel.unit if math.isfinite(latest) else "not finite"
        legend.append((line.name, shown, line_style(place if line.colour is None else line.colour)))
        points = sampled(line, HOVER_POINTS)
        steps.append([int(step) for step in points.steps])
        values.append([_rounded(value) for value in points.values])
        words.append(f"{line.name} from {number(float(line.values[0]))} to {number(latest)}")
    left, right, first, last = plot_area(panel)
    numbers = {
        "left": left,
        "right": right,
        "first": first,
        "last": last,
        "steps": steps,
        "values": values,
        "unit": panel.unit,
    }
    return Drawing(
        title=panel.title,
        legend=legend,
        expected=number(panel.expected) if is_number(panel.expected) else None,
        noisy=any(is_noisy(line.values) for line in panel.lines),
        alt=f"Curve over the training steps. {panel.title}: {'; '.join(words)}.",
        # Safe to put in as it is: nothing in a bare panel comes from data but numbers.
        svg=Markup(svg(panel, f"c{index}")),
        numbers=json.dumps(numbers, separators=(",", ":")),
    )


def line_style(colour: int) -> str:
    """The class that gives an element the look of a line of this colour."""
    return f"line-{colour % len(LINES)}" + (" dashed" if colour >= len(LINES) else "")


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
