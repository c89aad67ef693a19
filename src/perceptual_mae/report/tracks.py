"""What a run logged, by key: `metrics.jsonl` read once, in bounded memory, whatever its length."""

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CAP = 4096
"""A track is thinned to half whenever it holds twice this many points: more than any screen has pixels."""
FULLY_READ = 16 << 20
"""Bytes of metrics that are read line by line; of a file n times as long, one line in n is."""
KEYS = 512
"""Keys beyond this many are not numbers over time but a mistake, and are ignored."""


@dataclass
class Track:
    """One logged number over the steps; the first and the latest point are always kept."""

    steps: array = field(default_factory=lambda: array("d"))
    values: array = field(default_factory=lambda: array("d"))
    latest: tuple[float, float] = (0.0, 0.0)
    seen: int = 0
    stride: int = 1

    def add(self, step: float, value: float) -> None:
        """Append a point. A step that was logged before replaces what came after it: the run was resumed from there."""
        if self.seen and step <= self.latest[0]:
            while self.steps and self.steps[-1] >= step:
                self.steps.pop()
                self.values.pop()
        if self.seen % self.stride == 0:
            self.steps.append(step)
            self.values.append(value)
            if len(self.steps) >= 2 * CAP:
                self.steps, self.values, self.stride = self.steps[::2], self.values[::2], self.stride * 2
        self.seen += 1
        self.latest = (step, value)

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Steps and values, `(n,)` each; a value that is not finite is NaN."""
        steps, values = np.array(self.steps), np.array(self.values)
        if len(steps) == 0 or steps[-1] < self.latest[0]:
            steps, values = np.append(steps, self.latest[0]), np.append(values, self.latest[1])
        return steps, np.where(np.isfinite(values), values, np.nan)

    def at(self, step: float) -> float | None:
        """The last value logged up to `step`."""
        steps, values = self.points()
        index = int(np.searchsorted(steps, step, side="right")) - 1
        return float(values[index]) if index >= 0 and math.isfinite(values[index]) else None


@dataclass
class Damage:
    """Lines of a `metrics.jsonl` that are no record."""

    lines: int = 0
    last_line_cut: bool = False


def read_records(path: Path, damage: Damage) -> Iterator[dict[str, Any]]:
    """The records of a `metrics.jsonl`, one at a time; what cannot be read is counted in `damage` and passed over."""
    for line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        step: Any = record.get("step") if isinstance(record, dict) else None
        if _is_number(step) and math.isfinite(step):
            yield record
        else:
            damage.lines += 1
            damage.last_line_cut = not line.endswith(b"\n")


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file; of a long one every so many, the last, and any with other keys than before it.

    So a million steps are read in a second or two, and no validation among them is lost.
    """
    stride, keys, held = 1 + path.stat().st_size // FULLY_READ, -1, b""
    with path.open("rb") as file:
        for index, line in enumerate(file):
            if stride > 1:
                before, keys = keys, line.count(b'":')
                if index % stride and keys == before:
                    held = line
                    continue
            held = b""
            yield line
    if held:
        yield held


def tracks(records: Iterable[Mapping[str, Any]]) -> dict[str, Track]:
    """One track a numeric key of `records`, each with a numeric `step`. Text, lists and the like are passed over."""
    found: dict[str, Track] = {}
    for record in records:
        step = float(record["step"])
        for key, value in record.items():
            if key == "step" or not _is_number(value):
                continue
            track = found.get(key)
            if track is None:
                if len(found) >= KEYS:
                    continue
                track = found[key] = Track()
            track.add(step, float(value))
    return found


def _is_number(value: Any) -> bool:
    # bool is an int; and a whole number of a thousand digits is valid JSON, yet no float.
    return isinstance(value, float | np.floating) or (type(value) is int and abs(value) < 1 << 63)
