import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from perceptual_mae.report.curves import POINTS, curves, is_noisy, smooth, svg, thinned
from perceptual_mae.report.panels import Line, panels
from perceptual_mae.report.tracks import CAP, Damage, Track, read_records, tracks


def logged(**columns: list[float]) -> dict[str, Track]:
    keys = [key.replace("__", "/") for key in columns]
    return tracks({"step": step, **dict(zip(keys, row, strict=True))}
                  for step, row in enumerate(zip(*columns.values(), strict=True), 1))  # fmt: skip


def titles(found: dict[str, Track], **expected: float) -> dict[str, list[str]]:
    return {panel.title: [line.name for line in panel.lines] for panel in panels(found, expected)}


def test_validation_stands_beside_the_training_loss_of_its_name_and_a_total_of_one_part_is_not_drawn_twice():
    found = logged(loss__total=[3.0, 2], loss__mse=[3.0, 2], validation__mse=[4.0, 3], lr=[1e-4, 2e-4])
    assert titles(found) == {"MSE": ["training", "validation"], "Learning rate": ["learning rate"]}


def test_loss_parts_share_a_panel_and_what_nobody_foresaw_has_its_own():
    found = logged(
        loss__total=[3.0, 2], loss__l1=[1.0, 1], loss__perceptual=[2.0, 1], d_real=[0.7, 0.8], d_fake=[0.2, 0.1],
        adversary__path_length=[5.0, 6], validation__psnr=[20.0, 21], knn__top1=[0.1, 0.2], knn__top5=[0.3, 0.4],
        epoch=[0.1, 0.2], seconds=[1.0, 2],
    )  # fmt: skip
    assert titles(found) == {
        "Loss and its parts": ["total", "L1", "perceptual"],
        "PSNR on validation images": ["validation"],
        "k-NN accuracy": ["top-1", "top-5"],
        "Discriminator on real and generated images": ["real", "fake"],
        "Adversary: path length": ["adversary: path length"],
    }


def test_the_expected_loss_comes_from_the_run_or_from_the_records():
    by_run = panels(logged(loss__mse=[3.0, 2]), {"mse": 1.5})
    by_record = panels(logged(loss__mse=[3.0, 2], expected__mse=[1.5, 1.5]))
    assert [panel.expected for panel in by_run] == [panel.expected for panel in by_record] == [1.5]
    assert 1.5 in [line.get_ydata()[0] for line in curves([{"step": 1, "loss/mse": 3}], {"mse": 1.5})[
        "loss/mse+validation"].axes[0].lines]  # fmt: skip


def test_accuracies_are_in_percent_whether_logged_as_fractions_or_not():
    for values in ([0.25, 0.5], [25.0, 50.0]):
        (panel,) = panels(logged(knn__top1=values))
        assert panel.lines[0].values.tolist() == [25, 50]
        assert panel.unit == " %"


def test_a_log_axis_only_where_positive_values_span_decades():
    decades = [10.0 ** -(step / 10) for step in range(40)]
    assert panels(logged(loss__l1=decades))[0].log
    assert not panels(logged(loss__l1=[-1.0, *decades]))[0].log
    assert not panels(logged(loss__l1=[1 + value for value in decades]))[0].log
    assert not panels(logged(lr=decades))[0].log


def test_a_resumed_run_replaces_the_steps_it_repeats():
    steps, values = tracks(
        [{"step": step, "a": 1} for step in (10, 20, 30, 40)] + [{"step": step, "a": 2} for step in (20, 30)]
    )["a"].points()
    assert steps.tolist() == [10, 20, 30]
    assert values.tolist() == [1, 2, 2]


def test_a_track_is_bounded_and_keeps_both_its_ends():
    track = Track()
    for step in range(1, 20 * CAP):
        track.add(step, step * 2.0)
    steps, values = track.points()
    assert len(steps) <= 2 * CAP + 1
    assert (steps[0], steps[-1], values[-1]) == (1, 20 * CAP - 1, 2.0 * (20 * CAP - 1))
    assert (np.diff(steps) > 0).all()
    assert track.at(5.5) is not None


def test_only_numbers_are_read_and_what_is_not_finite_is_a_gap():
    found = tracks([{"step": 1, "a": 1.0, "b": "text", "c": True, "d": [1], "e": 10**400, "f": math.nan}])
    assert set(found) == {"a", "f"}
    assert np.isnan(found["f"].points()[1]).all()
    assert found["f"].at(1) is None


