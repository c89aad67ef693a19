"""What a fine-tuning run comes to, in plain words and a few numbers."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perceptual_mae.report.panels import pretty
from perceptual_mae.report.results import Results
from perceptual_mae.report.run_folder import RunRecord
from perceptual_mae.report.story import Fact, accuracy, chance, cost_facts, course, plain
from perceptual_mae.report.tracks import Track
from perceptual_mae.report.words import UNKNOWN, compact, count, is_number, percent

NAMES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "miou": "mean IoU",
}
"""Metrics and measures as a headline has them; others are as `panels.pretty` has them."""
FACTS = ("top5", "pixel_accuracy", "mean_accuracy", "mask_ap", "box_ap50")
"""Metrics beside the best one that have a place at the top."""
MEANINGS = {
    "top1": "the first guess is right for {} of the validation images",
    "miou": "of the area that is a class or is called it, {} is both: intersection over union, all validation images "
    "together, averaged over the classes",
    "box_ap": "the average precision of boxes is {}, as COCO counts it: a mean over the classes and over how far a "
    "predicted box must overlap the true one (IoU 0.5 to 0.95); what is found twice or is not there counts against it",
}
OUTLINES = {"box": "Boxes, on", "mask": "Masks, on"}
LEARNT = {
    "classification": "taught to tell {} apart",
    "detection": "taught to find and outline objects of {}",
    "segmentation": "taught to name the class of every pixel, among {}",
}
PICTURED = {
    "classification": "Under each image its true class, and below that what the network takes it for: green where that "
    "is right, red where its first guess is wrong.",
    "detection": "The objects that were marked by hand, and those that the network finds with a score of at least "
    "0.5. Where names would cover each other, those of the best objects are shown.",
    "segmentation": "From left to right: the image, its classes as they were marked by hand, and what the network "
    "says. Places without a class stay as they are.",
}


MOST = 500
"""Classes in the table: the rest, which are better, is in `results.json`."""


@dataclass(frozen=True)
class Best:
    """The best that a run has reached: which metric, what it is called, its value in [0, 1], and after which step."""

    metric: str
    name: str
    value: float
    step: int | None


@dataclass(frozen=True)
class Line:
    """A row of a table of numbers.

    Attributes:
        name: of the class or the metric.
        values: one a measure.
        bar: the first of them in percent; None where it is not known.
        images: on how many it was measured.
        taken_for: what the class is most often taken for, and how often; empty where it never is.
    """

    name: str
    values: list[str]
    bar: float | None
    images: str
    taken_for: tuple[str, str] | None


def task(run: RunRecord) -> str:
    """What the run learns; a word."""
    return plain(run.config.get("task"))


def best(run: RunRecord, results: Results) -> Best | None:
    """The best evaluation by the run's own metric; None before the first one."""
    metric = run.info.get("metric")
    if not isinstance(metric, str):
        return None
    if metric in results.metrics:
        return Best(metric, measure(metric), results.metrics[metric], results.step)
    track = run.tracks.get(f"validation/{metric}")
    if track is None or not np.isfinite(track.points()[1]).any():
        return None
    steps, values = track.points()
    place = int(np.nanargmax(values))
    return Best(metric, measure(metric), float(values[place]), int(steps[place]))


def measure(key: str) -> str:
    """A metric or measure in words."""
    return NAMES.get(key, pretty(key))


def meaning(run: RunRecord, best: Best | None, results: Results) -> str:
    """What the headline says, for somebody who does not know the metric."""
    if best is None:
        return "Nothing has been measured yet."
    words = MEANINGS.get(best.metric, f"{best.name} is {{}}")
    words = words.format(accuracy(best.value))
    if results.interval is not None and best.metric == "top1":
        low, high = results.interval
        words += f" (95 % interval {percent(low)} to {percent(high)})"
    if best.metric == "top1" and (guessing := chance(run)):
        words += f"; guessing would be right for {guessing.removeprefix('chance: ')}"
    where = f" This is the best evaluation, after step {count(best.step)}." if best.step is not None else ""
    return f"{words[:1].upper()}{words[1:]}.{where}"


def summary(run: RunRecord) -> list[str]:
    """The run in a few plain sentences."""
    data, model = run.section("data"), run.section("model")
    classes = data.get("classes")
    learnt = LEARNT.get(task(run), "").format(_many(len(classes), "class")) if isinstance(classes, list) else ""
    size = f" of {compact(model['parameters'])} parameters" if is_number(model.get("parameters")) else ""
    images = f" on {_many(data['images'], 'image')}" if is_number(data.get("images")) else ""
    source = f" of {plain(run.config['data'])}" if run.config.get("data") else ""
    encoder = plain(run.config.get("encoder"))
    who = f"The encoder {encoder}" if encoder != UNKNOWN else "An encoder"
    return [f"{who} with a head, a network{size}, {learnt or 'fine-tuned'}{images}{source}.", course(run)]


