"""The report of a comparison: one HTML file and one Markdown file, from `results.json` and the runs beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from perceptual_mae.files import write_text
from perceptual_mae.methods import METHODS, Term
from perceptual_mae.paths import user_path
from perceptual_mae.report import comparison_story as words
from perceptual_mae.report import comparison_table as table
from perceptual_mae.report.comparison_chart import charts
from perceptual_mae.report.comparison_folder import FLOOR, METHOD, PUBLISHED, Comparison, Row, read_comparison
from perceptual_mae.report.comparison_verdict import verdict as verdict_of
from perceptual_mae.report.curves import LINES
from perceptual_mae.report.embed import Embedded, embed
from perceptual_mae.report.page import drawing, line_style, write_page
from perceptual_mae.report.panels import Line, Panel, pretty
from perceptual_mae.report.story import KNN_NOTE

ALWAYS_COMPARABLE = (
    ("validation/l1", "L1 on validation images"),
    ("validation/psnr", "PSNR on validation images"),
    ("knn/top1", "k-NN accuracy while training"),
)
"""Logged numbers that mean the same whatever a method minimises."""
PERCENT = "knn/"


@dataclass(frozen=True)
class TableRow:
    """A row of the main table and its cells."""

    row: Row
    cells: list[table.Cell]


def write_comparison(folder: Path) -> Path:
    """Write `report.html` and `results.md` of a comparison at any stage, and return the path of the page.

    What is missing or broken in the folder is said in the report.

    Args:
        folder: what `pmae compare` writes: `results.json`, run folders, pictures.

    Raises:
        UsageError: there is no `results.json` in `folder`.
        PmaeError: it cannot be read.
    """
    folder = user_path(folder)
    comparison = read_comparison(folder)
    write_text(folder / "results.md", markdown(comparison))
    return write_text(folder / "report.html", render(comparison))


def render(comparison: Comparison) -> str:
    """The page of a comparison that has been read."""
    notes = list(comparison.notes)
    shown = table.columns(comparison)
    state, state_words = words.status(comparison)
    panels = curves_of_all(comparison)
    verdict = verdict_of(comparison)
    cost_head, costs = table.cost_rows(comparison)
    paper_head, paper = table.paper_rows(comparison)
    values: dict[str, Any] = {
        "name": f"Comparison {comparison.path.resolve().name}",
        "source": str(comparison.data.get("spec") or ""),
        "state": state,
        "state_words": state_words,
        "verdict": replace(verdict, sentences=[_unbroken(sentence) for sentence in verdict.sentences]),
        "facts": words.facts(comparison),
        "charts": charts(comparison),
        "seeds": comparison.seeds,
        "spread_note": words.SPREAD_NOTE,
        "columns": shown,
        "groups": [
            [TableRow(row, table.cells(comparison, row, shown)) for row in rows]
            for rows in (comparison.of(METHOD), comparison.of(FLOOR, PUBLISHED))
            if rows
        ],
        "everything": _everything(comparison),
        "reconstructions": _picture(comparison, "reconstructions", notes),
        "attention": _picture(comparison, "attention", notes),
        "drawings": [drawing(panel, index) for index, panel in enumerate(panels)],
        "knn_note": KNN_NOTE if any(one.key.startswith("knn") for one in shown) else "",
        "cost_head": cost_head,
        "costs": costs,
        "styles": {row.name: line_style(row.colour) for row in comparison.rows},
        "colours": len(LINES),
        "links": {row.name: _links(comparison, row) for row in comparison.of(METHOD)},
        "summaries": {row.name: METHODS[row.method].summary for row in comparison.rows if row.method in METHODS},
        "paper_head": paper_head,
        "paper": paper,
        "ours": words.ours(comparison),
        "paper_note": words.PAPER_NOTE,
        "failures": [row for row in comparison.rows if row.failed],
        "base": base.name if (base := table.baseline(comparison)) else "",
        "protocols": words.protocols(comparison),
        "setup_rows": words.setup_rows(comparison),
        "data_rows": words.data_rows(comparison),
        "command": comparison.command,
        "notes": notes,
    }
    return write_page("comparison.html.j2", ["report.css", "comparison.css"], values)


def curves_of_all(comparison: Comparison) -> list[Panel]:
    """A panel for each logged number that can be compared, a line a method: the mean of its seeds.

    Sums of different terms cannot be compared. A single term can where several methods have it and it does not look
    through a network that each of them has for itself.
    """
    rows = comparison.of(METHOD)
    wanted = {key: (title, rows) for key, title in ALWAYS_COMPARABLE}
    for term, having in _shared_terms(rows).items():
        wanted[f"loss/{term.name}"] = (f"{pretty(term.name)} in training", having)
    result = []
    for key, (title, having) in wanted.items():
        lines = [line for row in having if (line := mean_line(comparison, row, key)) is not None]
        if lines:
            result.append(Panel(key, title, lines, unit=" %" if key.startswith(PERCENT) else "", close=True))
    last = max((float(line.steps[-1]) for panel in result for line in panel.lines), default=1.0)
    return [replace(panel, last=last) for panel in result]


def _shared_terms(rows: Sequence[Row]) -> dict[Term, list[Row]]:
    having: dict[Term, list[Row]] = {}
    for row in rows:
        for term in METHODS[row.method].terms if row.method in METHODS else ():
            if term.through == "pixels":
                having.setdefault(term, []).append(row)
    return {term: several for term, several in having.items() if len(several) > 1}


def mean_line(comparison: Comparison, row: Row, key: str) -> Line | None:
    """The mean of a row's seeds at the steps that all of them logged; None where none logged the key.

    A seed that has logged nothing in common with the first (it has only begun, or the setting changed) is left out.
    """
    records = [comparison.records[run] for run in row.runs if run in comparison.records]
    points = [record.tracks[key].points() for record in records if key in record.tracks]
    if not points:
        return None
    steps = points[0][0]
    used = points[:1]
    for other in points[1:]:
        common = np.intersect1d(steps, other[0])
        if len(common):
            steps, used = common, [*used, other]
    values = np.mean([v[np.searchsorted(s, steps)] for s, v in used], axis=0)
    if key.startswith(PERCENT) and np.nanmax(values, initial=0.0) <= 1:
        values = values * 100
    return Line(row.name, steps, values, row.colour)


def _everything(comparison: Comparison) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Every number that was measured, seed by seed: names of the rows, and a line a number."""
    rows = comparison.rows
    lines = []
    for one in table.measures(comparison):
        seeds = [row.metrics[one.key].values if one.key in row.metrics else () for row in rows]
        title = one.title + (f", {one.unit.strip()}" if one.unit else "")
        lines.append((title, [" · ".join(one.text(value) for value in values) or "–" for values in seeds]))
    return [row.name for row in rows], lines


