"""A run folder as a run leaves it, with pictures of real photographs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from skimage import data

from perceptual_mae.report.figures import reconstruction_grid, save

CONFIG = {
    "data": "./photos",
    "out": "runs/mine",
    "method": "mse",
    "model": "micro",
    "image_size": 64,
    "patch_size": 8,
    "mask_ratio": 0.75,
    "precision": "fp32",
    "optimizer": {"base_lr": 1.5e-4, "betas": [0.9, 0.95]},
}
INFO = {
    "version": "0.1.0",
    "torch": "2.8.0",
    "python": "3.11.9",
    "device": "cpu (2 threads)",
    "processes": 1,
    "model": {"name": "micro", "parameters": 1234567, "gflop_per_image": 0.126, "grid": [8, 8], "tokens": 64},
    "data": {"images": 20000, "validation_images": 2000, "classes": ["a", "b"], "pictures_from": "validation"},
    "expected": {"mse": 1.0234},
    "steps": 200,
    "state": "finished",
    "message": "",
}


@pytest.fixture(scope="session")
def photographs() -> NDArray[np.float32]:
    """Six 64-pixel tiles of a photograph, `(6, 3, 64, 64)` in [0, 1]."""
    tiles = data.astronaut()[:384, :256].reshape(6, 64, 4, 64, 3)[:, :, 1]
    return (tiles.transpose(0, 3, 1, 2) / 255).astype(np.float32)


@pytest.fixture(scope="session")
def masks() -> NDArray[np.bool_]:
    """A mask of pixels for each photograph, `(6, 1, 64, 64)`: three quarters of the 8-pixel patches removed."""
    removed = np.zeros((6, 64), bool)
    removed[:, :48] = True
    patches = np.random.default_rng(0).permuted(removed, axis=1).reshape(6, 1, 8, 8)
    return patches.repeat(8, axis=2).repeat(8, axis=3)


def record(step: int) -> dict[str, Any]:
    """A line of metrics as a run of method `mse` logs it."""
    loss = 0.4 + 0.6 / step
    line = {"step": step, "epoch": step / 80, "lr": 1e-4, "loss/total": loss, "loss/mse": loss, "seconds": step * 0.5}
    line |= {"grad_norm": 1 + (step % 3) / 10, "images_per_second": 800.0}
    return line | ({"validation/mse": loss + 0.01, "knn/top1": 0.3} if step % 100 == 0 else {})


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path, photographs: NDArray[np.float32], masks: NDArray[np.bool_]) -> MakeRun:
    """Make a run folder; `pictures` are the steps at which a picture was drawn."""

    def make(
        *,
        config: dict[str, Any] | None = None,
        info: dict[str, Any] | None = None,
        steps: int = 200,
        pictures: tuple[int, ...] = (10, 200),
    ) -> Path:
        run = tmp_path / "mine"
        run.mkdir()
        (run / "config.yaml").write_text(yaml.safe_dump(CONFIG | (config or {})), encoding="utf-8")
        (run / "run.json").write_text(json.dumps(INFO | (info or {})), encoding="utf-8")
        lines = [json.dumps(record(step)) + "\n" for step in range(10, steps + 1, 10)]
        (run / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
        for step in pictures:
            painted = photographs * (1 - 1 / step)
            figure = reconstruction_grid(photographs, masks, painted, np.where(masks, painted, photographs))
            save(figure, run / "figures" / f"reconstruction-{step:08d}.png")
        return run

    return make
