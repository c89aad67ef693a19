"""How a game stands, read off the log."""

from typing import Any

import pytest

from perceptual_mae.pretraining.health import LONG, health


def line(accuracy: float = 0.8, network: float = 0.5, **more: Any) -> dict[str, Any]:
    pulls = {"pull/pixels": 1.0, "pull/adversarial": network, "pull_share/adversarial": 1.0}
    return {"d_real": 0.9, "d_fake": 0.1, "d_accuracy": accuracy} | pulls | more


def test_without_an_adversary_there_is_nothing_to_tell() -> None:
    assert health([]) is None
    assert health([{"step": 1, "loss/total": 1.0}] * 20) is None


def test_a_balanced_game_is_told_in_numbers() -> None:
    found = health([line(), line(accuracy=0.7)])
    assert found is not None
    assert found.state == "balanced"
    assert "D(real) 0.90 and D(fake) 0.10, right in 75% of its verdicts" in found.words
    assert "33%" in found.words  # 0.5 of 1.5
    balanced = health([line(network=50.0, **{"pull_share/adversarial": 0.002})])
    assert balanced is not None
    assert "9% comes through it" in balanced.words  # 0.1 of 1.1


@pytest.mark.parametrize(
    ("accuracy", "network", "state"),
    [(1.0, 0.001, "collapsed"), (1.0, 0.5, "balanced"), (0.9, 0.001, "balanced"), (0.5, 0.5, "guessing")],
)
def test_a_game_is_lost_when_both_signs_last(accuracy: float, network: float, state: str) -> None:
    lost = [line(accuracy, network)] * LONG
    found = health(lost)
    assert found is not None
    assert found.state == state
    for records in (lost[1:], [*lost[1:], line()], [line(), *lost[2:], line()]):  # not long enough, or over again
        once = health(records)
        assert once is not None
        assert once.state == "balanced"


def test_only_the_last_lines_count_and_others_are_passed_over() -> None:
    validation = {"step": 3, "validation/l1": 0.1}
    found = health([line(), validation] * 5 + [line(1.0, 0.0), validation] * LONG)
    assert found is not None
    assert found.state == "collapsed"
    assert "--discriminator.lr" in found.words