def _picture(comparison: Comparison, name: str, notes: list[str]) -> Embedded | None:
    path = comparison.pictures.get(name)
    picture = embed(path) if path else None
    if path and picture is None:
        notes.append(f"The picture {path.name} could not be read and is left out.")
    return picture


def _unbroken(sentence: str) -> str:
    """With spaces that no line ends at, around what belongs to a number."""
    return sentence.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")


def _links(comparison: Comparison, row: Row) -> list[tuple[str, str]]:
    """The reports of a row's runs that are there: a word and an address relative to this page."""
    found = [run for run in row.runs if (comparison.path / run / "report.html").is_file()]
    return [(Path(run).name.removeprefix(f"{row.name}-"), f"./{quote(run)}/report.html") for run in found]


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown: the answer, the table, costs, the paper's numbers, how it was measured."""
    verdict = verdict_of(comparison)
    escaped = table.escaped
    source = str(comparison.data.get("spec") or "")
    _, state_words = words.status(comparison)
    parts = [
        "# Which loss suits these images?",
        f"**{escaped(verdict.answer)}.** {escaped(' '.join(verdict.sentences))}",
        " · ".join(escaped(part) for part in (source, state_words) if part),
        table.metrics_markdown(comparison),
    ]
    failed = [f"- {escaped(row.name)}: {escaped(row.failed)}" for row in comparison.rows if row.failed]
    parts += ["\n".join(failed)] if failed else []
    parts += [words.SPREAD_NOTE] if comparison.seeds > 1 else []
    head, costs = table.cost_rows(comparison)
    if head:
        lines = [[escaped(row.name), *values] for row, values in costs]
        parts += ["## Cost", table.markdown_table(["Method", *head], lines)]
    titles, paper = table.paper_rows(comparison)
    if paper:
        lines = [[escaped(row.name), *(f"{pair.ours} / {pair.theirs}" for pair in pairs)] for row, pairs in paper]
        parts += ["## Here / in the paper", words.PAPER_NOTE, escaped(words.ours(comparison)),
                  table.markdown_table(["Method", *titles], lines)]  # fmt: skip
    measured = [f"- **{escaped(name)}.** {escaped(text)}" for name, text in words.protocols(comparison)]
    setup = [f"- {escaped(name)}: {escaped(value)}" for name, value in
             (*words.data_rows(comparison), *words.setup_rows(comparison))]  # fmt: skip
    parts += ["## How it was measured", "\n".join(measured + setup)]
    if comparison.command:
        parts += ["This line repeats it:", "\n".join(f"    {line}" for line in comparison.command.splitlines())]
    if comparison.notes:
        parts += ["## What is missing here", "\n".join(f"- {escaped(note)}" for note in comparison.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"
