"""The table of a comparison: which numbers are shown, how they are written, and which is the best. Also in Markdown."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from perceptual_mae.methods import METHODS, Published
from perceptual_mae.report.comparison_folder import FLOOR, METHOD, PUBLISHED, Comparison, Row, Spread
from perceptual_mae.report.words import UNKNOWN, compact, duration, is_number

BASELINE = next(iter(METHODS))
"""The plain masked autoencoder, that every other method is measured against."""
POOLS = ("mean", "cls", "both")
"""Which token a classifier was given; the first that was measured of a method is the one that the tables show."""
POOL_WORDS = {"mean": "mean token", "cls": "[CLS] token", "both": "[CLS] and mean token"}
DISTANCES = ("fid", "fd-")


@dataclass(frozen=True)
class Measure:
    """A number of `results.json` as a reader sees it.

    Attributes:
        key: in `results.json`.
        title: in full.
        short: at the head of a column.
        detail: what tells it from others with the same `short`: the rank, the network.
        higher: whether more is better; None where neither is.
        digits: after the decimal point.
        percent: a fraction that is shown in percent.
    """

    key: str
    title: str
    short: str
    detail: str = ""
    higher: bool | None = None
    digits: int = 3
    percent: bool = False

    @property
    def unit(self) -> str:
        """What follows a value."""
        return " %" if self.percent else " dB" if self.key.endswith("psnr") else ""

    @property
    def head(self) -> str:
        """The head of its column on one line."""
        unit = f",{self.unit}" if self.unit else ""
        return " ".join(filter(None, (self.short, self.detail))) + unit

    @property
    def direction(self) -> str:
        """Which way is better, in words."""
        return "" if self.higher is None else "higher is better" if self.higher else "lower is better"

    def value(self, value: float) -> float:
        """A value in the unit that is shown."""
        return 100 * value if self.percent else value

    def text(self, value: float) -> str:
        """A value without its unit."""
        return f"{self.value(value):,.{self.digits}f}"

    def spread(self, spread: Spread | None) -> str:
        """Mean ± deviation, without the unit."""
        if spread is None:
            return UNKNOWN
        more = "" if spread.deviation is None else f" ± {self.text(spread.deviation)}"
        return self.text(spread.mean) + more


@dataclass(frozen=True)
class Cell:
    """A number of the table: mean, spread behind it, whether no method does better, and what is different about it."""

    mean: str
    spread: str = ""
    best: bool = False
    remark: str = ""


def measure(key: str) -> Measure:
    """How a key of `results.json` is written; one that nobody foresaw keeps its name."""
    family, pool, top = [*key.split("/"), "", ""][:3]
    if family in ("linear", "knn") and top.startswith("top"):
        name = "Linear probe" if family == "linear" else "k-NN"
        rank = f"top-{top.removeprefix('top')}"
        title = f"{name} {rank}, {POOL_WORDS.get(pool, pool)}"
        return Measure(key, title, name, rank, higher=True, digits=1, percent=True)
    known = {
        "l1": Measure(key, "L1 of reconstructions", "L1", "", False, 4),
        "psnr": Measure(key, "PSNR of reconstructions", "PSNR", "", True, 2),
        "ssim": Measure(key, "SSIM of reconstructions", "SSIM", "", True, 3),
        "is": Measure(key, "Inception score of reconstructions", "IS", "", True, 2),
        "fid": Measure(key, "Fréchet Inception distance", "FID", "", False, 1),
    }
    if key in known:
        return known[key]
    if key.startswith("fd-"):
        name = key.removeprefix("fd-")
        return Measure(key, f"Fréchet distance in {name}", "FD", name, False, 1)
    return Measure(key, key, key)


def measures(comparison: Comparison) -> list[Measure]:
    """Everything that was measured of anything, in reading order."""
    keys = list(dict.fromkeys(key for row in comparison.rows for key in row.metrics))

    def rank(key: str) -> tuple[int, bool, int, int]:
        family, pool, _ = [*key.split("/"), "", ""][:3]
        families = ("linear", "knn", "l1", "psnr", "ssim", "is", "fid")
        first = families.index(family) if family in families else 7 if key.startswith("fd-") else 8
        others_only = not any(key in row.metrics for row in comparison.of(METHOD))
        return first, others_only, POOLS.index(pool) if pool in POOLS else len(POOLS), keys.index(key)

    return [
        fitted(measure(key), (row.metrics[key].mean for row in comparison.rows if key in row.metrics))
        for key in sorted(keys, key=rank)
    ]


def fitted(one: Measure, values: Iterable[float]) -> Measure:
    """With more digits where distances are small enough to need them: the features of a network come at any scale."""
    largest = max(map(abs, values), default=0.0)
    if one.key.startswith(DISTANCES) and 0 < largest < 10:
        return replace(one, digits=min(6, 2 - math.floor(math.log10(largest))))
    return one


def columns(comparison: Comparison) -> list[Measure]:
    """The numbers of the table: one token's for classifiers, and everything of the reconstructions."""
    shown: dict[str, Measure] = {}
    for one in measures(comparison):
        family, _, top = [*one.key.split("/"), "", ""][:3]
        classifier = one.percent and "/" in one.key
        if one.higher is not None and not (classifier and family == "knn" and top != "top1"):
            shown.setdefault(f"{family}/{top}" if classifier else one.key, one)
    return list(shown.values())


