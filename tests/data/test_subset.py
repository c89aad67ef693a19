"""Sources seen otherwise."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceptual_mae.data.subset import Relabelled, Subset, held_out, sample
from perceptual_mae.data.types import Item


@dataclass
class Listed:
    labels: list[int]
    classes: tuple[str, ...] = ("a", "b", "c", "d")
    name: str = "listed"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        return Item(b"", f"image {index}", self.labels[index])

    def fingerprint(self) -> str:
        return f"{self.labels}"


def labels(source: Subset | Relabelled) -> list[int]:
    return [source[index].label for index in range(len(source))]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.05, 0.6), st.integers(0, 5))
def test_a_part_is_held_out_of_every_class(given_labels: list[int], share: float, seed: int) -> None:
    source = Listed(given_labels)
    rest, out = held_out(source, share, seed)
    assert sorted([*rest.indices, *out.indices]) == list(range(len(source)))
    for label in set(given_labels):
        members, kept = given_labels.count(label), labels(rest).count(label)
        assert kept >= 1  # something to learn from
        if members > 1:
            assert members - kept == min(members - 1, max(1, round(share * members)))
    again = held_out(source, share, seed)
    assert np.array_equal(again[1].indices, out.indices)


def test_a_sample_is_seeded_in_order_and_told_apart() -> None:
    source = Listed(list(range(4)) * 25)
    few = sample(source, 10, seed=3)
    assert isinstance(few, Subset)
    assert len(set(few.indices.tolist())) == 10
    assert list(few.indices) == sorted(few.indices)
    assert few[0].name == f"image {few.indices[0]}"
    assert sample(source, 10, seed=3).fingerprint() == few.fingerprint()
    assert sample(source, 10, seed=4).fingerprint() != few.fingerprint()
    assert sample(source, None, 0) is source
    assert sample(source, 100, 0) is source


def test_labels_follow_the_names_of_the_classes() -> None:
    # A validation folder without the class "a" numbers the others from 0.
    source = Listed([0, 1, 2, -1], classes=("b", "d", "new"))
    seen = Relabelled(source, ("a", "b", "c", "d"))
    assert labels(seen) == [1, 3, -1, -1]
    assert seen.classes == ("a", "b", "c", "d")
    assert seen.fingerprint() != source.fingerprint()
    assert seen[1].name == "image 1"


@pytest.mark.parametrize("count", [1, 7])
def test_a_subset_has_its_length(count: int) -> None:
    assert len(Subset(Listed([0] * 9), range(count))) == count
