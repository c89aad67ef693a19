"""The answer of a comparison: which loss suits the images, and how sure that is, computed from the numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perceptual_mae.report.comparison_folder import FLOOR, METHOD, PUBLISHED, Comparison, Row, Spread
from perceptual_mae.report.comparison_table import (
    DISTANCES,
    Measure,
    baseline,
    best,
    columns,
    highest,
    relative_time,
)
from perceptual_mae.report.words import count, duration, is_number

NAMED = 3
"""From this many rivals on the answer names nobody."""


@dataclass(frozen=True)
class Verdict:
    """The answer in a few words and in a few sentences.

    Attributes:
        answer: the method's name, or what stands in its place.
        colour: number of the colour of the one method that is the answer; None where there is no such one.
    """

    answer: str
    colour: int | None
    sentences: list[str]


def verdict(comparison: Comparison) -> Verdict:
    """Which loss suits the images, by the linear probe, or else by k-NN; without labels nobody can say."""
    one = judge(comparison)
    running = comparison.state == "running"
    if one is None:
        return _without_labels(comparison)
    first = best(comparison, one)
    assert first is not None
    others = [row for row in comparison.of(METHOD) if one.key in row.metrics and row is not first]
    rivals = [row for row in others if level(one, first.metrics[one.key], row.metrics[one.key])]
    if not others:
        answer = f"Only {first.name} so far" if running else f"Only {first.name}"
    elif len(rivals) >= NAMED:
        answer = "No clear answer"
    else:
        answer = _either([first.name, *(row.name for row in rivals)])
        answer += ", so far" if running else _on_one_seed(one, [first, *rivals], others)
    sentences = [_lead(comparison, one, first, rivals), _beside_baseline(comparison, one, first)]
    sentences += _sureness(comparison, one, first)
    sentences += [*_scale(comparison, one, first), _price(comparison, first), _failures(comparison)]
    return Verdict(answer, None if rivals or not others else first.colour, [line for line in sentences if line])


def _on_one_seed(one: Measure, named: Sequence[Row], others: Sequence[Row]) -> str:
    """Whether one seed decides: of a method that the answer names, or of the next where it names the best alone."""

    def single(row: Row) -> bool:
        return row.metrics[one.key].deviation is None

    if any(map(single, named)):
        return ", on one seed"
    second = max(others, key=lambda row: row.metrics[one.key].mean)
    return f", on one seed of {second.name}" if len(named) == 1 and single(second) else ""


def level(one: Measure, first: Spread, other: Spread) -> bool:
    """Whether neither number is told to be the better: they read the same, or their ranges have a point in common.

    One seed has no range: it is a point, which may lie within the other's.
    """
    reach = (first.deviation or 0.0) + (other.deviation or 0.0)
    return one.text(first.mean) == one.text(other.mean) or abs(first.mean - other.mean) <= reach


def judge(comparison: Comparison) -> Measure | None:
    """The number that the methods are judged by."""
    shown = [one for one in columns(comparison) if best(comparison, one) is not None]
    for family in ("linear", "knn"):
        for one in shown:
            if one.key.startswith(f"{family}/") and one.key.endswith("top1"):
                return one
    return None


def _lead(comparison: Comparison, one: Measure, first: Row, rivals: Sequence[Row]) -> str:
    """Who is best, and who cannot be told from it."""
    measured = sum(one.key in row.metrics for row in comparison.of(METHOD))
    what = lower(one.short)
    value = f"{one.spread(first.metrics[one.key])}{one.unit}"
    if measured == 1:
        so_far = " so far" if comparison.state == "running" else ""
        return f"{first.name} is the only method that was measured{so_far}: {value} in the {what}."
    if not rivals:
        return f"Of {measured} methods, {first.name} does best on these images: {value} in the {what}."
    if len(rivals) >= NAMED:
        ranges = any(row.metrics[one.key].deviation is not None for row in (first, *rivals))
        near = "within the spread of the seeds" if ranges else "too close to tell apart"
        return (f"Of {measured} methods, {first.name} has the highest {what} on these images, {value}, but "
                f"{len(rivals)} others are {near}.")  # fmt: skip
    names = _and([row.name for row in (first, *rivals)])
    values = _and([f"{one.spread(row.metrics[one.key])}{one.unit}" for row in (first, *rivals)])
    return f"Of {measured} methods, {names} do best on these images: {values} in the {what}, too close to tell apart."


def _beside_baseline(comparison: Comparison, one: Measure, first: Row) -> str:
    """The difference to the plain masked autoencoder; where that is the best itself, to the second."""
    rows = [row for row in comparison.of(METHOD) if one.key in row.metrics and row is not first]
    if not rows:
        return ""
    second = max(rows, key=lambda row: row.metrics[one.key].mean)
    base = baseline(comparison, rows) or second
    own, other = first.metrics[one.key], base.metrics[one.key]
    if one.text(own.mean) == one.text(other.mean):
        return ""  # the lead says that they are level
    points = f"{first.name} is {one.text(own.mean - other.mean)} points above {base.name}"
    points += f" ({one.spread(other)}{one.unit})"
    if level(one, own, other):
        return f"{points}, which is within the spread of the seeds."
    single = own.deviation is None or other.deviation is None
    return f"{points}." if single else f"{points}, more than the spread of the seeds."


def _sureness(comparison: Comparison, one: Measure, first: Row) -> list[str]:
    """How far seeds and test images can be trusted, where there is something to tell apart."""
    measured = [row for row in comparison.of(METHOD) if one.key in row.metrics]
    if len(measured) < 2:
        return []
    said = []
    seeds = {row.name: len(row.metrics[one.key].values) for row in measured}
    single = [name for name, values in seeds.items() if values == 1]
    if single and comparison.state != "running":
        which = "It is one seed" if len(single) == len(seeds) else f"Of {_and(single)} there is one seed"
        said.append(f"{which}: how far another seed would move the numbers is not known, so a small difference "
                    "means little; repeat with --seeds 3.")  # fmt: skip
    if 2 in seeds.values() and comparison.state != "running":
        said.append("Two seeds say little about a spread; a third would say more.")
    images, share = comparison.data.get("validation_images"), first.metrics[one.key].mean
    if is_number(images) and images > 0 and 0 < share < 1:
        # Normal approximation of the binomial distribution.
        around = 1.96 * math.sqrt(share * (1 - share) / images)
        if min(share - row.metrics[one.key].mean for row in measured if row is not first) < around:
            said.append(f"With {count(images)} test images each of these figures is good to about ±{one.text(around)} "
                        "points (95 %); as the methods share the images, their differences are surer.")  # fmt: skip
    return said


def _scale(comparison: Comparison, one: Measure, first: Row) -> list[str]:
    """Where the methods stand between what needs no training and what is published."""
    floor, top = highest(comparison, FLOOR, one), highest(comparison, PUBLISHED, one)
    said = []
    if floor and first.metrics[one.key].mean <= floor[1].mean:
        said.append(f"No method is above the floor, {floor[0].name} with {one.text(floor[1].mean)}{one.unit}: so far "
                    "the pre-training has not helped.")  # fmt: skip
    elif floor:
        said.append(f"The floor is {floor[0].name} with {one.text(floor[1].mean)}{one.unit}.")
    if top:
        said.append(f"The published {top[0].name} reaches {one.text(top[1].mean)}{one.unit}.")
    return said


def _price(comparison: Comparison, first: Row) -> str:
    times, seconds, base = relative_time(comparison, first), first.cost.get("seconds_per_epoch"), baseline(comparison)
    if base is first:
        return f"An epoch takes {duration(seconds)}." if is_number(seconds) else ""
    if times is None or base is None:
        return ""
    took = f" ({duration(seconds)})" if is_number(seconds) else ""
    return f"An epoch of {first.name} takes {times:.2g} times as long as one of {base.name}{took}."


def _failures(comparison: Comparison) -> str:
    failed = [row.name for row in comparison.of(METHOD) if row.failed]
    return f"{_and(failed)} failed: the reason stands below the table of numbers." if failed else ""


def _without_labels(comparison: Comparison) -> Verdict:
    running = comparison.state == "running"
    shown = [one for one in columns(comparison) if best(comparison, one) is not None]
    failed = [line for line in [_failures(comparison)] if line]
    if not shown:
        why = "The first numbers come when a method has been trained." if running else "No method could be measured."
        return Verdict("Not known yet" if running else "Not known", None, [why, *failed])
    if running:
        answer = "Not known yet"
        why = "Which encoder is best is not known yet: no classifier has been trained on the features so far."
    elif comparison.data.get("classes"):
        answer, why = "Not known", "Which encoder is best is not known: no classifier was trained on the features."
    else:
        answer = "Not known without labels"
        why = ("Which encoder is best is not known, because no classifier was trained on the features: that takes "
               "labelled images, for instance one sub-folder a class.")  # fmt: skip
    said = []
    for one in shown:
        row = best(comparison, one)
        assert row is not None
        value = one.spread(row.metrics[one.key])
        if one.key.startswith(DISTANCES):
            network = f" in {one.detail}" if one.detail else ""
            named = f"By {one.short}{network}"
            said.append(f"{named} the reconstructions of {row.name} are nearest to the images ({value}).")
        elif one.key == "l1":
            said.append(f"By L1 the reconstructions of {row.name} have the smallest error ({value}).")
    return Verdict(answer, None, [why, *said, *failed])


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def lower(title: str) -> str:
    """A title within a sentence; k-NN keeps its letters."""
    return title if title.startswith("k-") else title[:1].lower() + title[1:]
