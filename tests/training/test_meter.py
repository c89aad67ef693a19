"""Means between log lines, and the time that training takes."""

import time
from types import SimpleNamespace

import pytest

from perceptual_mae.training import meter as module
from perceptual_mae.training.meter import Meter, Stopwatch


def test_means_by_name_since_the_last_call() -> None:
    meter = Meter()
    meter.add({"loss": 1.0, "lazy": 10.0})
    meter.add({"loss": 2.0})
    meter.add({"loss": 6.0})
    assert meter.take() == {"loss": 3.0, "lazy": 10.0}
    meter.add({"loss": 5.0})
    assert meter.take() == {"loss": 5.0}
    assert meter.take() == {}


def test_a_resumed_meter_goes_on() -> None:
    first, second = Meter(), Meter()
    first.add({"loss": 1.0})
    second.load_state_dict(first.state_dict())
    first.add({"loss": 100.0})  # what the first does now is no business of the second
    second.add({"loss": 3.0})
    assert second.take() == {"loss": 2.0}


def test_stopwatch_counts_steps_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0], monotonic=time.monotonic))
    watch = Stopwatch()
    for _ in range(3):
        watch.start()
        now[0] += 2
        watch.stop(images=10)
        now[0] += 50  # pictures, validation, a checkpoint
    assert watch.rate() == 5.0
    assert watch.total == 6.0
    assert watch.rate() == 0.0
    watch.start()
    now[0] += 1
    watch.stop(images=8)
    assert watch.rate() == 8.0
    assert watch.total == 7.0
