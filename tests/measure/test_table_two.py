"""The table at small scale: a cell from training to its file, and the page that is made from such files."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch import Tensor

from benchmarks import table2_small
from benchmarks.table2 import cell as cells
from benchmarks.table2 import charts, floors, judge, knobs, page, table
from benchmarks.table2.cell import Cell, few_labels, fill
from perceptual_mae.errors import UsageError
from perceptual_mae.methods import METHODS


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where cells are written in place of the repository."""
    for module in (cells, floors, judge):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture(scope="module")
def data(photographs: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of crops of photographs: 280 to train on, 40 to measure on."""
    folder = tmp_path_factory.mktemp("crops")

    def encoded(number: int) -> bytes:
        file, picture = io.BytesIO(), photographs[number % len(photographs)].roll(number, dims=-1)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((32, 32)).save(file, "png")
        return file.getvalue()

    for name, count in (("train", 280), ("validation", 40)):
        images = [{"bytes": encoded(number), "path": None} for number in range(count)]
        pq.write_table(pa.table({"image": images, "label": [n % 2 for n in range(count)]}), folder / f"{name}.parquet")
    return folder


# -- cells -------------------------------------------------------------------------------------------------------------


def test_a_cell_is_trained_measured_and_kept(
    results: Path, data: Path, tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cell = Cell(str(data), "mse", size=32, epochs=1, knob="lr=1e-3")
    found = fill(cell, tmp_path / "runs", precision="fp32", workers=0, finetuned=False)
    assert cell.file == results / f"{data.name}-micro" / "knobs" / "mse-lr_1e-3-1ep-seed0.json"
    assert json.loads(cell.file.read_text(encoding="utf-8")) == found
    assert {"linear/mean/top1", "linear/cls/top1", "knn/mean/top1", "l1", "psnr", "ssim"} <= set(found["measured"])
    assert found["settings"]["lr"] == 1e-3
    assert found["machine"]["device"].startswith("cpu")
    assert found["machine"]["seconds"] > 0
    assert found["course"][-1]["step"] == 1
    assert str(tmp_path) not in cell.file.read_text(encoding="utf-8"), "no places on somebody's disk"
    assert in_this_process == ["mse-seed0"]

    fill(cell, tmp_path / "runs", precision="fp32", workers=0, finetuned=False)
    assert in_this_process == ["mse-seed0"], "what is there is not repeated"
    with pytest.raises(UsageError, match=r"--image-size 64: .*\.json is of images of 32 pixels"):
        fill(replace(cell, size=64), tmp_path / "runs", precision="fp32", workers=0, finetuned=False)

    file = judge.judge(tmp_path / "runs" / cell.table, cell.name, [cell.name], 0)
    judged = json.loads(file.read_text(encoding="utf-8"))
    assert file == results / cell.table / "judged.json"
    assert judged["judge"] == cell.name
    assert judged["distances"][cell.name] > 0
    assert table.all_cells(results) == [found], "it is no cell"


def test_a_tenth_of_the_labels(data: Path, tmp_path: Path) -> None:
    few = few_labels(data, tmp_path)
    kept = pq.read_table(few / "train.parquet")
    assert kept.column("label").to_pylist() == [0, 1] * 14
    whole = pq.read_table(data / "train.parquet")
    assert kept.column("image").to_pylist() == whole.column("image").to_pylist()[:28]
    assert pq.read_table(few / "validation.parquet").num_rows == 40


def test_a_knob_turns_what_it_names() -> None:
    start = Cell("x", "msg-gan-p")
    before = start.settings("timm:none", "fp32", 0)
    after = replace(start, knob="losses.feature_balance=1.0&discriminator.lr=5e-5").settings("timm:none", "fp32", 0)
    assert after.losses == replace(before.losses, feature_balance=1.0)
    assert after.discriminator == replace(before.discriminator, lr=5e-5)
    assert replace(after, losses=before.losses, discriminator=before.discriminator) == before


def test_names_are_for_every_file_system() -> None:
    assert (
        Cell("x", "timm-p", knob='recipe="paper"&losses.delta_s=0').name
        == "timm-p-recipe_paper+losses.delta_s_0-15ep-seed0"
    )


@pytest.mark.parametrize(("row", "knob"), [turn[1:] for turn in knobs.turns()])
def test_every_knob_is_a_setting(row: str, knob: str) -> None:
    plain = Cell("x", row).settings("timm:none", "fp32", 0)
    turned = Cell("x", row, knob=knob).settings("timm:none", "fp32", 0)
    turned.check()
    assert (turned == plain) == (knob == knobs.NOTHING)


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="losses"):
        Cell("x", "mse", knob="losses.weight=1").settings("timm:none", "fp32", 0)


def test_equal_time_is_more_epochs_of_what_costs_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = dict.fromkeys(table2_small.ROWS, 2.0) | {"mse": 1.0, "stylegan2-ada-p": 3.0}
    (tmp_path / "cost.json").write_text(json.dumps({"tiny-imagenet-40-micro": cost}), encoding="utf-8")
    monkeypatch.setattr(table, "COST", tmp_path / "cost.json")
    options = table2_small.make_parser().parse_args(["rows", "--epochs", "10", "--equal-time"])
    epochs = {cell.method: cell.epochs for cell in table2_small.cells(options)}
    assert (epochs["mse"], epochs["ms-ssim"], epochs["stylegan2-ada-p"]) == (30, 15, 10)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pictures"], "--cells is missing"),
        (["pictures", "--cells", "mse-9ep-seed0"], "--cells mse-9ep-seed0: was not trained in"),
        (["judge", "--cells", "mse-9ep-seed0"], "--cells mse-15ep-seed1: was not trained in"),
        (["rows", "--equal-time", "--model", "huge"], "cost --data .* --model huge --image-size 64` first"),
        (["rows", "--rows", "nothing"], "--rows nothing: there are mse"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str],
    said: str,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(table2_small.sys, "argv", ["table2_small", *arguments, "--out", str(tmp_path)])
    assert table2_small.main() == 2
    assert re.search(said, capsys.readouterr().err)


# -- the page ----------------------------------------------------------------------------------------------------------


def made(method: str, seed: int = 0, linear: float = 0.25, fd: float = 200.0, knob: str = "") -> dict[str, Any]:
    """A cell's file, as short as it can be."""
    cell = {"data": "photos", "model": "micro", "method": method, "size": 64, "epochs": 15, "seed": seed}
    return {
        "cell": cell | {"knob": knob},
        "measured": {"linear/mean/top1": linear, "fd-network": fd},
        "machine": {"device": "cpu", "precision": "fp32", "torch": "2", "seconds": 1800.0 * (1 + (method != "mse"))},
    }


FOUND = [
    made("mse", 0, 0.25, 200),
    made("mse", 1, 0.27, 220),
    made("timm-p", 0, 0.30, 100),
    made("timm-p", 1, 0.32, 110),
    made("ms-ssim", 0, 0.26, 150),
    made("mse", 0, 0.28, 180, knob="lr=3e-3"),
]


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_seeds_of_a_row_are_their_mean_and_half_their_range(results: Path) -> None:
    head, _, *rows = map(cells_of, page.rows_table(FOUND, "photos", "micro", "15", "epochs"))
    assert head == ["method", "epochs", "seeds", "linear, mean token", "FD", "paper, linear"]
    assert rows == [
        ["`mse`", "15", "2", "26.0 ± 1.0", "210.0 ± 10.0", "67.8"],
        ["`ms-ssim`", "15", "1", "26.0", "150.0", "71.2"],
        ["`timm-p`", "15", "2", "31.0 ± 1.0", "105.0 ± 5.0", "–"],
    ]


def test_at_equal_time_what_costs_less_has_more_epochs(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "COST", tmp_path / "cost.json")
    longer = made("mse", linear=0.29)
    longer["cell"]["epochs"] = 30
    found = [*FOUND, longer]
    assert page.rows_table(found, "photos", "micro", "15", "time") == ["No cell of this table has been filled yet."]
    table.COST.write_text(json.dumps({"photos-micro": {"mse": 1.0, "ms-ssim": 1.5, "timm-p": 2.0}}), encoding="utf-8")
    _, _, *rows = map(cells_of, page.rows_table(found, "photos", "micro", "15", "time"))
    assert [row[:4] for row in rows] == [["`mse`", "30", "1", "29.0"], ["`timm-p`", "15", "2", "31.0 ± 1.0"]]


def test_floors_stand_below(results: Path) -> None:
    file = floors.floors_file("photos", "micro")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"raw pixels": {"measured": {"linear/mean/top1": 0.178}}}), encoding="utf-8")
    rows = page.rows_table(FOUND, "photos", "micro", "15", "epochs")
    assert cells_of(rows[-1]) == ["raw pixels", "–", "–", "17.8", "–", "–"]
    assert len(table.all_cells(results)) == 0, "they are no cells"


