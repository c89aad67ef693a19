"""Labelled batches: a function of (seed, step) alone, whatever the pieces and workers, and broken images replaced."""

import random
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from perceptual_mae.data import SamplePlan
from perceptual_mae.data.labelled import Examples, Sample, labelled_loader
from perceptual_mae.data.types import BrokenImage
from perceptual_mae.errors import PmaeError, UsageError


class Numbers:
    """Images that are their own index; some are broken."""

    name, classes = "numbers", ("even", "odd")

    def __init__(self, length: int, broken: Iterable[int] = ()) -> None:
        self.length, self.broken = length, set(broken)

    def __len__(self) -> int:
        return self.length

    def title(self, index: int) -> str:
        return f"number {index}"

    def read(self, index: int) -> Sample:
        if index in self.broken:
            raise BrokenImage("cut short")
        box = {"boxes": torch.full((1, 4), float(index)), "labels": torch.tensor([index % 2])}
        return Sample(torch.full((1, 2, 2), index, dtype=torch.uint8), box, self.title(index))

    def fingerprint(self) -> str:
        return "numbers"


def drawn(sample: Sample) -> Sample:
    """Adds a draw of each of the three generators to the target."""
    draws = torch.tensor([random.random(), float(np.random.random()), float(torch.rand(()))])  # noqa: NPY002
    assert isinstance(sample.target, dict)
    return Sample(sample.image, {**sample.target, "draws": draws}, sample.name)


def flat(batches: Iterable[Examples]) -> list[tuple[str, list[float]]]:
    return [
        (name, target["draws"].tolist())  # type: ignore[call-overload]
        for batch in batches
        for name, target in zip(batch.names, batch.targets, strict=True)
    ]


PLAN = SamplePlan(10, 4, seed=3)


def test_pieces_workers_and_where_it_starts_change_nothing() -> None:
    whole = flat(labelled_loader(Numbers(10), PLAN, drawn, last_step=4))
    assert len(whole) == 16
    assert len({tuple(draws) for _, draws in whole}) == 16
    assert flat(labelled_loader(Numbers(10), PLAN, drawn, last_step=4, micro_batches=2)) == whole
    assert flat(labelled_loader(Numbers(10), PLAN, drawn, last_step=4, workers=2)) == whole
    assert flat(labelled_loader(Numbers(10), PLAN, drawn, first_step=2, last_step=4)) == whole[8:]
    ranks = [flat(labelled_loader(Numbers(10), PLAN, drawn, last_step=4, rank=r, world_size=2)) for r in (0, 1)]
    assert sorted(ranks[0] + ranks[1]) == sorted(whole)


def test_an_epoch_sees_each_image_at_most_once() -> None:
    names = [name for name, _ in flat(labelled_loader(Numbers(10), PLAN, drawn, last_step=2))]
    assert len(set(names)) == 8


def test_the_callers_generators_are_left_alone() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    list(labelled_loader(Numbers(10), PLAN, drawn, last_step=2))
    assert (random.random(), np.random.random(), torch.rand(()).item()) == expected  # noqa: NPY002


def test_broken_images_are_replaced_and_reported() -> None:
    batches = list(labelled_loader(Numbers(10, broken=[2, 5]), PLAN, drawn, last_step=2))
    assert [len(batch) for batch in batches] == [4, 4]
    seen = {name for batch in batches for name in batch.names}
    assert not seen & {"number 2", "number 5"}
    skipped = {(skip.name, skip.reason) for batch in batches for skip in batch.skipped}
    due = {f"number {i}" for step in (0, 1) for i in PLAN.indices(step).tolist()} & {"number 2", "number 5"}
    assert due
    assert {name for name, _ in skipped} >= due
    assert {reason for _, reason in skipped} == {"cut short"}


def test_where_nothing_can_be_read() -> None:
    with pytest.raises(PmaeError, match=r"no image of numbers can be read; the last, number .*: cut short"):
        list(labelled_loader(Numbers(3, broken=range(3)), SamplePlan(3, 2, 0), drawn, last_step=1))


def test_examples_travel_whole() -> None:
    batch = next(iter(labelled_loader(Numbers(4), SamplePlan(4, 2, 0), drawn, last_step=1)))
    there = batch.to(torch.device("meta"))
    assert there.images.device.type == "meta"
    assert all(tensor.device.type == "meta" for target in there.targets for tensor in target.values())  # type: ignore[union-attr]
    assert there.names == batch.names


def test_fewer_images_than_pieces_are_refused() -> None:
    with pytest.raises(UsageError, match="a batch of 3 images cannot be shared by 2 processes x 2 micro-batches"):
        labelled_loader(Numbers(3), SamplePlan(3, 4, 0), drawn, last_step=1, world_size=2, micro_batches=2)
