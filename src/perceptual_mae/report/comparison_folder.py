"""A comparison as its folder tells it: `results.json` and the runs beside it. What is broken or missing is noted."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.report.run_folder import RunRecord, read_run
from perceptual_mae.report.words import is_number

RESULTS = "results.json"
METHOD, FLOOR, PUBLISHED = "method", "floor", "published"
KINDS = (METHOD, FLOOR, PUBLISHED)


@dataclass(frozen=True)
class Spread:
    """One number measured with several seeds.

    Attributes:
        values: one a seed, at least one.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over the seeds (n - 1 in the denominator); None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Row:
    """What was measured of one method, of one floor (raw pixels, a random model) or of one published model.

    Attributes:
        kind: one of `KINDS`.
        method: a key of `METHODS` for a method.
        architecture: of a method: its generator.
        runs: names of the run folders.
        metrics: by key, as `results.json` names them.
        cost: seconds, parameters and memory, by key.
        failed: why there is not everything; empty where there is.
        colour: number of its colour; every drawing of the page uses it.
    """

    name: str
    kind: str
    method: str
    architecture: str
    runs: list[str]
    metrics: Mapping[str, Spread]
    cost: Mapping[str, float]
    failed: str
    colour: int


@dataclass(frozen=True)
class Comparison:
    """A comparison at any stage.

    Attributes:
        state: finished, running or unknown.
        rows: methods first, then floors, then published models, each in the order of the file.
        records: the runs that could be read, by the name of their folder.
        pictures: files by name, only those that are there.
        notes: what is missing or could not be read, a sentence each.
    """

    path: Path
    state: str
    data: Mapping[str, Any]
    setup: Mapping[str, Any]
    command: str
    protocols: Mapping[str, str]
    rows: list[Row]
    records: Mapping[str, RunRecord]
    pictures: Mapping[str, Path]
    notes: list[str] = field(default_factory=list)

    def of(self, *kinds: str) -> list[Row]:
        """The rows of some kinds."""
        return [row for row in self.rows if row.kind in kinds]

    @property
    def seeds(self) -> int:
        """The largest number of values behind any number of a method; 0 where nothing was measured."""
        return max((len(one.values) for row in self.of(METHOD) for one in row.metrics.values()), default=0)


def read_comparison(folder: Path) -> Comparison:
    """Read the folder of a comparison.

    Raises:
        UsageError: there is no `results.json`.
        PmaeError: it cannot be read.
    """
    file = folder / RESULTS
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{folder} holds no comparison: it has no {RESULTS}; give the folder that `pmae compare --out` wrote"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise PmaeError(f"{file} could not be read ({error}); repeat `pmae compare`, which writes it anew") from error
    if not isinstance(content, dict):
        raise PmaeError(f"{file} does not hold named values; repeat `pmae compare`, which writes it anew")
    notes = [str(note) for note in _list(content.get("notes"))]
    rows = _rows(content.get("rows"))
    return Comparison(
        path=folder,
        state=str(content.get("state", "unknown")),
        data=_mapping(content.get("data")),
        setup=_mapping(content.get("setup")),
        command=str(content.get("command") or ""),
        protocols={key: str(value) for key, value in _mapping(content.get("protocols")).items()},
        rows=rows,
        records=_records(folder, [run for row in rows for run in row.runs], notes),
        pictures=_pictures(folder, _mapping(content.get("pictures")), notes),
        notes=notes,
    )


def _rows(found: Any) -> list[Row]:
    known = [row for row in _list(found) if isinstance(row, dict)]
    ordered = sorted(known, key=lambda row: KINDS.index(_kind(row)))
    return [
        Row(
            name=str(row.get("name") or "unnamed"),
            kind=_kind(row),
            method=str(row.get("method") or ""),
            architecture=str(row.get("architecture") or ""),
            runs=[str(run) for run in _list(row.get("runs"))],
            metrics=_metrics(_mapping(row.get("metrics"))),
            cost={key: float(value) for key, value in _mapping(row.get("cost")).items() if is_number(value)},
            failed=str(row.get("failed") or ""),
            colour=place,
        )
        for place, row in enumerate(ordered)
    ]


def _kind(row: Mapping[str, Any]) -> str:
    return str(row.get("kind")) if row.get("kind") in KINDS else METHOD


def _metrics(found: Mapping[str, Any]) -> dict[str, Spread]:
    """Numbers by key; a seed without one (it failed, or has not come to it) is left out."""
    values = {key: tuple(float(value) for value in _list(seeds) if is_number(value)) for key, seeds in found.items()}
    return {key: Spread(numbers) for key, numbers in values.items() if numbers}


def _records(folder: Path, names: Sequence[str], notes: list[str]) -> dict[str, RunRecord]:
    records = {}
    for name in names:
        try:
            records[name] = read_run(folder / name)
        except (UsageError, OSError):
            notes.append(f"{name} is no run folder (it has no config.yaml), so its curves are not shown.")
    return records


def _pictures(folder: Path, named: Mapping[str, Any], notes: list[str]) -> dict[str, Path]:
    files = {str(name): folder / str(path) for name, path in named.items() if path}
    notes += [f"The picture {file.name} is not there." for file in files.values() if not file.is_file()]
    return {name: file for name, file in files.items() if file.is_file()}


def _mapping(value: Any) -> Mapping[str, Any]:
    return {str(key): part for key, part in value.items()} if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if is_number(value) else []
