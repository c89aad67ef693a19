"""Which logged numbers are drawn together, under which name and on which scale. No drawing here."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perceptual_mae.report.tracks import Track

NOT_DRAWN = {"step", "epoch", "seconds"}
TITLES = {
    "loss": "Loss and its parts",
    "lr": "Learning rate",
    "grad_norm": "Gradient norm",
    "images_per_second": "Images a second",
    "knn": "k-NN accuracy",
    "d_{}": "Discriminator on real and generated images",
    "d_accuracy": "Share of right verdicts of the discriminator",
    "ada_p": "Augmentation probability p (ADA)",
    "ada_r": "Sign statistic r of real images (ADA)",
    "pull": "Gradient on the reconstruction, before it is balanced",
    "pull_share": "Share of the gradient through the network that counts",
    "path_length": "Perceptual path length, running mean",
}
NAMES = {
    "mse": "MSE",
    "l1": "L1",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "fid": "FID",
    "lr": "learning rate",
    "top1": "top-1",
    "top5": "top-5",
    "iou": "IoU",
    "miou": "mean IoU",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "r1": "R1",
    "ada": "ADA",
    "knn": "k-NN",
}
LAST = ("lr", "grad_norm", "images_per_second")
FROM_ZERO = ("lr", "images_per_second", "knn", "ada_p", "shares")
LINES_PER_PANEL = 8
PANELS = 40
"""More than this nobody reads; the rest is in `metrics.jsonl`."""


@dataclass(frozen=True)
class Line:
    """One curve: `steps` and `values (n,)`, NaN where a value was not finite.

    `colour` is the number of its colour; None: its place in the panel. Beyond the last colour they begin anew, dashed.
    """

    name: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]
    colour: int | None = None


@dataclass(frozen=True)
class Panel:
    """Curves that share a pair of axes.

    Attributes:
        key: of the metrics shown, unique among panels.
        unit: what follows a value: " %" or nothing.
        expected: value of the dotted line, what a model reaches that has learnt nothing but the mean colour.
        last: the last step of the run; every panel spans all of it, so that they can be read side by side.
        close: the vertical axis holds the curves and no more: what counts is the difference between them.
    """

    key: str
    title: str
    lines: list[Line]
    expected: float | None = None
    unit: str = ""
    last: float = 1.0
    close: bool = False

    @property
    def from_zero(self) -> bool:
        """Whether the vertical axis begins at zero, as it does where a share or a speed is shown."""
        return self.key.startswith(FROM_ZERO)

    @property
    def log(self) -> bool:
        """Whether a log axis shows more: all positive, and a wide range even without the outermost points."""
        everything = np.concatenate([line.values[np.isfinite(line.values)] for line in self.lines])
        if self.from_zero or len(everything) < 4 or everything.min() <= 0:
            return False
        low, high = np.percentile(everything, [2, 98])
        return math.log10(high / low) > 1.2


def panels(
    found: Mapping[str, Track],
    expected: Mapping[str, float] | None = None,
    shares: Mapping[str, Sequence[str]] | None = None,
) -> list[Panel]:
    """Panels in reading order: losses against validation, loss parts, other measures, whatever is new, the mechanics.

    A loss that has a validation value or an expected one gets a panel with these beside it. A metric nobody foresaw
    gets a panel of its own; the real and the generated side of one go together.

    Args:
        found: what was logged.
        expected: by loss, what a model reaches that has learnt nothing but the mean colour.
        shares: by title, keys of what lies in [0, 1] and is more the better: these come first, in percent.
    """
    expected = dict(expected or {})
    expected |= {key.removeprefix("expected/"): t.latest[1] for key, t in found.items() if key.startswith("expected/")}
    drawn = {k: t for k, t in found.items() if k not in NOT_DRAWN and not k.startswith("expected/")}
    left = dict(drawn)
    result: list[Panel] = []
    measured = [panel for title, keys in (shares or {}).items() for panel in _shares(title, keys, left)]

    losses = {key.removeprefix("loss/"): key for key in drawn if key == "loss" or key.startswith("loss/")}
    for name, key in losses.items():
        validation = left.pop(f"validation/{name}", None)
        if validation is not None or name in expected:
            lines = [_line("training", drawn[key])] + ([_line("validation", validation)] if validation else [])
            result.append(Panel(f"{key}+validation", _capital(pretty(name)), lines, expected.get(name)))
    parts = _distinct({pretty(name): left.pop(key) for name, key in losses.items() if "/" not in name})
    if len(parts) > 1 or not result:
        result += _several("loss", "Loss and its parts" if len(parts) > 1 else "Loss", parts)
    result += _parts_of_losses(left)

    for key in [key for key in left if key.startswith("validation/")]:
        name = key.removeprefix("validation/")
        title = f"{_capital(pretty(name))} on validation images"
        result.append(Panel(key, title, [_line("validation", left.pop(key))], expected.get(name)))
    knn = {key: left.pop(key) for key in list(left) if key == "knn" or key.startswith("knn/")}
    names = {pretty(key.removeprefix("knn/")): track for key, track in knn.items()}
    result += [_in_percent(panel) for panel in _several("knn", TITLES["knn"], names)]

    mechanics = {key: left.pop(key) for key in LAST if key in left}
    norms = {"generator": mechanics.pop("grad_norm"), **_family("grad_norm", left)} if "grad_norm" in mechanics else {}
    result += _others(left)
    if len(norms) == 1:
        norms = {pretty("grad_norm"): norms["generator"]}
    result += _several("grad_norm", TITLES["grad_norm"], norms)
    for key, track in mechanics.items():
        result += _several(key, TITLES[key], {pretty(key): track})
    result = [*measured, *result]
    last = max((track.latest[0] for track in drawn.values()), default=0.0) or 1.0
    return [replace(panel, last=last) for panel in result[:PANELS]]


def _shares(title: str, keys: Sequence[str], left: dict[str, Track]) -> list[Panel]:
    """Panels of what was measured on validation images, in percent; it is taken out of `left`."""
    members = {pretty(key.removeprefix("validation/")): left.pop(key) for key in keys if key in left}
    return [_in_percent(panel) for panel in _several(f"shares {title}", title, members)]


def _parts_of_losses(left: dict[str, Track]) -> list[Panel]:
    """A panel for every loss `loss/a/...` that is logged in parts; they are taken out of `left`."""
    inner: dict[str, dict[str, Track]] = {}
    for key in [key for key in left if key.startswith("loss/")]:
        whole, _, part = key.rpartition("/")
        inner.setdefault(whole, {})[pretty(part)] = left.pop(key)
    titles = {whole: f"Parts of the loss: {pretty(whole.removeprefix('loss/'))}" for whole in inner}
    return [panel for whole, members in inner.items() for panel in _several(whole, titles[whole], members)]


def _others(left: Mapping[str, Track]) -> list[Panel]:
    """Panels of metrics that have no place of their own: those of a known family together, else each by itself."""
    groups: dict[str, dict[str, Track]] = {}
    for key, track in left.items():
        family, _, member = key.rpartition("/")
        both = re.sub(r"(?<![a-z])(real|fake|generated)(?![a-z])", "{}", key)
        side = re.search(r"(?<![a-z])(real|fake|generated)(?![a-z])", key)
        if family in TITLES:
            groups.setdefault(family, {})[pretty(member)] = track
        else:
            groups.setdefault(both, {})[side[0] if side else pretty(key)] = track
    result = []
    for group, members in groups.items():
        title = TITLES.get(group) or _capital(pretty(group.replace("{}", " and ".join(members))))
        result += _several(group, title, members)
    return result


def _family(name: str, found: dict[str, Track]) -> dict[str, Track]:
    """Take the tracks `name/...` out of `found`, by what follows the name."""
    keys = [key for key in found if key.startswith(f"{name}/")]
    return {pretty(key.removeprefix(f"{name}/")): found.pop(key) for key in keys}


def pretty(key: str) -> str:
    """A metric's key in words: `adversary/grad_norm` becomes `adversary: grad norm`."""
    words = [" ".join(NAMES.get(word, word) for word in _words(part)) for part in key.split("/")]
    return ": ".join(NAMES.get(part, word) for part, word in zip(key.split("/"), words, strict=True) if word)


def _words(part: str) -> list[str]:
    return part.replace("-", "_").split("_")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _line(name: str, track: Track) -> Line:
    return Line(name, *track.points())


def _several(key: str, title: str, members: Mapping[str, Track]) -> list[Panel]:
    lines = [_line(name, track) for name, track in members.items()]
    return [
        Panel(key if start == 0 else f"{key} {start}", title, lines[start : start + LINES_PER_PANEL])
        for start in range(0, len(lines), LINES_PER_PANEL)
    ]


def _in_percent(panel: Panel) -> Panel:
    """Accuracies in percent, were they logged so or as fractions."""
    highest = max((np.nanmax(line.values, initial=0) for line in panel.lines), default=0)
    lines = [Line(line.name, line.steps, line.values * (100 if highest <= 1 else 1)) for line in panel.lines]
    return Panel(panel.key, panel.title, lines, unit=" %")


def _distinct(members: Mapping[str, Track]) -> dict[str, Track]:
    """Without the total where it equals the only part: one curve on top of another looks like one missing."""
    kept: dict[str, Track] = {}
    for name, track in members.items():
        if not any(track.values == other.values and track.steps == other.steps for other in kept.values()):
            kept[name] = track
    return kept
