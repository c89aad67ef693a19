"""No two things that stand side by side have one name."""

import pytest

from perceptual_mae.report.names import told_apart


@pytest.mark.parametrize(
    ("names", "typed", "taken", "found"),
    [
        (["a", "b"], ["x/a", "x/b"], [], ["a", "b"]),
        (["a", "a", "b"], ["x/a", "y/a", "x/b"], [], ["x/a", "y/a", "b"]),
        (["mse", "net"], ["x/mse", "net"], ["mse"], ["x/mse", "net"]),
        (["mse"], ["mse"], ["mse"], ["mse (encoder)"]),  # a folder that is called like a method
        (["mse", "mse (encoder)"], ["mse", "n"], ["mse"], ["mse (encoder)", "mse (encoder) (2)"]),
        (["x/run", "run", "run"], ["/q/x/run", "x/run", "run"], ["mse"], ["x/run", "x/run (2)", "run"]),
        (["run", "run", "link"], ["link", "y/run", "q/link"], [], ["link", "y/run", "link (2)"]),
    ],
)
def test_names_are_told_apart(names: list[str], typed: list[str], taken: list[str], found: list[str]) -> None:
    assert told_apart(names, typed, taken) == found
