"""The tables of docs/results.md, made from the cells' files, so that every number of the page can be checked."""

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.table2 import knobs
from benchmarks.table2.cell import RESULTS, read
from perceptual_mae.methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
Found = dict[str, Any]

COLUMNS: tuple[tuple[str, str, float, int], ...] = (
    # key, head, factor, digits
    ("linear/mean/top1", "linear, mean token", 100, 1),
    ("linear/cls/top1", "linear, [CLS]", 100, 1),
    ("knn/mean/top1", "k-NN, mean token", 100, 1),
    ("finetune/top1", "fine-tuned, 10 % of labels", 100, 1),
    ("l1", "L1", 1, 4),
    ("psnr", "PSNR", 1, 2),
    ("ssim", "SSIM", 1, 3),
    ("fd", "FD", 1, 1),
)


def write() -> Path:
    """Replace every generated part of the page by what the files say now."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), cells()), encoding="utf-8")
    return PAGE


def cells(folder: Path = RESULTS) -> list[Found]:
    """All cells that are there."""
    return [read(file) for file in sorted(folder.glob("*/*/*.json"))]


def filled(page: str, found: Sequence[Found]) -> str:
    """A page with its generated parts: what stands between `<!-- NAME ARGUMENTS -->` and `<!-- end -->`.

    Args:
        page: Markdown. `rows DATA MODEL BUDGET` is a table of methods, `knobs DATA MODEL` one of settings.
        found: cells.
    """

    def part(match: re.Match[str]) -> str:
        kind, *words = match[1].split()
        lines = {"rows": rows_table, "knobs": knobs_table}[kind](found, *words)
        return "\n".join([f"<!-- {match[1]} -->", "", *lines, "", "<!-- end -->"])

    return re.sub(r"<!-- ((?:rows|knobs) [^>]*?) -->.*?<!-- end -->", part, page, flags=re.DOTALL)


def rows_table(found: Sequence[Found], data: str, model: str, budget: str) -> list[str]:
    """A row a method: mean over seeds, and half the range of them."""
    chosen: dict[str, list[Found]] = defaultdict(list)
    for one in found:
        cell = one["cell"]
        if (cell["data"], cell["model"], cell["budget"], cell["knob"]) == (data, model, budget, ""):
            chosen[cell["method"]].append(one)
    if not chosen:
        return ["No cell of this table has been filled yet."]
    shown = [
        column for column in COLUMNS if any(column[0] in measured(one) for many in chosen.values() for one in many)
    ]
    lines = [line("method", "epochs", "seeds", *(head for _, head, _, _ in shown), "paper, linear")]
    lines.append(line("---", *["---:"] * (len(shown) + 3)))
    for name in sorted(chosen, key=place):
        many = chosen[name]
        epochs = sorted({one["cell"]["epochs"] for one in many})
        values = [spread(many, key, factor, digits) for key, _, factor, digits in shown]
        lines.append(line(f"`{name}`", ", ".join(map(str, epochs)), str(len(many)), *values, paper(name)))
    return lines


def knobs_table(found: Sequence[Found], data: str, model: str) -> list[str]:
    """A row a setting that was turned, beside the start that it was turned from."""
    here = [one for one in found if (one["cell"]["data"], one["cell"]["model"]) == (data, model)]
    turned = [one for one in here if one["cell"]["knob"]]
    if not turned:
        return ["No setting has been turned yet."]
    lines = [line("subject", "row", "setting", "linear, mean token", "k-NN, mean token", "FD")]
    lines.append(line("---", "---", "---", "---:", "---:", "---:"))
    about = {(row, knob): subject for subject, row, knob in knobs.turns()}
    starts = {one["cell"]["method"]: one for one in turned if one["cell"]["knob"] == knobs.NOTHING}
    order = list(about)
    for one in sorted(turned, key=lambda one: _order(one, order)):
        cell, begin = one["cell"], starts.get(one["cell"]["method"])
        subject = about.get((cell["method"], cell["knob"]), "the start")
        values = [beside(one, begin, key, factor, digits) for key, _, factor, digits in COLUMNS if key in SHORT]
        shown = "as it is" if cell["knob"] == knobs.NOTHING else cell["knob"]
        lines.append(line(subject, f"`{cell['method']}`", f"`{shown}`", *values))
    return lines


SHORT = ("linear/mean/top1", "knn/mean/top1", "fd")


def _order(one: Found, order: Sequence[tuple[str, str]]) -> tuple[int, str]:
    key = (one["cell"]["method"], one["cell"]["knob"])
    return (order.index(key) if key in order else -1, str(key))


def beside(one: Found, begin: Found | None, key: str, factor: float, digits: int) -> str:
    """A number, and by how much it differs from the start."""
    value = measured(one).get(key)
    if value is None:
        return "–" if "failed" not in one else "failed"
    text = f"{factor * value:.{digits}f}"
    if begin is None or begin is one or key not in measured(begin):
        return text
    return f"{text} ({factor * (value - measured(begin)[key]):+.{digits}f})"


def measured(one: Found) -> dict[str, float]:
    """The numbers of a cell; the Fréchet distance is called `fd`, whatever it looks through."""
    return {"fd" if key.startswith("fd-") else key: value for key, value in one.get("measured", {}).items()}


def spread(many: Iterable[Found], key: str, factor: float, digits: int) -> str:
    """`26.1 ± 0.4`: the mean, and half of the range."""
    values = [factor * measured(one)[key] for one in many if key in measured(one)]
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.{digits}f}"


def place(name: str) -> tuple[int, str]:
    """Of a row in the paper's table."""
    return list(METHODS).index(name.partition("+")[0]), name


def paper(name: str) -> str:
    """The paper's linear probe of a row, ViT-B on ImageNet."""
    method, _, architecture = name.partition("+")
    value = METHODS[method].row(architecture or None).paper.linear_probe
    return "–" if value is None else f"{value}"


def line(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