def test_distances_of_two_networks_stand_side_by_side(results: Path) -> None:
    assert page.judged_table(FOUND, "photos", "micro") == ["Nothing has been judged yet."]
    file = judge.judged_file("photos-micro")
    file.parent.mkdir(parents=True)
    distances = {"timm-p-15ep-seed1": 0.8991, "gone-15ep-seed0": 0.5}
    file.write_text(json.dumps({"judge": "mse-15ep-seed1", "distances": distances}), encoding="utf-8")
    head, _, *rows = map(cells_of, page.judged_table(FOUND, "photos", "micro"))
    assert head[-1] == "FD in the encoder of `mse-15ep-seed1`"
    assert rows == [["`timm-p-15ep-seed1`", "110.0", "0.899"], ["`gone-15ep-seed0`", "–", "0.500"]]


def test_rows_stand_beside_mse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "COST", tmp_path / "cost.json")
    _, _, *rows = map(cells_of, page.beside_base(FOUND, "photos", "micro", "15", "epochs"))
    assert rows == [
        ["`ms-ssim`", "+0.0 points", "one seed", "-29 %", "one seed", "x 2.0"],
        ["`timm-p`", "+5.0 points", "apart", "-50 %", "apart", "x 2.0"],
    ]
    table.COST.write_text(json.dumps({"photos-micro": {"mse": 1.0, "ms-ssim": 1.3}}))
    _, _, *rows = map(cells_of, page.beside_base(FOUND, "photos", "micro", "15", "epochs"))
    assert [row[-1] for row in rows] == ["x 1.3", "x 2.0"]
    assert page.beside_base(FOUND[2:3], "photos", "micro", "15", "epochs") == ["No row stands beside `mse` yet."]


