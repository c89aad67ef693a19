"""A source seen otherwise: a sample that is quick to measure on, a part held out for testing, other labels."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from perceptual_mae.data.digest import digest
from perceptual_mae.data.types import Item, Source
from perceptual_mae.seeds import Stream, permutation


class Subset:
    """Some images of a source, in the order of `indices`."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray) -> None:
        self.source, self.indices = source, np.asarray(indices, dtype=np.int64)
        self.name, self.classes = source.name, source.classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        return self.source[int(self.indices[index])]

    def fingerprint(self) -> str:
        """Digest of the source's and of the choice."""
        return digest(b"subset", self.source.fingerprint().encode(), self.indices.tobytes())


class Relabelled:
    """A source with the labels that its classes have in another one; -1 for classes that the other does not have."""

    def __init__(self, source: Source, classes: tuple[str, ...]) -> None:
        self.source, self.name, self.classes = source, source.name, classes
        number = {name: at for at, name in enumerate(classes)}
        self._label = [number.get(name, -1) for name in source.classes]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Item:
        item = self.source[index]
        return replace(item, label=self._label[item.label] if item.label >= 0 else -1)

    def fingerprint(self) -> str:
        """Digest of the source's and of the names of the classes."""
        return digest(b"relabelled", self.source.fingerprint().encode(), *(name.encode() for name in self.classes))


def labels_of(source: Source) -> np.ndarray:
    """The label of every image of a source, `(n,)` int64, -1 where unknown; no image is decoded."""
    return np.array([source[index].label for index in range(len(source))], dtype=np.int64)


def sample(source: Source, count: int | None, seed: int) -> Source:
    """At most `count` images of a source, a seeded choice in the source's order; None: the source itself."""
    if count is None or count >= len(source):
        return source
    return Subset(source, np.sort(permutation(len(source), seed, Stream.SAMPLE)[:count]))


def held_out(source: Source, share: float, seed: int) -> tuple[Subset, Subset]:
    """Cut a source in two, seeded: what is left, and `share` of the images of every class.

    A class with one image keeps it on the first side. Reads every label once.
    """
    labels = labels_of(source)
    shuffled = permutation(len(source), seed, Stream.HELD_OUT)
    out: list[np.ndarray] = []
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        out.append(members[: min(len(members) - 1, max(1, round(share * len(members))))])
    chosen = np.sort(np.concatenate(out)) if out else np.empty(0, np.int64)
    return Subset(source, np.setdiff1d(np.arange(len(source)), chosen)), Subset(source, chosen)