def lookup(row: Row, one: Measure) -> tuple[Spread | None, str]:
    """A row's number, and in words which token it is of where the row has only another one's."""
    if one.key in row.metrics or not one.percent:
        return row.metrics.get(one.key), ""
    family, _, top = [*one.key.split("/"), "", ""][:3]
    for key, spread in row.metrics.items():
        other, pool, rank = [*key.split("/"), "", ""][:3]
        if (other, rank) == (family, top):
            return spread, POOL_WORDS.get(pool, pool)
    return None, ""


def best(comparison: Comparison, one: Measure) -> Row | None:
    """The method with the best mean; None where none has one, or neither way is better."""
    rows = [row for row in comparison.of(METHOD) if one.key in row.metrics]
    if not rows or one.higher is None:
        return None
    return (max if one.higher else min)(rows, key=lambda row: row.metrics[one.key].mean)


def highest(comparison: Comparison, kind: str, one: Measure) -> tuple[Row, Spread] | None:
    """The row of a kind with the highest mean, and its number; None where no row has one."""
    found = [(row, spread) for row in comparison.of(kind) if (spread := lookup(row, one)[0]) is not None]
    return max(found, key=lambda pair: pair[1].mean, default=None)


def baseline(comparison: Comparison, among: Sequence[Row] | None = None) -> Row | None:
    """The plain masked autoencoder among some rows (None: all methods); None where it is not there."""
    rows = comparison.of(METHOD) if among is None else among
    return next((row for row in rows if row.method == BASELINE), None)


def cells(comparison: Comparison, row: Row, shown: Sequence[Measure]) -> list[Cell]:
    """A row of the table. The best are sought among methods, and only where there are several."""
    result = []
    for one in shown:
        spread, remark = lookup(row, one)
        if spread is None:
            result.append(Cell(UNKNOWN))
            continue
        first = best(comparison, one)
        several = sum(one.key in other.metrics for other in comparison.of(METHOD)) > 1
        # Two that read the same are both the best.
        leads = first is not None and one.text(spread.mean) == one.text(first.metrics[one.key].mean)
        more = "" if spread.deviation is None else f"± {one.text(spread.deviation)}"
        result.append(Cell(one.text(spread.mean), more, several and row.kind == METHOD and leads, remark))
    return result


def cost_rows(comparison: Comparison) -> tuple[list[str], list[tuple[Row, list[str]]]]:
    """Head and rows of the table of costs; a column that nobody has is left out."""
    base = baseline(comparison)
    relative = f"× {base.name}" if base else "Relative time"
    head = ["An epoch", relative, "Parameters", "Encoder", "Discriminator", "Peak memory"]
    rows = []
    for row in comparison.of(METHOD, PUBLISHED):
        cost = row.cost
        memory = f"{cost['peak_memory_gib']:.2f} GiB" if is_number(cost.get("peak_memory_gib")) else UNKNOWN
        others = [compact(cost.get(key)) for key in ("parameters", "encoder_parameters", "discriminator_parameters")]
        longer = relative_time(comparison, row)
        times = UNKNOWN if longer is None else f"{longer:.2f}"
        others[2] = "none" if cost.get("discriminator_parameters") == 0 else others[2]
        rows.append((row, [duration(cost.get("seconds_per_epoch")), times, *others, memory]))
    kept = [place for place in range(len(head)) if any(values[place] != UNKNOWN for _, values in rows)]
    return [head[place] for place in kept], [(row, [values[place] for place in kept]) for row, values in rows]


