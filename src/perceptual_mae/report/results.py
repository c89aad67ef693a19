"""What the best evaluation of a fine-tuning run measured, class by class: `results.json`, written and read."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from perceptual_mae.report.run_folder import read_mapping
from perceptual_mae.report.words import is_number

if TYPE_CHECKING:
    from perceptual_mae.transfer.loop import Evaluated
    from perceptual_mae.transfer.task import Task

RESULTS = "results.json"
"""File in the run folder."""


def results_of(evaluated: "Evaluated", task: "Task") -> dict[str, Any]:
    """What a task measured in its last evaluation, as plain values for JSON; what is no finite number is null.

    `metrics` holds the numbers over all classes, `classes` an entry for each with its own: `recall` of images that were
    classified, else what the task calls `NAME/CLASS` among its metrics, under the name `NAME`. Where a task knows what
    classes are taken for, an entry also says for which one most often, and for which share of its images or pixels.
    """
    classes = task.train.classes
    known = set(classes)
    overall, by_class = {}, {name: dict[str, Any]() for name in classes}
    for key, value in evaluated.metrics.items():
        measure, _, name = key.partition("/")
        if name in known:
            by_class[name][measure] = value
        else:
            overall[key] = value
    found: dict[str, Any] = {"task": task.name, "step": evaluated.step, "metric": task.metric, "metrics": overall}
    scores = getattr(task, "scores", None)
    if scores is not None:
        found |= {"interval": list(scores.interval), "images": scores.count, "notes": list(scores.notes)}
    confusion = confusion_of(task)
    entries = []
    for label, name in enumerate(classes):
        entry = {"name": name, **by_class[name]}
        if scores is not None:
            entry |= {"recall": scores.per_class[label], "images": int(scores.confusion[label].sum())}
        entries.append(entry | ({} if confusion is None else _taken_for(confusion[label], label, classes)))
    return _finite(found | {"classes": entries})


def confusion_of(task: "Task") -> Tensor | None:
    """`(K, K)`: images or pixels by their class and by what they were called; None where a task does not count them."""
    scores = getattr(task, "scores", None)
    found = getattr(task, "confusion", None) if scores is None else scores.confusion
    return found if isinstance(found, Tensor) else None


def _taken_for(row: Tensor, label: int, classes: Sequence[str]) -> dict[str, Any]:
    """The class that a class is most often taken for, and the share of it; empty where it never is."""
    wrong = row.clone()
    wrong[label] = 0
    most = int(wrong.argmax())
    return {"taken_for": classes[most], "taken_share": int(wrong[most]) / int(row.sum())} if wrong[most] > 0 else {}


def _finite(value: Any) -> Any:
    """The same with null for every number that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class ClassResult:
    """What was measured of a class.

    Attributes:
        name: of the class.
        values: by measure; None where it could not be measured.
        images: on which it was measured; None: not known, or it is pixels that count.
        taken_for: the class that it is most often taken for, and for which share; None: none, or not known.
    """

    name: str
    values: Mapping[str, float | None]
    images: int | None = None
    taken_for: tuple[str, float] | None = None


@dataclass(frozen=True)
class Results:
    """`results.json` as far as it can be used; empty where it is missing.

    Attributes:
        step: of the evaluation; None: not known.
        metrics: over all classes.
        interval: 95 % confidence interval of `top1`; None: not known.
        measures: of the classes, in the order in which they are named; the first is what classes are sorted by.
        classes: the worst first, those that could not be measured last.
        notes: what a reader of the numbers has to know, a sentence each.
    """

    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    measures: tuple[str, ...] = ()
    classes: tuple[ClassResult, ...] = ()
    notes: tuple[str, ...] = ()


def read_results(run: Path, notes: list[str]) -> Results:
    """Read `results.json` of a run; what is missing or broken is said in `notes`, and left out."""
    content = read_mapping(run / RESULTS, json.loads, notes, "so there are no numbers class by class")
    metrics, interval, step = content.get("metrics"), content.get("interval"), content.get("step")
    entries = content.get("classes")
    dicts = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    measures = tuple(dict.fromkeys(str(key) for one in dicts for key in one if key not in _NO_MEASURE))
    classes = [_class(one, measures) for one in dicts]
    told = content.get("notes")
    pair = [float(one) for one in interval if is_number(one)] if isinstance(interval, list) else []
    return Results(
        step=step if isinstance(step, int) else None,
        metrics={str(k): float(v) for k, v in metrics.items() if is_number(v)} if isinstance(metrics, dict) else {},
        interval=(pair[0], pair[1]) if len(pair) == 2 else None,
        measures=measures,
        classes=tuple(sorted(classes, key=lambda one: _rank(one, measures))),
        notes=tuple(map(str, told)) if isinstance(told, list) else (),
    )


_NO_MEASURE = ("name", "images", "taken_for", "taken_share")


def _class(entry: Mapping[str, Any], measures: Sequence[str]) -> ClassResult:
    values = {one: float(entry[one]) if is_number(entry.get(one)) else None for one in measures}
    images, other, share = entry.get("images"), entry.get("taken_for"), entry.get("taken_share")
    taken_for = (other, float(share)) if isinstance(other, str) and is_number(share) else None
    return ClassResult(str(entry.get("name", "")), values, images if isinstance(images, int) else None, taken_for)


def _rank(one: ClassResult, measures: Sequence[str]) -> float:
    value = one.values[measures[0]] if measures else None
    return math.inf if value is None else value
