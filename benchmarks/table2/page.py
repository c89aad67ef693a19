"""The tables of docs/results.md and of the README, made from the cells' files: every number can be checked."""

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.table2 import knobs
from benchmarks.table2.cell import Cell
from benchmarks.table2.floors import read_floors
from benchmarks.table2.judge import read_judged
from benchmarks.table2.table import (
    BASE,
    COLUMNS,
    FD,
    LINEAR,
    SHORT,
    Column,
    Found,
    all_cells,
    apart,
    comparable,
    known_costs,
    measured,
    paper,
)
from benchmarks.table2.table import rows as rows_of
from benchmarks.table2.table import turned as turned_of
from perceptual_mae.methods import METHODS

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "docs" / "results.md", ROOT / "README.md")


def write() -> tuple[Path, ...]:
    """Replace every generated part of the pages by what the files say now."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), all_cells()), encoding="utf-8")
    return PAGES


def filled(page: str, found: Sequence[Found]) -> str:
    """A page with its generated parts: what stands between `<!-- NAME ARGUMENTS -->` and `<!-- end -->`.

    Args:
        page: Markdown. A part is one of `PARTS`, with its arguments.
        found: cells.
    """

    def part(match: re.Match[str]) -> str:
        kind, *words = match[1].split()
        return "\n".join([f"<!-- {match[1]} -->", "", *PARTS[kind](found, *words), "", "<!-- end -->"])

    return re.sub(rf"<!-- ((?:{'|'.join(PARTS)})(?: [^>]*?)?) -->.*?<!-- end -->", part, page, flags=re.DOTALL)


def summary(found: Sequence[Found], epochs: str, model: str, *data: str) -> list[str]:
    """A row a method: its loss, and its linear probe in the paper and in the tables of these data sets."""
    tables = [rows_of(found, name, model, int(epochs), "epochs") for name in data]
    lines = [line("`--method`", "loss", "paper: ViT-B, ImageNet", *(f"`{model}`, {name}" for name in data))]
    lines.append(line("---", "---", *["---:"] * (len(data) + 1)))
    for name, method in METHODS.items():
        values = [LINEAR.spread(chosen.get(name, ())) for chosen in tables]
        lines.append(line(f"`{name}`", method.summary, paper(name), *values))
    floors = [read_floors(name, model).get("random weights") for name in data]
    lines.append(line("–", "random weights", "–", *(LINEAR.spread([one] if one else []) for one in floors)))
    return lines


def rows_table(found: Sequence[Found], data: str, model: str, epochs: str, budget: str) -> list[str]:
    """A row a method: mean over seeds, and half the range of them; floor and ceiling below."""
    chosen = rows_of(found, data, model, int(epochs), budget)
    if not chosen:
        return ["No cell of this table has been filled yet."]
    shown = [column for column in COLUMNS if any(column.values(many) for many in chosen.values())]
    lines = [line("method", "epochs", "seeds", *(column.head for column in shown), "paper, linear")]
    lines.append(line("---", *["---:"] * (len(shown) + 3)))
    for name, many in chosen.items():
        values = [column.spread(many) for column in shown]
        lines.append(line(f"`{name}`", str(many[0]["cell"]["epochs"]), str(len(many)), *values, paper(name)))
    for name, floor in read_floors(data, model).items():
        lines.append(line(name, "–", "–", *(column.spread([floor]) for column in shown), "–"))
    return lines


def beside_base(found: Sequence[Found], data: str, model: str, epochs: str, budget: str) -> list[str]:
    """What each row has over `mse`: points of the linear probe, share of the FD; whether ranges overlap; a step's time.

    A step's time is that of `known_costs` where it was measured by itself, else that of an epoch in the trainings.
    """
    chosen = rows_of(found, data, model, int(epochs), budget)
    base = chosen.pop(BASE, [])
    if not base or not chosen:
        return ["No row stands beside `mse` yet."]
    costs = known_costs().get(f"{data}-{model}", {})
    lines = [line("method", "linear probe, mean token", "ranges", "FD", "ranges", "time of a step")]
    lines.append(line("---", "---:", "---", "---:", "---", "---:"))
    for name, many in chosen.items():
        values: list[str] = []
        for column, shown in ((LINEAR, _points), (FD, _share)):
            these, those = column.values(many), column.values(base)
            if not these or not those:
                values += ["–", "–"]
                continue
            values += [shown(statistics.fmean(these), statistics.fmean(those)), _ranges(these, those)]
        cost = costs.get(name, seconds_of_epoch(many) / seconds_of_epoch(base))
        lines.append(line(f"`{name}`", *values, f"x {cost:.1f}"))
    return lines


def _points(value: float, base: float) -> str:
    return f"{value - base:+.1f} points"


def _share(value: float, base: float) -> str:
    return f"{100 * (value / base - 1):+.0f} %"


def _ranges(these: Sequence[float], those: Sequence[float]) -> str:
    if min(len(these), len(those)) < 2:
        return "one seed"
    return "apart" if apart(these, those) else "overlap"


def knobs_table(found: Sequence[Found], data: str, model: str) -> list[str]:
    """A row a setting that was turned, beside the start that it was turned from."""
    cells = list(turned_of(found, data, model))
    if not cells:
        return ["No setting has been turned yet."]
    lines = [line("subject", "row", "epochs", "setting", *(column.head for column in SHORT))]
    lines.append(line("---", "---", "---:", "---", *["---:"] * len(SHORT)))
    about = {(row, knob): subject for subject, row, knob in knobs.turns()}
    order = list(about)
    for one in sorted(cells, key=lambda one: _order(one, order)):
        cell, begin = one["cell"], start_of(one, found)
        subject = about.get((cell["method"], cell["knob"]), "others")
        values = [beside(one, begin, column) for column in SHORT]
        shown = "as it is" if cell["knob"] == knobs.NOTHING else f"`{cell['knob'].replace('&', ' ')}`"
        lines.append(line(subject, f"`{cell['method']}`", str(cell["epochs"]), shown, *values))
    return lines


def start_of(one: Found, found: Iterable[Found]) -> Found | None:
    """The cell that another was turned from: the same but for the knob."""
    cell = one["cell"]
    for other in found:
        there = other["cell"]
        same = all(there[name] == cell[name] for name in ("data", "method", "model", "size", "epochs", "seed"))
        if same and there["knob"] in ("", knobs.NOTHING) and cell["knob"] != knobs.NOTHING:
            return other
    return None


def _order(one: Found, order: Sequence[tuple[str, str]]) -> tuple[int, int, str]:
    cell = one["cell"]
    key = (cell["method"], cell["knob"])
    return (cell["epochs"], order.index(key) if key in order else len(order), f"{key} {cell['seed']}")


def beside(one: Found, begin: Found | None, column: Column) -> str:
    """A number, and by how much it differs from the start."""
    if "failed" in one:
        return "failed"
    if not comparable(one, column):
        return "–"
    text = column.spread([one])
    if begin is None or column.key not in measured(begin) or column.key not in measured(one):
        return text
    difference = column.factor * (measured(one)[column.key] - measured(begin)[column.key])
    return f"{text} ({difference:+.{column.digits}f})"


def judged_table(found: Sequence[Found], data: str, model: str) -> list[str]:
    """The distance of each cell's reconstructions in the network that most cells are measured in, and in the judge."""
    judged = read_judged(f"{data}-{model}")
    if not judged:
        return ["Nothing has been judged yet."]
    by_name = {Cell(**one["cell"]).name: one for one in found}
    lines = [line("cell", FD.head, f"FD in the encoder of `{judged['judge']}`"), line("---", "---:", "---:")]
    for name, distance in judged["distances"].items():
        lines.append(line(f"`{name}`", FD.spread([by_name[name]] if name in by_name else []), f"{distance:.3f}"))
    return lines