def relative_time(comparison: Comparison, row: Row) -> float | None:
    """How many times as long an epoch takes as one of the baseline; None where it is not known."""
    if "relative_time" in row.cost:
        return row.cost["relative_time"]
    base = baseline(comparison)
    own, basis = row.cost.get("seconds_per_epoch"), base.cost.get("seconds_per_epoch") if base else None
    return own / basis if own and basis else None


def published(row: Row) -> Published | None:
    """What the paper reports for a method; None where it has no such row, or no number in it."""
    known = METHODS.get(row.method)
    if known is None or (row.architecture and row.architecture not in known.rows):
        return None
    paper = known.row(row.architecture or None).paper
    return paper if paper != Published() else None


PAPER = (
    ("linear", "Linear probe, %", "linear_probe", 1),
    ("l1", "L1", "l1", 2),
    ("ssim", "SSIM", "ssim", 2),
    ("is", "IS", "inception_score", 1),
    ("fid", "FID", "fid", 1),
)
"""What both measured: family of keys, title, attribute of `Published`, digits of a difference between its numbers."""


@dataclass(frozen=True)
class Pair:
    """A number of ours and the paper's, each with its difference to the baseline's; empty where there is none."""

    ours: str
    our_gain: str
    theirs: str
    their_gain: str


def paper_rows(comparison: Comparison) -> tuple[list[str], list[tuple[Row, list[Pair]]]]:
    """Titles, and by method the pairs beneath them. Empty where the paper has none of the methods.

    A Fréchet distance with another network than Inception is not the paper's FID, and is not put beside it.
    """
    rows = [(row, paper) for row in comparison.of(METHOD) if (paper := published(row)) is not None]
    base = baseline(comparison, [row for row, _ in rows])
    basis = METHODS[BASELINE].row(None).paper
    shown = {one.key.split("/")[0]: one for one in reversed(columns(comparison)) if not one.key.endswith("top5")}
    table = []
    for row, paper in rows:
        pairs = []
        for family, _, attribute, digits in PAPER:
            one = shown.get(family)
            spread = row.metrics.get(one.key) if one else None
            zero = base.metrics.get(one.key) if one and base and base is not row else None
            gain = one.value(spread.mean - zero.mean) if one and spread and zero else None
            theirs, other = getattr(paper, attribute), getattr(basis, attribute)
            apart = theirs - other if theirs is not None and other is not None and row.method != BASELINE else None
            pairs.append(
                Pair(
                    UNKNOWN if one is None or spread is None else one.text(spread.mean),
                    "" if gain is None or one is None else _signed(gain, one.digits),
                    UNKNOWN if theirs is None else _as_printed(theirs, digits),
                    "" if apart is None else _signed(apart, digits),
                )
            )
        table.append((row, pairs))
    return [title for _, title, _, _ in PAPER], table


def _as_printed(value: float, digits: int) -> str:
    """A number of the paper's, which has at least so many digits after its point."""
    return max(f"{value:g}", f"{value:.{digits}f}", key=len)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


# -- Markdown ----------------------------------------------------------------------------------------------------------


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown; the first column stands left, numbers right."""
    head = [escaped(cell) for cell in head]
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\|*_`[]<>#" else letter for letter in line)


def metrics_markdown(comparison: Comparison) -> str:
    """The table of `columns`, best numbers bold, floors and published models below the methods."""
    shown = columns(comparison)
    if not shown:
        return "Nothing has been measured yet."
    arrows = {True: " ↑", False: " ↓", None: ""}
    head = ["Method", *(one.head + arrows[one.higher] for one in shown)]
    lines = []
    for row in comparison.of(METHOD, FLOOR, PUBLISHED):
        line = [escaped(row.name) if row.kind == METHOD else f"*{escaped(row.name)}* ({row.kind})"]
        for cell in cells(comparison, row, shown):
            mean = f"**{cell.mean}**" if cell.best else cell.mean
            remark = f"({escaped(cell.remark)})" if cell.remark else ""
            line.append(" ".join(part for part in (mean, cell.spread, remark) if part))
        lines.append(line)
    return markdown_table(head, lines)
