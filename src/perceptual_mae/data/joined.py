"""Several splits of a data set as one source."""

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import accumulate

from perceptual_mae.data.digest import digest
from perceptual_mae.data.open import open_source
from perceptual_mae.data.streaming.address import shown_spec
from perceptual_mae.data.types import Item, Source
from perceptual_mae.errors import UsageError


class Joined:
    """Sources one after the other; the name of an image starts with that of its part, and classes are told by name."""

    def __init__(self, name: str, parts: Mapping[str, Source]) -> None:
        self.name = name
        self._names, self._parts = list(parts), list(parts.values())
        self._starts = [0, *accumulate(len(part) for part in self._parts)]
        self.classes = all_classes(self._parts)
        number = {label: at for at, label in enumerate(self.classes)}
        self._labels = [[number[label] for label in part.classes] for part in self._parts]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Item:
        part = bisect.bisect_right(self._starts, index) - 1
        item = self._parts[part][index - self._starts[part]]
        label = self._labels[part][item.label] if item.label >= 0 else -1
        return replace(item, name=f"{self._names[part]}/{item.name}", label=label)

    def fingerprint(self) -> str:
        """Digest of the parts' and their names."""
        parts = zip(self._names, self._parts, strict=True)
        return digest(b"joined", *(f"{name} {part.fingerprint()}".encode() for name, part in parts))


def all_classes(sources: Iterable[Source]) -> tuple[str, ...]:
    """The names of the classes of sources, each once, in the order in which they come."""
    return tuple(dict.fromkeys(label for source in sources for label in source.classes))


def parts_of(spec: str, split: str = "all", *, channels: int = 3) -> dict[str, Source]:
    """The splits of a data argument by name: of `train` and `validation`, or the one that is asked for, what it has.

    Raises:
        UsageError: it is no data.
        PmaeError: it cannot be loaded.
    """
    wanted = ("train", "validation") if split == "all" else (split,)
    found = {name: open_source(spec, name, channels=channels) for name in wanted}
    return {name: source for name, source in found.items() if source is not None}


def open_splits(spec: str, split: str, *, channels: int = 3) -> Source:
    """Open one split of a data argument (`train`, `validation`), or `all` of it.

    Raises:
        UsageError: it is no data, or has no such split.
        PmaeError: it cannot be loaded.
    """
    parts = parts_of(spec, split, channels=channels)
    if not parts:
        raise UsageError(f"--data {shown_spec(spec)}: it has no {split} images")
    return Joined(shown_spec(spec), parts) if len(parts) > 1 else next(iter(parts.values()))
