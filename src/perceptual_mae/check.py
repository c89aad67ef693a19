"""`pmae check`, as a function: what a run would find in a person's images, before it is begun."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from perceptual_mae.credentials import without_credentials
from perceptual_mae.data import MAX_PIXELS, choose_workers
from perceptual_mae.data.census import GREY, Census, same_content, take_census
from perceptual_mae.data.joined import parts_of
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.models.mae import default_pixels
from perceptual_mae.pretraining.remarks import remark_on_brightness
from perceptual_mae.settings import check_workers

UNLIKE = 0.1
"""Images whose mean or deviation is so far from those that a run takes by default are not like photographs."""
SMALL = 112
"""Where the shorter side has fewer pixels, patches of 16 leave fewer than 49 tokens."""
MANY = 0.01
"""A share of images that cannot be read that is worth a sentence."""
NAMED = 10
"""Images of which the reason is shown; all of them are in the JSON."""


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        data: the data argument.
        channels: that the images were read with.
        parts: the census of each split, `train` and, where there is one, `validation`.
        classes: names of the classes of each split.
    """

    data: str
    channels: int
    parts: Mapping[str, Census]
    classes: Mapping[str, Sequence[str]]

    def rows(self) -> list[tuple[str, list[str]]]:
        """What is found, in words: a topic, and what there is of it in each split."""
        topics: dict[str, Callable[[Census, Sequence[str]], str]] = {
            "images": lambda part, _: f"{part.images:,} ({_bytes(part.size)})",
            "cannot be read": lambda part, _: f"{len(part.skipped):,}" if part.skipped else "none",
            "formats": lambda part, _: _counts(part.formats),
            "pixels": lambda part, _: _counts(part.kinds),
            "sizes": lambda part, _: _sizes(part),
            "classes": _classes,
            "the same twice": lambda part, _: _same(same_content(part.digests)),
            "mean": lambda part, _: _numbers(part.mean),
            "std": lambda part, _: _numbers(part.std),
        }
        splits = [(part, self.classes[name]) for name, part in self.parts.items()]
        return [(topic, [words(*split) for split in splits]) for topic, words in topics.items()]

    def advice(self) -> list[str]:
        """Sentences on what to do about it; none where a run by default is what these images want."""
        train = self.parts["train"]
        found = [*self._on_reading(), *remark_on_brightness(float(np.mean(train.mean)))]
        grey = self.channels == 3 and all(kind.startswith(GREY) for kind in train.kinds)
        if grey:
            found.append("All images are grey: --pixels.channels 1; `pmae check --channels 1` has its mean and std.")
        if 0 < train.shorter_side < SMALL:
            side, patch = fitting(train.shorter_side)
            found.append(f"The images are small: --image-size {side} --patch-size {patch}.")
        usual = np.concatenate(default_pixels(self.channels))
        if not grey and np.abs(usual - [*train.mean, *train.std]).max() > UNLIKE:
            mean, std = (f"'[{_numbers(values, ',')}]'" for values in (train.mean, train.std))
            found.append(f"Mean and std are not those of photographs: --pixels.mean {mean} --pixels.std {std}.")
        return found

    def _on_reading(self) -> list[str]:
        found = []
        for name, part in self.parts.items():
            share = len(part.skipped) / max(1, part.images + len(part.skipped))
            if share > MANY:
                reason, count = Counter(skip.reason for skip in part.skipped).most_common(1)[0]
                found.append(f"{share:.0%} of the images ({name}) cannot be read; most often ({count:,}): {reason}.")
        both = self.in_both()
        if both:
            of = self.parts["validation"].images
            found.append(
                f"{both:,} of {of:,} validation images are training images, too: what is measured on them is too good."
            )
        return found

    def in_both(self) -> int:
        """Validation images whose content is among the training images, too."""
        if "validation" not in self.parts:
            return 0
        known = {digest for digest, _ in self.parts["train"].digests}
        return sum(digest in known for digest, _ in self.parts["validation"].digests)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, every image that cannot be read among them."""
        parts = {
            name: {
                "images": part.images,
                "bytes": part.size,
                "skipped": [{"name": skip.name, "reason": skip.reason} for skip in part.skipped],
                "formats": dict(part.formats),
                "pixels": dict(part.kinds),
                "sizes": [{"height": h, "width": w, "images": count} for (h, w), count in sorted(part.sides.items())],
                "classes": {self.classes[name][label]: part.labels[label] for label in range(len(self.classes[name]))},
                "unlabelled": part.labels[-1],
                "same_content": same_content(part.digests),
                "mean": part.mean,
                "std": part.std,
            }
            for name, part in self.parts.items()
        }
        data = {"data": without_credentials(self.data), "channels": self.channels, "splits": parts}
        return data | {"in_both_splits": self.in_both(), "advice": self.advice()}


def check_data(
    data: str,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    workers: int | Literal["auto"] = "auto",
    progress: Callable[[int, int | None], object] = lambda done, total: None,
) -> Checked:
    """Read every image of a data argument once.

    Args:
        data: as of `pmae pretrain`.
        channels: that the images are to have, as `--pixels.channels`.
        max_pixels: larger images are left out, as `--loader.max-pixels`.
        workers: processes that read, or auto.
        progress: called with the number of images that are done, and of all.

    Raises:
        UsageError: it is no data, or has no training images.
        PmaeError: it cannot be read, or none of its images can.
    """
    if channels < 1:
        raise UsageError(f"--channels {channels}: must be at least 1")
    if max_pixels < 1:
        raise UsageError(f"--max-pixels {max_pixels}: must be at least 1")
    check_workers(workers)
    many = choose_workers(workers, on_gpu=True)  # as for a GPU: nothing else is to be done meanwhile
    sources = parts_of(data, channels=channels)
    if not len(sources.get("train", ())):
        raise UsageError(f"--data {data}: there are no training images")
    total, before = sum(map(len, sources.values())), 0
    parts: dict[str, Census] = {}

    def tell(done: int) -> None:
        progress(before + done, total)

    for name, source in sources.items():
        parts[name] = take_census(source, channels, max_pixels, many, tell)
        before += len(source)
    if not parts["train"].images:
        first = parts["train"].skipped[0]
        raise PmaeError(
            f"--data {data}: none of the {len(sources['train']):,} images can be read; the first, {first.name}: "
            f"{first.reason}"
        )
    return Checked(data, channels, parts, {name: source.classes for name, source in sources.items()})


def fitting(side: int) -> tuple[int, int]:
    """Sides of image and patch for images of so few pixels: some 50 to 200 patches, and no pixel made up."""
    patch = 8 if side >= 56 else 4 if side >= 24 else 2
    return max(side // patch, 1) * patch, patch


# -- words -------------------------------------------------------------------------------------------------------------


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _counts(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())


def _sizes(part: Census) -> str:
    """Widths and heights, as people write them."""
    if not part.sides:
        return "–"
    (height, width), count = part.sides.most_common(1)[0]
    if len(part.sides) == 1:
        return f"{width} x {height}"
    least, most = (choose(part.sides, key=lambda sides: sides[0] * sides[1]) for choose in (min, max))
    often = f", most often {width} x {height}" if count > part.images / 10 else ""
    return f"{least[1]} x {least[0]} to {most[1]} x {most[0]}{often}; shorter side {part.shorter_side} in the median"


def _classes(part: Census, classes: Sequence[str]) -> str:
    if not classes:
        return "no labels"
    counts = [part.labels[label] for label in range(len(classes))]
    words = f"{len(classes):,}, of {min(counts):,}" + (f" to {max(counts):,}" if max(counts) > min(counts) else "")
    return f"{words} images" + (f"; {part.labels[-1]:,} without a label" if part.labels[-1] else "")


def _same(groups: Sequence[Sequence[str]]) -> str:
    if not groups:
        return "none"
    first = groups[0]
    return f"{sum(len(one) - 1 for one in groups):,} ({first[1]} is {first[0]}{', ...' if len(groups) > 1 else ''})"


def _numbers(values: Sequence[float], between: str = ", ") -> str:
    return between.join(f"{value:.3f}" for value in values) or "–"


def skipped_lines(checked: Checked) -> list[str]:
    """The first images that cannot be read, and why."""
    lines = [f"{name}: {skip.name}: {skip.reason}" for name, part in checked.parts.items() for skip in part.skipped]
    return lines[:NAMED] + ([f"... and {len(lines) - NAMED:,} more"] if len(lines) > NAMED else [])
