"""Run folders that lie to the report: it says what it could not read, and is written all the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import HOSTILE, damaged, fuzz, mutated, outcome
from hypothesis import example, given
from hypothesis import strategies as st

from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.report.finetuned import write_finetuned_report
from perceptual_mae.report.html import write_report
from perceptual_mae.report.tracks import Damage, read_records, tracks
from perceptual_mae.settings import to_dict
from perceptual_mae.transfer.config import ClassificationConfig

CONFIG = to_dict(PretrainConfig(data="./photos", method="stylegan2-ada-p", model="micro", image_size=64, patch_size=8))
TASK = to_dict(ClassificationConfig(encoder="runs/mine", data="./labelled"))
INFO: dict[str, Any] = {
    "version": "0.1.0",
    "torch": "2.8.0",
    "python": "3.11.9",
    "device": "cpu (2 threads)",
    "precision": "fp32",
    "processes": 1,
    "cores": 2,
    "peak_memory_gib": 1.5,
    "model": {"name": "micro", "parameters": 1234567, "gflop_per_image": 0.126, "grid": [8, 8], "tokens": 64},
    "data": {"images": 20000, "validation_images": 2000, "classes": ["a", "b"], "pictures_from": "validation"},
    "expected": {"l1": 0.23},
    "encoder": {"name": "mine", "parameters": 3, "matched": "x"},
    "best": {"step": 20, "value": 0.9, "metric": "top1"},
    "steps": 200,
    "state": "finished",
    "message": "",
}
RESULTS: dict[str, Any] = {
    "task": "classification",
    "step": 20,
    "metric": "top1",
    "metrics": {"top1": 0.9, "top5": 1.0},
    "interval": [0.8, 0.95],
    "images": 100,
    "notes": ["x"],
    "classes": [
        {"name": "a", "recall": 0.9, "images": 50, "taken_for": "b", "taken_share": 0.1},
        {"name": "b", "recall": 1},
    ],
}
RECORDS: list[Any] = [
    {
        "step": step,
        "epoch": step / 80,
        "lr": 1e-4,
        "loss/total": 1 / step,
        "loss/l1": 1 / step,
        "seconds": step * 0.5,
        "grad_norm": 1.0,
        "images_per_second": 800.0,
        "validation/l1": 0.3,
        "validation/top1": 0.5,
        "knn/top1": 0.3,
        "d_real": 0.6,
        "d_fake": 0.4,
        "d_accuracy": 0.7,
        "ada_p": 0.1,
    }
    for step in (10, 20, 30)
]


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def as_lines(records: Any) -> bytes:
    return b"".join(as_json(record) + b"\n" for record in (records if isinstance(records, list) else [records]))


def lies(good: Any) -> st.SearchStrategy[bytes]:
    return st.one_of(
        mutated(good).map(as_json), mutated(good).map(as_json), damaged(as_json(good)), st.just(b"[" * 100_000)
    )


def folder(path: Path, files: dict[str, bytes | None]) -> Path:
    """A run folder of these files."""
    for name, data in files.items():
        if data is not None:
            (path / name).write_bytes(data)
    return path


def written(run: Path, finetuned: bool) -> None:
    """The report, which must be one page of HTML that a browser can decode."""
    page = write_finetuned_report(run) if finetuned else write_report(run, defaults=CONFIG)
    text = page.read_text(encoding="utf-8")
    assert text.rstrip().endswith("</html>")
    assert "Traceback" not in text


LINES = st.one_of(mutated(RECORDS, 5).map(as_lines), damaged(as_lines(RECORDS)), st.binary(max_size=80), st.none())


@fuzz(8)
@given(
    config=mutated(CONFIG).map(as_json) | st.just(as_json(CONFIG)),
    info=lies(INFO) | st.none(),
    metrics=LINES,
    skipped=st.none() | st.binary(max_size=80),
)
def test_reports_of_pre_training(
    config: bytes,
    info: bytes | None,
    metrics: bytes | None,
    skipped: bytes | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    files = {"config.yaml": config, "run.json": info, "metrics.jsonl": metrics, "skipped.txt": skipped}
    run = folder(tmp_path_factory.mktemp("run"), files)
    outcome(lambda: written(run, finetuned=False))


@fuzz(8)
@given(
    config=mutated(TASK).map(as_json) | st.just(as_json(TASK)), info=lies(INFO), results=lies(RESULTS), metrics=LINES
)
def test_reports_of_fine_tuning(
    config: bytes, info: bytes, results: bytes, metrics: bytes | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = {"config.yaml": config, "run.json": info, "metrics.jsonl": metrics, "results.json": results}
    run = folder(tmp_path_factory.mktemp("run"), files)
    outcome(lambda: written(run, finetuned=True))


NAMES = ("config.yaml", "run.json", "metrics.jsonl", "results.json", "skipped.txt")
VALUES = (*HOSTILE, [[[]] * 10] * 10, "\U0001f600" * 10, [1] * 10_000)


@fuzz(8)
@given(name=st.sampled_from(NAMES), value=st.sampled_from(VALUES))
def test_a_file_that_holds_any_hostile_value(name: str, value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    files: dict[str, bytes | None] = {"config.yaml": as_json(TASK), "run.json": as_json(INFO)}
    files |= {"metrics.jsonl": as_lines(RECORDS), "results.json": as_json(RESULTS), name: as_json(value)}
    run = folder(tmp_path_factory.mktemp("run"), files)
    outcome(lambda: written(run, finetuned=True))


@fuzz(80)
@given(lines=LINES.filter(lambda lines: lines is not None))
@example(lines=b'{"step": 1e400}\n{"step": 1, "a": NaN}\n{"step": true}\n' + b"[" * 100_000)
@example(lines=b"".join(b'{"step": 1, "k%d": 1}\n' % number for number in range(3000)))
@example(lines=b'{"step": 9' + b"9" * 5000 + b"}\n")
def test_metrics(lines: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = folder(tmp_path_factory.mktemp("run"), {"metrics.jsonl": lines}) / "metrics.jsonl"

    def read() -> None:
        damage = Damage()
        for track in tracks(read_records(file, damage)).values():
            steps, values = track.points()
            assert len(steps) == len(values)

    outcome(read)


def test_yaml_that_grows_without_end(tmp_path: Path) -> None:
    laughs = "a0: &a0 [ha, ha]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    (tmp_path / "config.yaml").write_text(f"{laughs}\ntask: *a39\n{yaml.safe_dump({'data': 'x'})}", encoding="utf-8")
    outcome(lambda: written(tmp_path, finetuned=False))
