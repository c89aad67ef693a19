"""The report of a run: one HTML file that asks for nothing else and opens anywhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perceptual_mae.files import write_text
from perceptual_mae.report import story
from perceptual_mae.report.embed import embed
from perceptual_mae.report.film import Frame, film
from perceptual_mae.report.page import drawing, write_page
from perceptual_mae.report.panels import panels
from perceptual_mae.report.run_folder import RunRecord, read_run
from perceptual_mae.report.words import number


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
    notes = list(run.notes)
    before_after = embed(run.before_after) if run.before_after else None
    state, state_words = story.status(run)
    values = {
        "name": run.path.resolve().name,
        "state": state,
        "state_words": state_words,
        "summary": story.summary(run),
        "facts": story.facts(run),
        "film": _film(run, notes),
        "before_after": before_after,
        "pictures_from": run.section("data").get("pictures_from"),
        "drawings": [drawing(panel, index) for index, panel in enumerate(panels(run.tracks, run.expected()))],
        "knn_note": story.KNN_NOTE if any(key.startswith("knn") for key in run.tracks) else "",
        "expected_note": story.EXPECTED_NOTE,
        "model_rows": story.model_rows(run),
        "data_rows": story.data_rows(run),
        "machine_rows": story.machine_rows(run),
        "settings": story.settings(run.config, defaults),
        "marked": defaults is not None,
        "command": story.command(run),
        "skipped": run.skipped,
        "skipped_count": run.skipped_count,
        "notes": notes,
    }
    return write_page("report.html.j2", ["report.css"], values)


def _film(run: RunRecord, notes: list[str]) -> list[Frame]:
    """Each picture with the epoch and the loss at its step."""
    told = [("epoch", run.tracks.get("epoch")), ("loss", run.tracks.get(story.loss_key(run) or ""))]
    known = [(word, track) for word, track in told if track]

    def caption(step: int) -> str:
        values = [(word, track.at(step)) for word, track in known]
        return "".join(f" · {word} {number(value)}" for word, value in values if value is not None)

    return film(run.pictures, caption, notes)