@pytest.mark.parametrize(
    ("these", "those", "expected"), [([1, 2], [3, 4], True), ([3, 4], [1, 2], True), ([1, 3], [2, 4], False)]
)
def test_ranges_are_apart(these: list[float], those: list[float], expected: bool) -> None:
    assert table.apart(these, those) is expected


def test_a_turned_setting_stands_beside_its_start() -> None:
    _, _, row = map(cells_of, page.knobs_table(FOUND, "photos", "micro"))
    assert row == ["learning rate", "`mse`", "15", "`lr=3e-3`", "28.0 (+3.0)", "–", "–", "–", "180.0 (-20.0)"]


def test_what_is_drawn_of_other_masks_is_not_compared() -> None:
    other = made("mse", 0, 0.28, 120, knob="mask_ratio=0.5") | {"settings": {"mask_ratio": 0.5}}
    other["measured"]["l1"] = 0.1
    _, _, row = map(cells_of, page.knobs_table([FOUND[0], other], "photos", "micro"))
    assert row[-5:] == ["28.0 (+3.0)", "–", "–", "–", "–"]


def test_a_cell_that_failed_says_so() -> None:
    failed = made("mse", knob="lr=3e-3") | {"failed": "nan", "measured": {}}
    (*_, row) = map(cells_of, page.knobs_table([FOUND[0], failed], "photos", "micro"))
    assert row[-5:] == ["failed"] * 5


def test_hours_are_added_up() -> None:
    (*_, row) = map(cells_of, page.hours(FOUND))
    assert row == ["photos", "micro", "6", "4.5", "cpu", "fp32", "2"]


def test_parts_of_a_page_are_replaced_and_the_rest_stays() -> None:
    text = "# Title\n<!-- hours -->\nold\n<!-- end -->\nprose <!-- a note -->\n"
    text += "<!-- beside photos micro 15 epochs --><!-- end -->\n"
    once = page.filled(text, FOUND)
    assert "old" not in once
    assert "prose <!-- a note -->" in once
    assert "+5.0 points" in once
    assert page.filled(once, FOUND) == once


def test_the_summary_has_a_row_a_method() -> None:
    head, _, *rows = map(cells_of, page.summary(FOUND, "15", "micro", "photos", "nothing"))
    assert head[2:] == ["paper: ViT-B, ImageNet", "`micro`, photos", "`micro`, nothing"]
    assert [row[0] for row in rows] == [*(f"`{name}`" for name in METHODS), "–"]
    assert rows[0][2] == "67.8"
    assert rows[0][3] == cells_of(page.rows_table(FOUND, "photos", "micro", "15", "epochs")[2])[3]
    assert {row[4] for row in rows} == {"–"}


@pytest.mark.parametrize("path", page.PAGES, ids=lambda path: path.name)
def test_the_pages_say_what_the_files_say(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert page.filled(text, table.all_cells()) == text, "run `python -m benchmarks.table2_small page`"


def test_plots_are_drawn_of_every_table(tmp_path: Path) -> None:
    turned = [made("mse", knob=f"lr={rate}e-4") for rate in (1, 2, 6)]
    assert [file.name for file in charts.draw([*FOUND, *turned[:2]], tmp_path)] == ["photos-micro-15-epochs.png"]
    drawn = charts.draw([*FOUND, *turned], tmp_path)
    assert [file.name for file in drawn] == ["photos-micro-15-epochs.png", "photos-micro-knobs.png"]
    for file in drawn:
        with Image.open(file) as picture:
            assert min(picture.size) > 100
