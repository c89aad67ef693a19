"""Folders of comparisons, made up."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from html_page import Page

from perceptual_mae.methods import METHODS
from perceptual_mae.report.comparison import write_comparison
from perceptual_mae.report.comparison_folder import read_comparison
from perceptual_mae.report.comparison_verdict import verdict

Rows = list[dict[str, Any]]
Make = Callable[..., Path]


def method(name: str, probe: list[float] | None, **more: Any) -> dict[str, Any]:
    """A row of a method; a better encoder here paints better, too, and takes longer."""
    values = probe or [0.2]
    metrics = {
        "linear/mean/top1": values,
        "linear/mean/top5": [2 * value for value in values],
        "linear/cls/top1": [value - 0.01 for value in values],
        "knn/mean/top1": [value / 2 for value in values],
    }
    painted = {"l1": [0.2 - value / 4 for value in values], "psnr": [10 + 20 * value for value in values]}
    return {
        "name": name,
        "kind": "method",
        "method": name,
        "architecture": next(iter(METHODS[name].rows)) if name in METHODS else "",
        "runs": [f"{name}-seed{seed}" for seed in range(len(values))],
        "metrics": (metrics if probe else {}) | painted,
        "cost": {"seconds_per_epoch": 200 * values[0], "parameters": 900000, "peak_memory_gib": 1.25},
        "failed": None,
    } | more


def other(name: str, kind: str, probe: float) -> dict[str, Any]:
    metrics = {"linear/mean/top1": [probe], "knn/mean/top1": [probe / 2]}
    return {"name": name, "kind": kind, "metrics": metrics, "cost": {}}


SCALE = [other("random init", "floor", 0.1), other("raw pixels", "floor", 0.08), other("net", "published", 0.9)]
THREE = [
    method("mse", [0.240, 0.246]),
    method("ls-gan-p", [0.280, 0.284]),
    method("msg-gan-p", [0.350, 0.356]),
]


def write_folder(folder: Path, rows: Rows, *, runs: bool = False, **parts: Any) -> Path:
    """Write the folder of a comparison; keywords replace parts of `results.json`."""
    folder.mkdir(exist_ok=True)
    content = {
        "version": "0.1.0",
        "state": "finished",
        "data": {"spec": "./photos", "train_images": 20000, "validation_images": 2000, "classes": ["a", "b"]},
        "setup": {"model": "micro", "image_size": [64, 64], "epochs": 15, "mask_ratio": 0.75, "seeds": [0, 1]},
        "command": "pmae compare --data ./photos --methods mse,msg-gan-p",
        "protocols": {"linear/mean/top1": "Cached.", "linear/mean/top5": "Cached.", "reconstruction": "As it is."},
        "notes": [],
        "rows": rows,
        "pictures": {},
    }
    (folder / "results.json").write_text(json.dumps(content | parts), encoding="utf-8")
    for row in rows if runs else ():
        for seed, name in enumerate(row.get("runs", ())):
            run = folder / name
            run.mkdir(exist_ok=True)
            (run / "config.yaml").write_text("method: mse\n")
            (run / "report.html").write_text("")
            lines = [
                {
                    "step": step,
                    "validation/l1": (1 + seed) / step,
                    "knn/top1": 0.1,
                    "loss/l1": 2.0,
                    "loss/adversarial": 9,
                }
                for step in (10, 20, 30)
            ]
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def told(folder: Path) -> str:
    found = verdict(read_comparison(folder))
    return " ".join([found.answer + ".", *found.sentences])


def page_of(folder: Path) -> tuple[str, Page]:
    path = write_comparison(folder)
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    return text, Page(text)
