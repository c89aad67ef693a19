"""What the cells of a table say: read from their files, several seeds as one row."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.table2.cell import RESULTS, read, read_if_there
from perceptual_mae.methods import METHODS, parts_of

Found = dict[str, Any]
"""The content of a cell's file."""
COST = RESULTS / "cost.json"
"""What a step of each row costs, by `benchmarks.step_cost` on a quiet machine: for equal time on any machine."""
BASE = "mse"
"""The row that all others are compared with."""


@dataclass(frozen=True)
class Column:
    """A number that is shown.

    Attributes:
        key: in a cell's file.
        head: of the column.
        factor: what it is multiplied by.
        digits: after the point.
    """

    key: str
    head: str
    factor: float
    digits: int

    def values(self, cells: Iterable[Found]) -> list[float]:
        """Of each cell that has it."""
        return [self.factor * measured(one)[self.key] for one in cells if self.key in measured(one)]

    def spread(self, cells: Iterable[Found]) -> str:
        """`26.1 ± 0.4`: the mean, and half of the range; a dash where nothing was measured."""
        values = self.values(cells)
        if not values:
            return "–"
        mean = f"{statistics.fmean(values):.{self.digits}f}"
        return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.{self.digits}f}"


LINEAR = Column("linear/mean/top1", "linear, mean token", 100, 1)
FD = Column("fd", "FD", 1, 1)
KNN = Column("knn/mean/top1", "k-NN, mean token", 100, 1)
CLS = Column("linear/cls/top1", "linear, [CLS]", 100, 1)
L1 = Column("l1", "L1", 1, 4)
COLUMNS = (
    LINEAR,
    CLS,
    KNN,
    Column("knn/cls/top1", "k-NN, [CLS]", 100, 1),
    Column("finetune/top1", "fine-tuned, 10 % of labels", 100, 1),
    L1,
    Column("psnr", "PSNR", 1, 2),
    Column("ssim", "SSIM", 1, 3),
    FD,
)
SHORT = (LINEAR, CLS, KNN, L1, FD)
DRAWN = COLUMNS[-4:]
"""Those of reconstructions."""


def known_costs() -> dict[str, dict[str, float]]:
    """What a step costs beside one of `mse`: by table (`DATA-MODEL`), then by row; empty before it was timed."""
    return read_if_there(COST)


def all_cells(folder: Path = RESULTS) -> list[Found]:
    """Every cell that is there."""
    return [read(file) for file in sorted(folder.glob("*/*/*.json"))]


def equal_time(name: str, epochs: int) -> dict[str, int]:
    """Epochs of each row of a table in the time in which its slowest has `epochs`; empty before steps were timed."""
    costs = known_costs().get(name, {})
    return {row: round(epochs * max(costs.values()) / cost) for row, cost in costs.items()}


def rows(found: Iterable[Found], data: str, model: str, epochs: int, budget: str) -> dict[str, list[Found]]:
    """The cells of a table: by method, in the order of the paper's table; each seed is one.

    Args:
        found: cells.
        data, model: of the table.
        epochs: of every row; at equal time, of the slowest.
        budget: what rows have the same of: `epochs` or `time`.
    """
    asked = equal_time(f"{data}-{model}", epochs) if budget == "time" else {}
    chosen: dict[str, list[Found]] = defaultdict(list)
    for one in found:
        cell = one["cell"]
        many = asked.get(cell["method"]) if budget == "time" else epochs
        if (cell["data"], cell["model"], cell["epochs"], cell["knob"]) == (data, model, many, ""):
            chosen[cell["method"]].append(one)
    return {name: chosen[name] for name in sorted(chosen, key=place)}


def turned(found: Iterable[Found], data: str, model: str) -> Iterator[Found]:
    """The cells of a table in which a setting was turned."""
    return (
        one for one in found if one["cell"]["knob"] and (one["cell"]["data"], one["cell"]["model"]) == (data, model)
    )


def measured(one: Found) -> dict[str, float]:
    """The numbers of a cell; the Fréchet distance is called `fd`, whatever it looks through."""
    return {"fd" if key.startswith("fd-") else key: value for key, value in one.get("measured", {}).items()}


def comparable(one: Found, column: Column) -> bool:
    """Whether a number of a cell says the same as that of others: what is drawn of other masks is another question."""
    return column not in DRAWN or "mask_ratio" not in one.get("settings", {})


def apart(these: Sequence[float], those: Sequence[float]) -> bool:
    """Whether the ranges of two rows do not overlap."""
    return max(these) < min(those) or max(those) < min(these)


def place(name: str) -> tuple[int, str]:
    """Of a row in the paper's table."""
    return list(METHODS).index(parts_of(name)[0]), name


def paper(name: str) -> str:
    """The paper's linear probe of a row, ViT-B on ImageNet."""
    method, architecture = parts_of(name)
    value = METHODS[method].row(architecture).paper.linear_probe
    return "–" if value is None else f"{value}"