def test_damaged_lines_are_counted_and_passed_over(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(
        b'{"step": 1, "a": 1}\n\nnot json\n[1]\n{"a": 1}\n{"step": NaN}\n\xff\xfe\n{"step": 2, "a": 2}\n{"step": 3'
    )
    damage = Damage()
    assert [record["step"] for record in read_records(file, damage)] == [1, 2]
    assert damage.lines == 6
    assert damage.last_line_cut


def test_a_long_file_is_read_in_part_but_no_rare_record_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("perceptual_mae.report.tracks.FULLY_READ", 10_000)
    file = tmp_path / "metrics.jsonl"
    rare = {7001, 12345}
    with file.open("w") as lines:
        for step in range(1, 20_001):
            lines.write(json.dumps({"step": step, "loss/l1": 0.5} | ({"knn/top1": 0.1} if step in rare else {})) + "\n")
    read = [record["step"] for record in read_records(file, Damage())]
    assert len(read) < 2000
    assert (read[0], read[-1]) == (1, 20_000)
    assert rare < set(read)


def test_thinning_keeps_peaks():
    values = np.sin(np.arange(50_000) / 50)
    values[31_234] = 99
    line = thinned(Line("a", np.arange(50_000.0), values))
    assert len(line.values) <= POINTS + 2
    assert line.values.max() == 99
    assert line.steps[line.values.argmax()] == 31_234
    assert (np.diff(line.steps) > 0).all()


def test_smoothing_keeps_a_constant_and_passes_over_gaps():
    values = np.full(400, 3.0)
    values[50] = np.nan
    smoothed = smooth(values)
    assert np.isnan(smoothed[50])
    assert np.allclose(smoothed[np.isfinite(values)], 3.0)
    noise = np.random.default_rng(0).standard_normal(4000)
    assert smooth(noise)[400:].std() < 0.2


def test_a_schedule_is_not_noise_and_noise_is():
    ramp = np.concatenate([np.linspace(0, 1, 100), np.cos(np.linspace(0, np.pi, 900))])
    assert not is_noisy(ramp)
    assert is_noisy(ramp + np.random.default_rng(0).standard_normal(1000) * 0.1)


def test_curves_of_awkward_numbers_are_drawn(tmp_path: Path):
    records = [
        {"step": 0, "zero": 0, "nan": math.nan, "tiny": 1e-300, "huge": 1e300, "one": 1, "neg": -5},
        {"step": 0, "zero": 0, "nan": math.inf, "tiny": 2e-300, "huge": -1e300, "neg": -5},
    ]
    figures = curves(records)
    assert set(figures) == {"zero", "nan", "tiny", "huge", "one", "neg"}
    for key, figure in figures.items():
        figure.savefig(tmp_path / f"{key}.png")
        assert (tmp_path / f"{key}.png").stat().st_size > 1000


def test_no_figure_is_drawn_of_nothing():
    assert curves([]) == {}


def test_svg_takes_colours_and_letters_from_its_page_and_shares_no_id_with_another():
    (panel,) = panels(logged(loss__mse=[3.0, 2, 1, 0.5] * 30, validation__mse=[3.0, 2, 1, 1] * 30), {"mse": 2.5})
    one, other = svg(panel, "one"), svg(panel, "other")
    assert "var(--line-0)" in one
    assert "var(--line-1)" in one
    assert "var(--words)" in one
    assert "font-family" not in one
    assert "DejaVu" not in one
    assert "<text" in one
    ids, others = (set(re.findall(r' id="([^"]+)"', text)) for text in (one, other))
    assert ids
    assert not ids & others
    assert set(re.findall(r"url\(#([^)]+)\)", one)) | set(re.findall(r'href="#([^"]+)"', one)) == ids
    assert "<style" not in one  # it would hold for the whole page
    assert "http" not in one
    assert len(one) < 40_000


def test_the_scale_of_a_small_learning_rate_can_be_read():
    (panel,) = panels(logged(lr=[1e-6 * step for step in range(150)]))
    labels = re.findall(r"<text[^>]*>([^<]+)</text>", svg(panel, "lr"))
    assert "4e-5" in labels or "5e-5" in labels
    assert len(labels) == len(set(labels)) + 1  # only 0 is on both axes