def hours(found: Sequence[Found]) -> list[str]:
    """Where and how long the cells were trained."""
    cells = [one for one in found if "machine" in one]
    lines = [line("data", "model", "cells", "hours of training", "device", "precision", "torch")]
    lines.append(line("---", "---", "---:", "---:", "---", "---", "---"))
    kinds: dict[tuple[str, ...], list[Found]] = {}
    for one in cells:
        machine = one["machine"]
        where = tuple(str(machine.get(name, "–")) for name in ("device", "precision", "torch"))
        kinds.setdefault((one["cell"]["data"], one["cell"]["model"], *where), []).append(one)
    for (data, model, *place), many in sorted(kinds.items()):
        total = sum(one["machine"]["seconds"] for one in many) / 3600
        lines.append(line(data, model, str(len(many)), f"{total:.1f}", *place))
    return lines if kinds else ["Nothing has been trained yet."]


def seconds_of_epoch(many: Sequence[Found]) -> float:
    """What an epoch of a row took in the quickest of its trainings: others may have shared the machine."""
    return min(one["machine"]["seconds"] / one["cell"]["epochs"] for one in many)


def line(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


PARTS: dict[str, Callable[..., list[str]]] = {
    "summary": summary,
    "rows": rows_table,
    "beside": beside_base,
    "knobs": knobs_table,
    "judged": judged_table,
    "hours": hours,
}
"""By the word that begins a generated part. All take the cells first, then the arguments in the comment."""
