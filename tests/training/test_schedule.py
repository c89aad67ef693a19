"""When things happen: the learning rate, the clock, and steps that are spread over a run."""

import math
from itertools import pairwise

import pytest

from perceptual_mae.training.schedule import Clock, learning_rate, spread, total_steps


def test_half_a_cosine_after_the_warm_up() -> None:
    for step in range(100, 1000):
        expected = 3e-4 * (math.cos((step - 100) / 900 * math.pi) + 1) / 2
        assert learning_rate(step, 1000, 3e-4, 0.1) == pytest.approx(expected, rel=1e-12)


def test_values_at_the_ends() -> None:
    assert learning_rate(100, 1000, 2.0, 0.1) == 2.0
    assert learning_rate(550, 1000, 2.0, 0.1) == pytest.approx(1.0)
    assert 0 < learning_rate(999, 1000, 2.0, 0.1) < 1e-5
    assert learning_rate(1000, 1000, 2.0, 0.1) == pytest.approx(0, abs=1e-12)
    assert learning_rate(0, 1000, 2.0, 0.0) == 2.0
    assert learning_rate(0, 1, 2.0, 0.0) == 2.0


def test_warm_up_rises_in_equal_steps_from_above_zero() -> None:
    rates = [learning_rate(step, 1000, 1.0, 0.1) for step in range(101)]
    steps = [after - before for before, after in pairwise(rates)]
    assert 0 < rates[0] < 0.011
    assert all(step == pytest.approx(steps[0]) for step in steps)
    assert rates[100] == 1.0


@pytest.mark.parametrize(("total", "share"), [(1, 0.0), (1, 1.0), (3, 0.13), (7, 0.5), (100, 1.0), (5000, 0.1333)])
def test_the_rate_is_positive_has_one_peak_and_never_exceeds_it(total: int, share: float) -> None:
    rates = [learning_rate(step, total, 1.0, share) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_epochs_are_counted_from_one() -> None:
    assert [Clock(step, 3).epoch for step in range(7)] == [1, 1, 1, 2, 2, 2, 3]


def test_epochs_and_steps_that_are_due() -> None:
    assert all(Clock(step, 3).epoch_is_due(1) and Clock(step, 3).step_is_due(1) for step in range(12))
    assert [step for step in range(12) if Clock(step, 3).epoch_is_due(2)] == [3, 4, 5, 9, 10, 11]
    assert [step for step in range(12) if Clock(step, 3).step_is_due(4)] == [3, 7, 11]


@pytest.mark.parametrize(
    ("epochs", "per_epoch", "max_steps", "total"), [(3, 10, None, 30), (3, 10, 7, 7), (3, 10, 70, 30), (1, 1, 1, 1)]
)
def test_length_of_a_run(epochs: int, per_epoch: int, max_steps: int | None, total: int) -> None:
    assert total_steps(epochs, per_epoch, max_steps) == total


@pytest.mark.parametrize(("total", "count"), [(1000, 12), (20, 12), (5, 12), (100_000, 5), (21, 1), (1, 3)])
def test_spread_ends_with_the_run_and_is_dense_early(total: int, count: int) -> None:
    steps = spread(total, count)
    assert steps == sorted(set(steps))
    assert steps[-1] == total
    assert 1 <= len(steps) <= count + 1
    assert all(1 <= step <= total for step in steps)
    if count > 1:
        assert steps[0] == min(20, total)
    ratios = [after / before for before, after in pairwise(steps)]
    assert all(ratio == pytest.approx(ratios[0], rel=0.05) for ratio in ratios)


@pytest.mark.parametrize(("total", "count"), [(100, 0), (0, 5)])
def test_spread_of_nothing(total: int, count: int) -> None:
    assert spread(total, count) == []