def facts(run: RunRecord, best: Best | None, results: Results) -> list[Fact]:
    """The numbers at the top of the page; only those that are known."""
    known = [key for key in FACTS if key in results.metrics]
    found = [Fact(_capital(measure(key)), accuracy(results.metrics[key]), "of the same network") for key in known]
    latest = run.latest(f"validation/{best.metric}") if best else None
    if best is not None and is_number(latest) and latest != best.value:
        found.append(Fact(f"Last {best.name}", accuracy(latest), f"best: {accuracy(best.value)}"))
    if is_number(images := run.section("data").get("validation_images")):
        found.append(Fact("Validation images", count(images), "not trained on" if apart(run) else ""))
    return found + cost_facts(run)


def apart(run: RunRecord) -> bool:
    """Whether the validation images are other ones than those that are trained on, as far as the settings tell."""
    return run.config.get("val_data") != run.config.get("data")


def curves(run: RunRecord) -> dict[str, Track]:
    """What is drawn over the steps: everything but the numbers of single classes, which would be too many curves."""
    classes = run.section("data").get("classes")
    names = set(map(str, classes)) if isinstance(classes, list) else set()
    return {key: track for key, track in run.tracks.items() if key.split("/", 2)[2:] == [] or _last(key) not in names}


def shares(found: Mapping[str, Track]) -> dict[str, list[str]]:
    """The curves of what was measured on validation images, each a share, by the title that they stand under."""
    groups: dict[str, list[str]] = {}
    for key in found:
        if key.startswith("validation/"):
            kind = next((title for start, title in OUTLINES.items() if key.startswith(f"validation/{start}_")), "")
            groups.setdefault(f"{kind or 'On'} validation images", []).append(key)
    return groups


def class_note(results: Results) -> str:
    """What the numbers of the table are."""
    first = results.measures[0] if results.measures else ""
    return {
        "recall": "Of the validation images of each class, the share that is recognised, the worst first.",
        "iou": "Intersection over union of each class over all validation images, the worst first.",
        "box_ap": "Average precision of each class, the worst first.",
    }.get(first, "The numbers of each class, the worst first.")


def number_lines(best: Best | None, results: Results) -> list[Line]:
    """The table of all metrics; empty where they stand at the top of the page already."""
    shown = {*FACTS, best.metric if best else ""}
    if results.metrics.keys() <= shown:
        return []
    overall = results.metrics.items()
    return [Line(_capital(measure(key)), [_tenths(value)], _bar(value), UNKNOWN, None) for key, value in overall]


def class_lines(results: Results) -> list[Line]:
    """The table of classes, at most `MOST` rows of it."""
    if not results.measures:
        return []
    lines = []
    for one in results.classes[:MOST]:
        values = [one.values[key] for key in results.measures]
        taken_for = None if one.taken_for is None else (one.taken_for[0], _tenths(one.taken_for[1]))
        lines.append(Line(one.name, list(map(_tenths, values)), _bar(values[0]), count(one.images), taken_for))
    return lines


def model_rows(run: RunRecord) -> list[tuple[str, str]]:
    """The network's table."""
    model, config = dict(run.section("model")), run.config
    size = model.pop("image_size", config.get("image_size"))
    pair = isinstance(size, list) and len(size) == 2 and all(map(is_number, size))
    parameters, encoder = model.pop("parameters", None), model.pop("encoder_parameters", None)
    rows = [
        ("Encoder", plain(config.get("encoder"))),
        ("Its weights", plain(model.pop("encoder", None))),
        ("Parameters", count(parameters)),
        ("of these, encoder", count(None if encoder == parameters else encoder)),  # a classifier is part of timm's
        ("Image size", " × ".join(map(count, size)) if pair else plain(size)),
        ("Recipe", plain(config.get("recipe"))),
    ]
    rows += [(pretty(str(key)), plain(value)) for key, value in model.items()]
    return [(name, value) for name, value in rows if value != UNKNOWN]


def run_notes(run: RunRecord) -> list[str]:
    """What the run had to say of its data, a sentence each."""
    notes = run.info.get("notes")
    return [_capital(plain(note)) for note in notes] if isinstance(notes, list) else []


def command(run: RunRecord) -> str:
    """The line that repeats the run from where it was started."""
    out = _out(run)
    config = shlex.quote(out + "/config.yaml")
    return f"pmae finetune {shlex.quote(task(run))} --config {config} --out {shlex.quote(out + '-again')}"


def use(run: RunRecord) -> str:
    """The line that predicts with what was learnt."""
    return f"pmae predict {shlex.quote(_out(run))} ./images --out predictions"


def _tenths(share: float | None) -> str:
    """A share in percent with one decimal, so that columns of them can be compared."""
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


def _bar(share: float | None) -> float | None:
    return None if share is None else round(100 * min(1.0, max(0.0, share)), 1)


def _out(run: RunRecord) -> str:
    return str(run.config.get("out") or run.path.resolve().name).rstrip("/")


def _many(number: float, word: str) -> str:
    several = f"{word}es" if word.endswith("s") else f"{word}s"
    return f"{count(number)} {word if number == 1 else several}"


def _last(key: str) -> str:
    return key.split("/", 2)[-1]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
