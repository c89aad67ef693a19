"""What a comparison compared, in a few numbers and words."""

from typing import Any

from perceptual_mae.report.comparison_folder import FLOOR, METHOD, PUBLISHED, Comparison, Row
from perceptual_mae.report.comparison_table import (
    DISTANCES,
    POOL_WORDS,
    Measure,
    baseline,
    best,
    columns,
    highest,
    measure,
    relative_time,
)
from perceptual_mae.report.comparison_verdict import judge, level, lower
from perceptual_mae.report.panels import pretty
from perceptual_mae.report.story import Fact, plain
from perceptual_mae.report.words import UNKNOWN, count, duration, epochs, is_number, percent

SPREAD_NOTE = (
    "± is the sample standard deviation over the seeds (n - 1 in the denominator; with two seeds that is 0.71 times "
    "their distance). Two methods count as told apart where their ranges, mean ± deviation, have no point in common: "
    "with few seeds this is a rule of thumb and not a test."
)
PAPER_NOTE = (
    "The paper's figures are of ViT-B pre-trained on ImageNet at 224 pixels (arXiv 2212.14504, Tables 1 and 2), "
    "measured on ImageNet's validation images. They are another experiment: compare the order of the methods and the "
    "differences between them, never a number with its neighbour."
)
FACTS = 6
"""At most this many numbers at the top: a row of them on a screen."""


def facts(comparison: Comparison) -> list[Fact]:
    """The numbers at the top of the page; only those that are known."""
    found = []
    one = judge(comparison)
    first = best(comparison, one) if one else None
    if one and first:
        own = first.metrics[one.key]
        value = f"{one.text(own.mean)}{one.unit}"
        found.append(Fact(f"Best {lower(one.short)}", value, _behind(comparison, one, first)))
        base = baseline(comparison)
        if base and base is not first and one.key in base.metrics:
            gain = f"{one.text(own.mean - base.metrics[one.key].mean)} points"
            found.append(Fact(f"Above {base.name}", gain, _judged(one, first, base)))
        for kind, title in ((FLOOR, "Floor"), (PUBLISHED, "Published")):
            if scale := highest(comparison, kind, one):
                found.append(Fact(title, f"{one.text(scale[1].mean)}{one.unit}", scale[0].name))
        if is_number(seconds := first.cost.get("seconds_per_epoch")):
            times = relative_time(comparison, first)
            beside = f"{times:.2g} × {base.name}" if times and base and base is not first else ""
            found.append(Fact("An epoch of it", duration(seconds), beside))
    shown = columns(comparison)
    for families in (DISTANCES, ("l1",)):
        error = next((one for one in shown if one.key.startswith(families)), None)
        row = best(comparison, error) if error else None
        if error and row:
            value = error.text(row.metrics[error.key].mean)
            found.append(Fact(f"Lowest {error.short}", value, _behind(comparison, error, row)))
    return found[:FACTS]


def _judged(one: Measure, first: Row, base: Row) -> str:
    """How sure the difference of two methods is."""
    single = [row.name for row in (first, base) if row.metrics[one.key].deviation is None]
    if len(single) == 2:
        return "one seed each"
    if level(one, first.metrics[one.key], base.metrics[one.key]):
        return "within the spread"
    return f"one seed of {single[0]}" if single else "more than the spread"


def _behind(comparison: Comparison, one: Measure, row: Row) -> str:
    """Whose number it is; of those that read the same, all."""
    own = row.metrics[one.key]
    found = {other.name: other.metrics[one.key] for other in comparison.of(METHOD) if one.key in other.metrics}
    same = [name for name, spread in found.items() if one.text(spread.mean) == one.text(own.mean)]
    if len(same) > 1:
        return ", ".join(same)
    return row.name if own.deviation is None else f"{row.name}, ± {one.text(own.deviation)}"


