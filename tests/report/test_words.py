import math

import pytest

from perceptual_mae.report.words import UNKNOWN, compact, count, duration, epochs, number, percent


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.43121, "0.4312"), (12.3456, "12.35"), (12345.6, "12,346"), (0, "0"), (1.5e-4, "1.5e-4"), (-0.5, "-0.5"),
     (3, "3"), (2.5e12, "2.5e12"), (0.001, "0.001")],
)  # fmt: skip
def test_numbers_have_four_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5 s"), (12, "12 s"), (59.6, "1 min 00 s"), (252, "4 min 12 s"), (3600, "1 h 00 min"),
     (3 * 3600 + 5 * 60, "3 h 05 min"), (86400 * 2 + 4 * 3600, "2 d 4 h")],
)  # fmt: skip
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1 epoch"), (1.0, "1 epoch"), (0.25, "0.25 epochs"), (2 / 7, "0.286 epochs"), (15, "15 epochs"),
     (1600, "1,600 epochs"), (0, "0 epochs"), (0.9999, "1 epoch"), (999.9, "1,000 epochs")],
)  # fmt: skip
def test_one_epoch_is_one(value, text):
    assert epochs(value) == text


def test_counts_are_grouped_and_large_ones_named():
    assert count(20000) == "20,000"
    assert compact(86_567_656) == "86.6 million"
    assert compact(701_234) == "701,234"
    assert percent(0.75) == "75 %"


@pytest.mark.parametrize("write", [number, count, compact, percent, duration, epochs])
@pytest.mark.parametrize("value", [None, "many", math.nan, math.inf, [1], True])
def test_what_is_no_number_is_a_dash(write, value):
    assert write(value) == UNKNOWN
