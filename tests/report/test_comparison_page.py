"""The report of a comparison: what it shows, and what it does when something is missing."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison_rows import SCALE, THREE, Make, method, other, page_of, told, write_folder
from numpy.typing import NDArray

from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.methods import METHODS
from perceptual_mae.report.comparison import curves_of_all, markdown, write_comparison
from perceptual_mae.report.comparison_chart import dots
from perceptual_mae.report.comparison_folder import read_comparison
from perceptual_mae.report.comparison_table import cells, columns, measure
from perceptual_mae.report.figures import save, side_by_side

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\n| *b* 写真 {{ 7*7 }}"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """See `write_folder`."""
    return partial(write_folder, tmp_path / "comparison")


# -- table, chart, curves ----------------------------------------------------------------------------------------------


def test_the_best_of_each_column_is_bold_by_its_own_direction(make: Make) -> None:
    rows = [method("mse", [0.2, 0.3]), method("ls-gan-p", [0.4, 0.5])]
    rows[0]["metrics"]["psnr"] = [30.0, 31.0]
    comparison = read_comparison(make(rows + SCALE))
    shown = columns(comparison)
    assert [one.head for one in shown] == [
        "Linear probe top-1, %", "Linear probe top-5, %", "k-NN top-1, %", "L1", "PSNR, dB",
    ]  # fmt: skip
    table = {row.name: cells(comparison, row, shown) for row in comparison.rows}
    assert [cell.best for cell in table["mse"]] == [False, False, False, False, True]
    assert [cell.best for cell in table["ls-gan-p"]] == [True, True, True, True, False]
    assert not any(cell.best for cell in table["net"])  # it is far ahead, and no method
    assert (table["mse"][0].mean, table["mse"][0].spread) == ("25.0", "± 7.1")
    assert [cell.mean for cell in table["raw pixels"]] == ["8.0", "–", "4.0", "–", "–"]


def test_one_method_alone_is_not_the_best_and_neither_is_a_floor_as_good_as_it(make: Make) -> None:
    alone = read_comparison(make([method("mse", [0.2, 0.3])]))
    assert not any(cell.best for cell in cells(alone, alone.rows[0], columns(alone)))
    level = read_comparison(make([*THREE, other("raw pixels", "floor", 0.353)]))
    assert cells(level, level.rows[2], columns(level))[0].best
    assert not cells(level, level.rows[3], columns(level))[0].best


def test_a_row_that_has_only_another_token_is_shown_with_it(make: Make) -> None:
    row = other("net", "published", 0.9)
    row["metrics"] = {"linear/cls/top1": [0.7]}
    comparison = read_comparison(make([*THREE, row]))
    cell = cells(comparison, comparison.rows[-1], columns(comparison))[0]
    assert (cell.mean, cell.remark) == ("70.0", "[CLS] token")


def test_a_dot_a_seed_a_bar_the_mean_and_far_models_at_the_edge(make: Make) -> None:
    comparison = read_comparison(make(THREE + SCALE))
    (axes,) = dots(comparison, measure("linear/mean/top1")).axes
    low, high = axes.get_xlim()
    seeds = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    assert [sorted(found) for found in seeds] == [
        pytest.approx(expected) for expected in ([24.0, 24.6], [28.0, 28.4], [35.0, 35.6], [10.0], [8.0])
    ]
    bars = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1 and line.get_linewidth() > 2]
    assert bars == pytest.approx([24.3, 28.2, 35.3])
    (arrow,) = [line for line in axes.lines if line.get_marker() == ">"]
    assert arrow.get_xdata() == [high]
    assert 8 > low > 0
    assert high < 40  # "net" with 90 % does not push everything else to the left
    assert "90.0" in [text.get_text() for text in axes.texts]


def test_curves_are_the_mean_of_the_seeds_one_colour_a_method_and_only_what_can_be_compared(make: Make) -> None:
    comparison = read_comparison(make(THREE, runs=True))
    found = {panel.key: panel for panel in curves_of_all(comparison)}
    # mse minimises no L1, so its "loss/l1" here is not the same thing; each discriminator is another judge.
    assert {key: [line.name for line in panel.lines] for key, panel in found.items()} == {
        "validation/l1": ["mse", "ls-gan-p", "msg-gan-p"],
        "knn/top1": ["mse", "ls-gan-p", "msg-gan-p"],
        "loss/l1": ["ls-gan-p", "msg-gan-p"],
    }
    line = found["validation/l1"].lines[0]
    np.testing.assert_allclose(line.steps, [10, 20, 30])
    np.testing.assert_allclose(line.values, [0.15, 0.075, 0.05])
    assert found["knn/top1"].lines[0].values.tolist() == [10, 10, 10]
    assert [line.colour for line in found["loss/l1"].lines] == [1, 2]


def test_a_seed_that_is_behind_is_averaged_where_both_have_been(make: Make) -> None:
    folder = make(THREE, runs=True)
    (folder / "mse-seed1" / "metrics.jsonl").write_text('{"step": 20, "validation/l1": 0.25}\n')
    (line, *_) = curves_of_all(read_comparison(folder))[0].lines
    assert (line.steps.tolist(), line.values.tolist()) == ([20], [0.15])


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_tells_everything_and_the_papers_numbers_with_their_protocol(
    make: Make, photographs: NDArray[np.float32], masks: NDArray[np.bool_]
) -> None:
    folder = make(THREE + SCALE, runs=True, pictures={"reconstructions": "figures/r.png", "attention": "figures/a.png"})
    for name in ("r", "a"):
        save(side_by_side(photographs, masks, {"mse": photographs}), folder / "figures" / f"{name}.png")
    _, page = page_of(folder)
    for said in (
        "Which loss suits these images?", "finished", "3 methods · 2 seeds each · 15 epochs · 20,000 images",
        "35.3", "± 0.4", "random init", "low by nature", "1.25 GiB", "higher is better", "lower is better",
        "model micro at 64 × 64 pixels, pre-trained on 20,000 images of ./photos for 15 epochs",
        "ViT-B pre-trained on ImageNet at 224 pixels", "75.6", "+7.8", "+11.0", "Linear probe, mean token", "Cached.",
        "sample standard deviation", "pmae compare --data ./photos --methods mse,msg-gan-p", "CVPR 2023",
    ):  # fmt: skip
        assert said in page.seen, said
    assert "What is missing here" not in page.seen
    assert page.seen.count("Cached.") == 1
    assert len(page.all("img")) == 2
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.all("img"))
    assert len(page.all("svg")) == 3 + 3
    assert len([a for a in page.all("figure") if a.get("data-numbers")]) == 3
    reports = {a["href"] for a in page.all("a")} - {"https://arxiv.org/abs/2212.14504"}
    assert reports == {f"./{run}/report.html" for row in THREE for run in row["runs"]}


def test_epochs_are_those_that_were_trained(make: Make) -> None:
    """With --max-steps they are fewer than were asked for; a run that has not ended says nothing."""
    folder = make(THREE, runs=True)
    for name, epoch, state in (("mse-seed0", 0.5, "finished"), ("mse-seed1", 0.3, "stopped")):
        with (folder / name / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": 31, "epoch": epoch}) + "\n")
        (folder / name / "run.json").write_text(json.dumps({"state": state}), encoding="utf-8")
    _, page = page_of(folder)
    assert "2 seeds each · 0.5 epochs · 20,000 images" in page.seen
    assert "20,000 images of ./photos for 0.5 epochs." in page.seen
    assert "15 epochs" not in page.seen
    assert "- Epochs: 0.5\n" in (folder / "results.md").read_text(encoding="utf-8")
    folder = make([method("mse", [0.2]) | {"runs": []}], setup={"epochs": 1})
    assert "1 method · 1 epoch ·" in markdown(read_comparison(folder))


def test_reports_of_runs_are_called_by_their_seeds(make: Make) -> None:
    rows = [method("mse", [0.2, 0.3])]
    rows[0]["runs"] = [f"runs/{name}" for name in rows[0]["runs"]]
    folder = make(rows)
    for name in rows[0]["runs"]:
        (folder / name).mkdir(parents=True)
        (folder / name / "report.html").write_text("")
    text, page = page_of(folder)
    assert [a["href"] for a in page.all("a") if "seed" in a["href"]] == [
        "./runs/mse-seed0/report.html", "./runs/mse-seed1/report.html",
    ]  # fmt: skip
    assert re.findall(r'report.html">([^<]*)</a>', text) == ["seed0", "seed1"]


def test_the_page_asks_nothing_of_the_network_and_runs_only_its_own_script(make: Make) -> None:
    text, page = page_of(make(THREE + SCALE, runs=True))
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) == {"https://arxiv.org/abs/2212.14504"}
    assert "@import" not in text
    assert "DejaVu" not in text  # letters of drawings are the page's
    assert not re.search(r"url\(\s*['\"]?(?!#)", text)
    assert not page.all("link")
    assert len(page.all("script")) == 1
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_what_comes_from_data_is_text_wherever_it_stands(make: Make) -> None:
    rows = [
        method("mse", [0.2, 0.3]) | {"name": HOSTILE, "failed": HOSTILE, "runs": [HOSTILE.replace("/", "")]},
        method("ls-gan-p", [0.4, 0.5]) | {"method": HOSTILE, "architecture": HOSTILE},
        other(HOSTILE, "published", 0.5),
    ]
    rows[0]["metrics"][f"fd-{HOSTILE}"] = rows[0]["metrics"][HOSTILE] = [1.0, 2.0]
    folder = make(
        rows, command=HOSTILE, notes=[HOSTILE], protocols={HOSTILE: HOSTILE, f"linear/{HOSTILE}/top1": HOSTILE},
        data={"spec": HOSTILE, "classes": [HOSTILE], HOSTILE: HOSTILE},
        setup={"model": HOSTILE, "device": HOSTILE, HOSTILE: HOSTILE, "image_size": HOSTILE, "seeds": HOSTILE},
    )  # fmt: skip
    text, page = page_of(folder)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert all(not key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert page.seen.count("<script>alert(1)</script>") >= 12
    assert "{{ 7*7 }}" in page.seen
    # A name within a drawing is escaped as well as shortened.
    assert re.search(r"<text[^>]*>&lt;script[^<]*…", text)
    written = (folder / "results.md").read_text(encoding="utf-8")
    assert "<script" not in written.replace("\\<script", "").replace("    <script", "")
    lines = [line for line in written.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines[:4]}) == 1


def test_a_comparison_that_has_only_begun_has_a_page(make: Make) -> None:
    _, page = page_of(make([], state="running"))
    for said in ("Not known yet", "running", "Nothing has been measured yet", "No reconstructions have been drawn yet"):
        assert said in page.seen
    assert not page.all("svg")


def test_while_it_runs_the_answer_is_so_far(make: Make) -> None:
    begun = method("msg-gan-p", None) | {"metrics": {}, "cost": {}}
    folder = make([*THREE[:2], begun], state="running")
    assert told(folder).startswith("ls-gan-p, so far. Of 2 methods, ls-gan-p does best")
    assert told(make([THREE[0], begun], state="running")).startswith("Only mse so far. mse is the only method")


def test_a_method_that_failed_says_why_and_the_rest_is_compared(make: Make) -> None:
    failed = method("ms-ssim", None) | {"metrics": {}, "cost": {}, "failed": "step 812: loss/adversarial is nan"}
    folder = make([*THREE, failed])
    _, page = page_of(folder)
    assert "step 812: loss/adversarial is nan" in page.seen
    assert "Of 3 methods, msg-gan-p does best" in page.seen
    assert "ms-ssim failed" in page.seen
    assert "- ms-ssim: step 812: loss/adversarial is nan" in (folder / "results.md").read_text()


def test_what_is_missing_or_broken_is_said(make: Make) -> None:
    folder = make(THREE, pictures={"reconstructions": "figures/none.png", "attention": "broken.png"})
    (folder / "broken.png").write_bytes(b"\x89PNG half a picture")
    _, page = page_of(folder)
    for said in (
        "mse-seed0 is no run folder",
        "The picture none.png is not there.",
        "The picture broken.png could not be read",
        "No training step that can be compared has been logged.",
    ):
        assert said in page.seen


def test_values_of_the_wrong_kind_are_not_fatal(make: Make) -> None:
    rows: list[Any] = [
        {"kind": "method"}, {"name": 3, "kind": "what", "metrics": {"l1": "x", "ssim": None, "is": [None, 4.0]}},
        "no row", {"name": "a", "runs": "mse", "cost": [1], "metrics": [1], "failed": 0}, None,
        {"name": "floor", "kind": "floor", "metrics": {"linear/mean/top1": [0.5], "linear": [1], "knn/x": [2]}},
    ]  # fmt: skip
    _, page = page_of(make(rows, data=[], setup=3, protocols="x", notes="y", pictures=4, command=None, state=5))
    assert "None" not in page.seen
    assert "state not known" in page.seen


def test_a_folder_without_results_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no results\.json") as caught:
        write_comparison(tmp_path)
    assert "\n" not in str(caught.value)
    for content in ("{", "[1]", "\x00"):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(PmaeError, match=r"results\.json .*repeat `pmae compare`"):
            write_comparison(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


# -- Markdown and the paper --------------------------------------------------------------------------------------------


def test_the_markdown_table_has_a_row_for_everything_and_the_best_in_bold(make: Make) -> None:
    folder = make(THREE + SCALE)
    write_comparison(folder)
    text = (folder / "results.md").read_text(encoding="utf-8")
    assert text == markdown(read_comparison(folder))
    table = [line for line in text.splitlines() if line.startswith("|")][:8]
    assert len({line.count("|") for line in table}) == 1
    assert table[0].startswith(
        "| Method | Linear probe top-1, % ↑ | Linear probe top-5, % ↑ | k-NN top-1, % ↑ | L1 ↓ |"
    )
    assert table[4].startswith("| msg-gan-p | **35.3** ± 0.4 |")
    assert table[5].startswith("| *random init* (floor) | 10.0 | – | 5.0 |")
    assert "| msg-gan-p | 35.3 / 75.6 | 0.1118 / 0.11 | – / 0.94 | – / 32.1 | – / 19.0 |" in text
    assert "**msg-gan-p.** Of 3 methods, msg-gan-p does best" in text


def test_the_papers_first_table_is_whole() -> None:
    figures = {
        name: (paper.l1, paper.ssim, paper.inception_score, paper.fid)
        for name, entry in METHODS.items()
        if (paper := entry.row(None).paper).fid is not None
    }
    assert figures == {
        "mse": (0.25, 0.76, 6.33, 42.7),
        "ms-ssim": (0.21, 0.82, 8.01, 31.6),
        "ls-gan-p": (0.16, 0.92, 16.2, 28.2),
        "msg-gan-p": (0.11, 0.94, 32.1, 19.0),
        "stylegan2-ada-p": (0.06, 0.91, 36.8, 10.3),
    }


def test_a_distance_in_another_network_does_not_stand_beside_the_papers_fid(make: Make) -> None:
    rows = [
        method("mse", [0.2], architecture="mae"),
        method("timm-p", [0.3]),
        method("msg-gan-p", [0.3], architecture="x"),
    ]
    rows[0]["metrics"]["fd-net"] = [44.0]
    text = markdown(read_comparison(make(rows)))
    section = text[text.index("## Here / in the paper") : text.index("## How it was measured")]
    assert "– / 42.7 |" in section
    assert "44" not in section
    assert "timm-p" not in section  # the paper has no such row
    assert "msg-gan-p" not in section  # nor this architecture
