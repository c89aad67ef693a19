"""On a device that is not the CPU everything works, and comes out the same: see `pseudo_gpu.py`."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pseudo_gpu
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch import Tensor

from perceptual_mae.cli.main import main

pytestmark = pytest.mark.skipif(not pseudo_gpu.AVAILABLE, reason="this version of PyTorch has no backends in Python")
DEVICES = ("cpu", "auto")


@pytest.fixture(scope="module")
def photos(photographs: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, six photographs each, to train and to validate on."""
    folder = tmp_path_factory.mktemp("photos")
    for number, picture in enumerate([*photographs, *photographs.flip(-1)]):
        file = folder / ("train", "val")[number // 12] / f"class-{number % 2}" / f"{number}.png"
        file.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file)
    return folder


@pytest.fixture(scope="module")
def outcomes(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the same commands write, by their `--device`: `cpu`, or `auto`, which finds the second one."""
    folders = {device: tmp_path_factory.mktemp(device) for device in DEVICES}
    for device, out in folders.items():
        given = f"--device {device} --data {photos}"
        run = f"{given} --workers 0 --precision fp32 --batch-size 6 --log.every 1"
        # The row that has everything; R1, path length and an augmented look all come in five steps, and in its resume.
        game = "--discriminator.r1-every 2 --path.every 2 --ada.start 0.5 --model micro --image-size 32 --patch-size 8"
        pretrain = f"pretrain {run} {game} --method stylegan2-ada-p --out {out}/run --epochs 3"
        measure = f"evaluate {out}/run {given} --workers 0"
        commands = [
            f"{pretrain} --max-steps 3",
            f"{pretrain} --max-steps 5",
            f"{measure} --out {out}/evaluation",
            f"{measure} --out {out}/mae --parts linear --protocol mae --epochs 1",
            f"embed {out}/run {given} --out {out}/vectors.parquet --workers 0",
            f"finetune classification {out}/run {run} --out {out}/finetuned --max-steps 2",
            f"predict {out}/finetuned {photos}/val --device {device} --out {out}/predicted",
        ]
        half = pretrain.replace("--precision fp32", "--precision bf16").replace(f"{out}/run", f"{out}/bf16")
        commands += [f"{half} --max-steps 3"]
        if device == "cpu":
            assert [main(command.split()) for command in commands] == [0] * len(commands)
        else:
            command = [sys.executable, pseudo_gpu.__file__, *" then ".join(commands).split()]
            alone = os.environ | {"XDG_CACHE_HOME": str(out / "cache")}  # features of another device's would do
            done = subprocess.run(command, env=alone, capture_output=True, text=True, timeout=900, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
    return folders


def records(folder: Path) -> list[dict[str, Any]]:
    """What a run has logged, without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


@pytest.mark.parametrize("kind", ["run", "finetuned"])
def test_training_is_the_same(outcomes: dict[str, Path], kind: str) -> None:
    there = json.loads((outcomes["auto"] / kind / "run.json").read_text(encoding="utf-8"))["device"]
    assert there.startswith(pseudo_gpu.NAME), "it was trained on the second device"
    ours, theirs = (records(outcomes[device] / kind) for device in DEVICES)
    assert len(ours) == len(theirs) >= 2
    for one, other in zip(ours, theirs, strict=True):
        assert other == pytest.approx(one, rel=2e-3, abs=1e-5)


def test_half_the_precision_is_nearly_the_same(outcomes: dict[str, Path]) -> None:
    """Autocast has other lists of operations for a GPU than for a CPU: types have to fit under both."""
    for device in DEVICES:
        whole, half = (records(outcomes[device] / kind) for kind in ("run", "bf16"))
        assert len(half) == 3
        for one, other in zip(whole, half, strict=False):
            assert one["loss/total"] != other["loss/total"]
            assert other["loss/total"] == pytest.approx(one["loss/total"], rel=0.05)


@pytest.mark.parametrize("protocol", ["evaluation", "mae"])
def test_measures_are_the_same(outcomes: dict[str, Path], protocol: str) -> None:
    ours, theirs = (
        json.loads((outcomes[device] / protocol / "results.json").read_text(encoding="utf-8"))["parts"]
        for device in DEVICES
    )
    assert ours.keys() == theirs.keys()
    assert "linear/mean" in ours
    for name in ours:
        one, other = numbers(ours[name]["result"]), numbers(theirs[name]["result"])
        assert len(one) > 2
        assert other == pytest.approx(one, rel=1e-3)


def numbers(result: Any, name: str = "") -> dict[str, float]:
    """Every number of a nested result, by its path."""
    if isinstance(result, dict):
        parts = [numbers(value, f"{name}/{key}") for key, value in result.items()]
        return {path: value for part in parts for path, value in part.items()}
    return {name: result} if isinstance(result, int | float) else {}


def test_vectors_are_the_same(outcomes: dict[str, Path]) -> None:
    ours, theirs = (pq.read_table(outcomes[device] / "vectors.parquet").to_pydict() for device in DEVICES)
    assert ours.keys() == theirs.keys()
    name = next(name for name, values in ours.items() if isinstance(values[0], list))
    np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-3, atol=1e-4)


def test_predictions_are_the_same(outcomes: dict[str, Path]) -> None:
    tables = []
    for device in DEVICES:
        with (outcomes[device] / "predicted/predictions.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        # Two steps leave the classes nearly level: which of the two is first, the last bit may decide.
        tables.append({row["path"]: sorted([float(row["probability"]), float(row["probability_2"])]) for row in rows})
    ours, theirs = tables
    assert len(ours) == 12
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert theirs[name] == pytest.approx(ours[name], abs=1e-4)


def test_what_forgets_the_device_is_refused() -> None:
    """The device is as strict as a GPU, or all of the above would show nothing."""
    program = """
import pseudo_gpu, torch
held = pseudo_gpu.install()
there, here = torch.ones(2, 2, device="gpu"), torch.ones(2, 2)
kernel = torch.ones(2, 2, 1, 1)
for mixed in (
    lambda: there + here,
    lambda: there @ here,
    lambda: torch.cat([there, here]),
    lambda: torch.nn.functional.conv2d(there.view(1, 2, 2, 1), kernel),
    lambda: torch.where(here > 0, there, there),
    lambda: torch.rand(2, device="gpu", generator=torch.Generator()),
    lambda: there.numpy(),
):
    try:
        mixed()
    except (RuntimeError, TypeError):
        continue
    raise SystemExit("not refused")
assert (there + 1).cpu().tolist() == [[2, 2], [2, 2]]
"""
    path = os.environ | {"PYTHONPATH": str(Path(pseudo_gpu.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