def status(comparison: Comparison) -> tuple[str, str]:
    """State for the page's style, and a line about what was compared."""
    state = comparison.state if comparison.state in ("finished", "running") else "unknown"
    methods, seeds = len(comparison.of(METHOD)), comparison.setup.get("seeds")
    parts = [f"{methods} {'method' if methods == 1 else 'methods'}"]
    if isinstance(seeds, list) and seeds:
        parts.append("one seed each" if len(seeds) == 1 else f"{len(seeds)} seeds each")
    trained, images = trained_epochs(comparison), comparison.data.get("train_images")
    parts += [epochs(trained)] if is_number(trained) else []
    parts += [f"{count(images)} images"] if is_number(images) else []
    return state, " · ".join(parts)


def trained_epochs(comparison: Comparison) -> Any:
    """Epochs of the runs that have ended; until one has, those that were asked for, if that is known.

    With `--max-steps` they are fewer than were asked for.
    """
    ended = [run for run in comparison.records.values() if run.info.get("state") == "finished"]
    found = [epoch for run in ended if is_number(epoch := run.latest("epoch"))]
    return max(found, default=comparison.setup.get("epochs"))


def setup_rows(comparison: Comparison) -> list[tuple[str, str]]:
    """The table of what was trained; it was the same for every method."""
    setup = dict(comparison.setup)
    size, ratio, asked = (setup.pop(key, None) for key in ("image_size", "mask_ratio", "epochs"))
    trained = trained_epochs(comparison)
    shown = " × ".join(count(side) for side in size) if isinstance(size, list) else plain(size)
    rows = [
        ("Model", plain(setup.pop("model", None))),
        ("Image size", shown),
        ("Patch size", plain(setup.pop("patch_size", None))),
        ("Hidden", percent(ratio)),
        ("Epochs", epochs(trained).split()[0] if is_number(trained) else plain(asked)),
        ("Steps", count(setup.pop("steps", None))),
        ("Batch size", count(setup.pop("batch_size", None))),
        ("Seeds", plain(setup.pop("seeds", None))),
        ("Device", plain(setup.pop("device", None))),
        ("Precision", plain(setup.pop("precision", None))),
    ]
    rows += [(pretty(key), plain(value)) for key, value in setup.items()]
    return [(name, value) for name, value in rows if value != UNKNOWN]


def data_rows(comparison: Comparison) -> list[tuple[str, str]]:
    """The table of the images."""
    data = dict(comparison.data)
    classes = data.pop("classes", None)
    named = isinstance(classes, list) and classes
    rows = [
        ("Source", plain(data.pop("spec", None))),
        ("Tested on", plain(data.pop("val_data", None))),
        ("Training images", count(data.pop("train_images", None))),
        ("Validation images", count(data.pop("validation_images", None))),
        ("Classes", f"{count(len(classes))} ({plain(classes, 8)})" if named else "none: no labels"),
    ]
    rows += [(pretty(key), plain(value)) for key, value in data.items()]
    return [(name, value) for name, value in rows if value != UNKNOWN]


def protocols(comparison: Comparison) -> list[tuple[str, str]]:
    """How each kind of number was measured: its name in words, and the protocol."""
    return list(dict.fromkeys((_kind(key), text) for key, text in comparison.protocols.items()))


def _kind(key: str) -> str:
    """What a protocol is of: `linear/mean/top1` and `linear/mean/top5` are one."""
    pool = key.split("/")[1] if "/" in key else ""
    words = f", {POOL_WORDS.get(pool, pool)}" if pool else ""
    return (measure(key).short if pool else pretty(key).capitalize()) + words


def ours(comparison: Comparison) -> str:
    """The protocol of the numbers that stand beside the paper's."""
    setup, data = comparison.setup, comparison.data
    model = f"model {setup['model']}" if setup.get("model") else "this model"
    size = setup.get("image_size")
    pixels = f" at {' × '.join(count(side) for side in size)} pixels" if isinstance(size, list) and size else ""
    images = f"{count(data['train_images'])} images" if is_number(data.get("train_images")) else "the images"
    source = f" of {data['spec']}" if data.get("spec") else ""
    trained = trained_epochs(comparison)
    extent = f" for {epochs(trained)}" if is_number(trained) else ""
    return f"Here: {model}{pixels}, pre-trained on {images}{source}{extent}."
