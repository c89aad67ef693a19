"""What a comparison concludes."""

import statistics
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from comparison_rows import SCALE, THREE, Make, method, other, page_of, told, write_folder

from perceptual_mae.report.comparison_folder import Spread, read_comparison
from perceptual_mae.report.comparison_story import facts
from perceptual_mae.report.comparison_table import measure
from perceptual_mae.report.comparison_verdict import level, verdict


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """See `write_folder`."""
    return partial(write_folder, tmp_path / "comparison")


def test_the_spread_is_the_sample_standard_deviation_and_ranges_that_touch_are_level() -> None:
    values = (0.1, 0.2, 0.6)
    assert Spread(values).deviation == pytest.approx(np.std(values, ddof=1))
    assert Spread((0.3,)).deviation is None
    l1, one, root = measure("l1"), Spread((1.0, 3.0)), statistics.stdev((1.0, 3.0))
    assert level(l1, one, Spread((1 + 2 * root - 0.01, 3 + 2 * root - 0.01)))
    assert not level(l1, one, Spread((1 + 2 * root + 0.01, 3 + 2 * root + 0.01)))
    assert level(l1, one, Spread((2 + root - 0.01,)))
    assert not level(l1, one, Spread((2 + root + 0.01,)))


def test_the_best_is_named_with_its_lead_over_the_plain_autoencoder_and_what_it_costs(make: Make) -> None:
    said = told(make(THREE + SCALE))
    for sentence in (
        "msg-gan-p. Of 3 methods, msg-gan-p does best on these images: 35.3 ± 0.4 % in the linear probe.",
        "msg-gan-p is 11.0 points above mse (24.3 ± 0.4 %), more than the spread of the seeds.",
        "Two seeds say little about a spread",
        "The floor is random init with 10.0 %. The published net reaches 90.0 %.",
        "An epoch of msg-gan-p takes 1.5 times as long as one of mse (1 min 10 s).",
    ):
        assert sentence in said
    assert "test images" not in said  # the gap is far beyond what 2,000 test images leave open


def test_a_lead_within_the_spread_is_no_lead(make: Make) -> None:
    said = told(make([method("mse", [0.24, 0.27, 0.26]), method("ls-gan-p", [0.25, 0.27, 0.28])]))
    assert said.startswith("ls-gan-p or mse. Of 2 methods, ls-gan-p and mse do best on these images: 26.7 ± 1.5 % and")
    assert "too close to tell apart" in said
    assert "ls-gan-p is 1.0 points above mse (25.7 ± 1.5 %), which is within the spread of the seeds." in said
    # 1.96 sqrt(0.267 * 0.733 / 2000)
    assert "With 2,000 test images each of these figures is good to about ±1.9 points" in said


def test_many_that_are_within_the_spread_are_no_answer(make: Make) -> None:
    names = ["mse", "ms-ssim", "ls-gan", "ls-gan-p"]
    said = told(make([method(name, [0.2 + n / 1000, 0.24 + n / 1000]) for n, name in enumerate(names)]))
    assert said.startswith("No clear answer. Of 4 methods, ls-gan-p has the highest linear probe on these images")
    assert "3 others are within the spread" in said


def test_one_seed_is_said_to_be_one(make: Make) -> None:
    folder = make([method("mse", [0.24]), method("ls-gan-p", [0.25])], setup={"seeds": [0]})
    said = told(folder)
    assert said.startswith("ls-gan-p, on one seed. Of 2 methods, ls-gan-p does best on these images: 25.0 %")
    assert "how far another seed would move the numbers is not known" in said
    assert "spread" not in said
    _, page = page_of(folder)
    assert "±" not in page.seen.replace("±1.9 points", "")
    assert "one seed each" in page.seen


@pytest.mark.parametrize(
    ("mse", "other", "said"),
    [
        ([0.2], [0.2], "mse or ls-gan-p, on one seed. Of 2 methods, mse and ls-gan-p do best"),
        ([0.2004], [0.2001], "mse or ls-gan-p, on one seed. "),  # they read the same
        ([0.0], [0.0], "mse or ls-gan-p, on one seed. "),
        ([0.5, 0.5], [0.5, 0.5], "mse or ls-gan-p. Of 2 methods"),
        ([0.50, 0.52], [0.509], "mse or ls-gan-p, on one seed. "),  # within the range of the other
        ([0.50, 0.52], [0.525], "ls-gan-p, on one seed. Of 2 methods, ls-gan-p does best"),
        ([0.50, 0.52], [0.519], "ls-gan-p or mse, on one seed. "),
        ([0.50, 0.52], [0.4], "mse, on one seed of ls-gan-p. Of 2 methods, mse does best"),
    ],
)
def test_a_tie_and_a_method_with_fewer_seeds_are_no_clear_win(
    make: Make, mse: list[float], other: list[float], said: str
) -> None:
    folder = make([method("mse", mse), method("ls-gan-p", other)])
    found = told(folder)
    assert found.startswith(said)
    assert (" or " in said) == (verdict(read_comparison(folder)).colour is None)
    assert ("too close to tell apart" in found) == (" or " in said)
    assert "0.0 points" not in found
    if [len(mse), len(other)] == [2, 1]:
        assert "Of ls-gan-p there is one seed" in found
        assert "one seed each" not in " ".join(fact.beside for fact in facts(read_comparison(folder)))


