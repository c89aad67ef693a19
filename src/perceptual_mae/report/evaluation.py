"""The results of an evaluation as a table: for a terminal and as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from perceptual_mae.methods import METHODS
from perceptual_mae.report.comparison_table import escaped, fitted, markdown_table, measure
from perceptual_mae.report.story import KNN_NOTE
from perceptual_mae.report.words import UNKNOWN, count

NEIGHBOURS = "20"
"""The k that stands in the summary."""
VERSIONS = {"output": "as drawn", "pasted": "visible patches pasted back", "removed": "removed patches"}
POOLS = {"cls": "[CLS]", "mean": "mean token", "both": "[CLS] and mean token"}


def summary(content: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of the short table: what was measured, its value, and what belongs to it.

    Args:
        content: of `results.json`.
    """
    return [row for name, part in content["parts"].items() for row in _summary_of(name, part["result"])]


def _summary_of(name: str, result: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    kind, _, pool = name.partition("/")
    if kind == "reconstruction":
        for version, words in VERSIONS.items():
            for key, value in result.get(version, {}).items():
                if not key.endswith("_std"):
                    one = fitted(measure(key), [value])
                    yield one.head, one.text(value), words
        return
    scores = result[NEIGHBOURS] if kind == "knn" else result
    words = f"k-NN, k = {NEIGHBOURS}" if kind == "knn" else "linear probe"
    low, high = scores["interval"]
    beside = f"top-1 of {POOLS[pool]}; 95 % interval {low:.1%} to {high:.1%}; top-5 {scores['top5']:.1%}"
    yield words, f"{scores['top1']:.1%}", beside


def headline(content: Mapping[str, Any]) -> dict[str, float]:
    """The numbers by which encoders are compared: `linear/mean/top1`, `knn/cls/top1`, `l1`, `fd-<name>`, ...

    Errors of pixels are those over removed patches where there are any, the rest is of pasted reconstructions: what is
    seen in a picture.
    """
    found: dict[str, float] = {}
    for name, part in content["parts"].items():
        result = part["result"]
        if name == "reconstruction":
            found |= {key: value for key, value in result.get("pasted", {}).items() if not key.endswith("_std")}
            found |= result.get("removed", {})
            continue
        scores = result[NEIGHBOURS] if name.startswith("knn/") else result
        found |= {f"{name}/top1": scores["top1"], f"{name}/top5": scores["top5"]}
    return found


def markdown(content: Mapping[str, Any]) -> str:
    """`results.md`: everything, with the protocol of each number."""
    encoder, data, entries = content["encoder"], content["data"], content["parts"]
    high, wide = encoder["image_size"]
    learnt = f", learnt from {count(data['train_images'])} with labels" if data["train_images"] else ""
    lines = [
        f"# {escaped(encoder['name'])} on {escaped(data['spec'])}",
        "",
        f"{count(encoder['parameters'])} parameters, {encoder['embed_dim']} wide, images of {high} x {wide} pixels. "
        f"Measured on {count(data['test_images'])} images ({data['test']}){learnt}.",
        "",
        markdown_table(("measure", "value", "of"), ([escaped(cell) for cell in row] for row in summary(content))),
        "",
    ]
    lines += [f"- {escaped(note)}" for note in content["notes"]]
    skipped = max((part["result"].get("skipped", 0) for part in entries.values()), default=0)
    if skipped:
        lines += [f"- {count(skipped)} images could not be read and are left out."]
    if encoder.get("method") and any(name.startswith("knn/") for name in entries):
        lines += ["", KNN_NOTE]
    method = METHODS.get(encoder.get("method"))
    figures = [row.paper.linear_probe for row in method.rows.values() if row.paper.linear_probe] if method else []
    if figures:
        lines += ["", f"The paper's linear probe of this method, ViT-B on ImageNet: {figures[0]} (another data set, "
                  "another size: not to be compared with the numbers above)."]  # fmt: skip
    lines += ["", "## How it was measured", ""]
    lines += [f"- **{name}**: {escaped(part['protocol'])}." for name, part in entries.items()]
    for name, part in entries.items():
        if name.startswith("linear/"):
            lines += ["", f"## {name}: class by class", ""]
            lines += [_per_class(part["result"], data["classes"])]
    return "\n".join(lines) + "\n"


def _per_class(scores: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Recall of each class, and what it is most often taken for."""
    rows: list[tuple[str, ...]] = []
    for name, recall, guesses in zip(classes, scores["per_class"], scores["confusion"], strict=True):
        images, right = sum(guesses), guesses[len(rows)]
        wrong = [number if label != len(rows) else -1 for label, number in enumerate(guesses)]
        most = max(wrong)
        taken = f"{escaped(classes[wrong.index(most)])} ({most / images:.0%})" if images and most > 0 else UNKNOWN
        rows.append((escaped(name), count(images), UNKNOWN if recall is None else f"{right / images:.1%}", taken))
    return markdown_table(("class", "images", "recognised", "most often taken for"), rows)
