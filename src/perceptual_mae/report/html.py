"""The report of a run: one HTML file that asks for nothing else and opens anywhere."""

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from perceptual_mae import __version__
from perceptual_mae.files import write_text
from perceptual_mae.report import story
from perceptual_mae.report.curves import LINES, is_noisy, plot_area, sampled, svg
from perceptual_mae.report.embed import Embedded, embed
from perceptual_mae.report.panels import Panel, panels
from perceptual_mae.report.run_folder import RunRecord, read_run
from perceptual_mae.report.words import count, is_number, number

FRAMES = 12
HOVER_POINTS = 120


@dataclass(frozen=True)
class Frame:
    """One picture of the film: the image and the line that says when it was drawn."""

    step: str
    caption: str
    image: Embedded


@dataclass(frozen=True)
class Drawing:
    """A panel of curves on the page: title, legend (name, latest value), the SVG, and the numbers to hover over."""

    title: str
    legend: list[tuple[str, str]]
    expected: str | None
    noisy: bool
    alt: str
    svg: Markup
    numbers: str


def write_report(run: Path, defaults: Mapping[str, Any] | None = None) -> Path:
    """Write `RUN/report.html` from what lies in the run folder, and return its path.

    The file holds its pictures, curves, style and script; everything in it that comes from data is escaped, and its
    content security policy lets it load nothing and run no script but its own. What is missing or broken in the folder
    is said in the report.

    Args:
        run: a run folder, of a run at any stage.
        defaults: the default configuration, nested as `config.yaml`, to mark what differs from it.

    Raises:
        UsageError: `run` is no run folder.
    """
    page = render(read_run(Path(run)), defaults)
    return write_text(Path(run) / "report.html", page)


def render(run: RunRecord, defaults: Mapping[str, Any] | None = None) -> str:
    """The page of a run that has been read."""
    environment = Environment(
        loader=PackageLoader("perceptual_mae.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _own(environment, "report.css"), _own(environment, "report.js")
    notes = list(run.notes)
    film = _film(run, notes)
    before_after = embed(run.before_after) if run.before_after else None
    state, state_words = story.status(run)
    return environment.get_template("report.html.j2").render(
        style=style,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        lines=len(LINES),
        name=run.path.resolve().name,
        state=state,
        state_words=state_words,
        summary=story.summary(run),
        facts=story.facts(run),
        film=film,
        before_after=before_after,
        pictures_from=run.section("data").get("pictures_from"),
        drawings=[_drawing(panel, index) for index, panel in enumerate(panels(run.tracks, run.expected()))],
        knn_note=story.KNN_NOTE if any(key.startswith("knn") for key in run.tracks) else "",
        expected_note=story.EXPECTED_NOTE,
        model_rows=story.model_rows(run),
        data_rows=story.data_rows(run),
        machine_rows=story.machine_rows(run),
        settings=story.settings(run.config, defaults),
        marked=defaults is not None,
        command=story.command(run),
        skipped=run.skipped,
        skipped_count=run.skipped_count,
        notes=notes,
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _own(environment: Environment, name: str) -> Markup:
    """A file of this package, put into the page as it is."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def _film(run: RunRecord, notes: list[str]) -> list[Frame]:
    """Up to `FRAMES` pictures, the first and the newest among them and closer together early on, when most changes."""
    last = len(run.pictures) - 1
    if last < FRAMES:
        chosen = list(range(last + 1))
    else:
        chosen = sorted({round((i / (FRAMES - 1)) ** 2 * last) for i in range(FRAMES)})
    frames = []
    for index in chosen:
        picture = run.pictures[index]
        image = embed(picture.path)
        if image is None:
            notes.append(f"The picture {picture.path.name} could not be read and is left out.")
            continue
        told = [("epoch", run.tracks.get("epoch")), ("loss", run.tracks.get(story.loss_key(run) or ""))]
        values = [(word, track.at(picture.step)) for word, track in told if track]
        caption = "".join(f" · {word} {number(value)}" for word, value in values if value is not None)
        frames.append(Frame(count(picture.step), caption, image))
    return frames


def _drawing(panel: Panel, index: int) -> Drawing:
    legend, steps, values, words = [], [], [], []
    for line in panel.lines:
        latest = float(line.values[-1])
        legend.append((line.name, number(latest) + panel.unit if math.isfinite(latest) else "not finite"))
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


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