def test_the_answer_is_about_the_methods_that_it_is_between(make: Make) -> None:
    rows = [method("mse", [0.30, 0.301]), method("ms-ssim", [0.5, 0.501]), method("ls-gan", [0.1])]
    said = told(make(rows))
    assert said.startswith("ms-ssim. Of 3 methods, ms-ssim does best on these images: 50.0 ± 0.1 %")
    assert "Of ls-gan there is one seed: how far another seed would move the numbers" in said
    assert "Two seeds say little about a spread" in said
    rows[0] = method("mse", [0.30])
    assert told(make(rows)).startswith("ms-ssim, on one seed of mse. ")
    rows[0] = method("mse", [0.5005])
    assert told(make(rows)).startswith("mse or ms-ssim, on one seed. ")


def test_many_that_read_the_same_are_no_answer(make: Make) -> None:
    names = ["mse", "ms-ssim", "ls-gan", "ls-gan-p"]
    rows = [method(name, [0.2]) for name in names]
    said = told(make(rows))
    assert said.startswith("No clear answer. Of 4 methods, mse has the highest linear probe on these images, 20.0 %, ")
    assert facts(read_comparison(make(rows)))[0].beside == "mse, ms-ssim, ls-gan, ls-gan-p"
    assert "but 3 others are too close to tell apart." in said
    assert "spread" not in said


def test_a_gain_within_the_range_of_the_one_that_has_seeds_is_said_to_be(make: Make) -> None:
    within = read_comparison(make([method("mse", [0.509]), method("ls-gan-p", [0.50, 0.52])]))
    assert [fact.beside for fact in facts(within) if fact.name == "Above mse"] == ["within the spread"]
    assert "ls-gan-p is 0.1 points above mse (50.9 %), which is within the spread of the seeds." in told(within.path)
    beyond = read_comparison(make([method("mse", [0.4]), method("ls-gan-p", [0.50, 0.52])]))
    assert [fact.beside for fact in facts(beyond) if fact.name == "Above mse"] == ["one seed of mse"]


def test_the_plain_autoencoder_may_win_and_is_then_held_against_the_second(make: Make) -> None:
    said = told(make([method("ls-gan-p", [0.20, 0.21]), method("mse", [0.30, 0.31]), method("ms-ssim", [0.25, 0.26])]))
    assert "mse is 5.0 points above ms-ssim" in said
    assert "An epoch takes 1 min 00 s." in said


def test_methods_below_the_floor_are_told_so(make: Make) -> None:
    said = told(make([*THREE, other("raw pixels", "floor", 0.4)]))
    assert "No method is above the floor, raw pixels with 40.0 %" in said


def test_without_labels_nobody_can_say_and_the_page_says_why(make: Make) -> None:
    note = "k-NN and linear probe are left out: the images have no labels."
    data = {"spec": "./photos", "train_images": 10, "validation_images": 5, "classes": []}
    rows = [method("mse", None), method("ls-gan-p", None)]
    rows[1]["metrics"] |= {"l1": [0.1], "fd-net": [12.5]}
    folder = make(rows, data=data, notes=[note])
    said = told(folder)
    assert said.startswith("Not known without labels. Which encoder is best is not known, because")
    assert "By FD in net the reconstructions of ls-gan-p are nearest to the images (12.5)." in said
    assert "By L1 the reconstructions of ls-gan-p have the smallest error (0.1000)." in said
    _, page = page_of(folder)
    assert note in page.seen
    assert "Linear probe top" not in page.seen
    assert "low by nature" not in page.seen


def test_where_only_k_nn_was_measured_it_decides(make: Make) -> None:
    rows = [method("mse", [0.2, 0.2]), method("ls-gan-p", [0.4, 0.4])]
    for row in rows:
        row["metrics"] = {"knn/cls/top1": row["metrics"]["knn/mean/top1"]}
    # What only a published model has does not take the place of what the methods have.
    assert "20.0 ± 0.0 % in the k-NN." in told(make([*rows, other("net", "published", 0.9)]))
