"""`pmae plan` against real runs of `pmae pretrain` on this device: memory and speed. Prints JSON.

Speed is predicted from the share of the matrix-product rate that *another* run reaches (`--calibrate`), never from the
run itself. Memory is counted, and what Python and the libraries take is measured once, here.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from perceptual_mae.estimate.config import PlanConfig
from perceptual_mae.estimate.cost import count
from perceptual_mae.estimate.measured import Calibration, Images, calibrate, decode_rate
from perceptual_mae.estimate.plan import Given, machine_of, make
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.loss_config import AdaConfig, LossesConfig

ROWS = (
    ("mse", "micro", 64, 8, 256),
    ("mse", "micro", 64, 8, 32),
    ("ms-ssim", "tiny", 64, 8, 64),
    ("ls-gan-p", "tiny", 64, 8, 64),
    ("msg-gan-p", "micro", 64, 8, 128),
    ("stylegan2-ada-p", "micro", 64, 8, 64),
    ("stylegan2-ada-p", "tiny", 96, 16, 32),
    ("mse", "small", 128, 16, 64),
    ("mse", "base", 224, 16, 8),
)
"""Method, model, side of the images, side of a patch, batch."""
STEPS = 33
"""Of a run: two cycles of the laziest regularisation, and one step to warm up."""


def settings(row: tuple[str, str, int, int, int], precision: str) -> PretrainConfig:
    """A run as it is half-way through: augmented, and with all terms at work."""
    method, model, size, patch, batch = row
    return PretrainConfig(
        data="photos",
        method=method,
        model=model,  # type: ignore[arg-type]
        image_size=size,
        patch_size=patch,
        batch_size=batch,
        device="cpu",
        precision=precision,  # type: ignore[arg-type]
        max_steps=STEPS,
        losses=LossesConfig(perceptual_every=1),
        ada=AdaConfig(start=0.3),
    )


def predicted(config: PretrainConfig, calibration: Calibration, decode: float, cores: int) -> dict[str, float]:
    """GiB and images/s, by the plan."""
    asked = PlanConfig(pretrain=config, measure=True)
    machine, basis, words = machine_of(asked, calibration)
    machine = replace(machine, taken=BASELINE)
    given = Given(
        count(config, config.precision), machine, basis, words, Images(4323, 1e4, ""), decode, cores, "", True
    )
    made = make(asked, given)
    rate = made.figure("images_per_second")
    return {"gib": made.figure("memory").low, "low": rate.low, "high": rate.high, "rate": (rate.low * rate.high) ** 0.5}


def measured(config: PretrainConfig) -> dict[str, float]:
    """The same of a real run."""
    with tempfile.TemporaryDirectory() as out:
        flags = {
            **{name: getattr(config, name) for name in ("method", "model", "image_size", "patch_size", "batch_size")},
            **{name: getattr(config, name) for name in ("data", "device", "precision", "max_steps")},
            **{"out": out, "losses.perceptual_every": 1, "ada.start": 0.3, "lr": 1e-4, "save_every": 10_000},
            **{"log.every": 16, "log.pictures": 0, "log.validate_every": 0, "log.tensorboard": "false"},
        }
        words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        command = [sys.executable, "-m", "perceptual_mae.cli.main", "pretrain", *words]
        subprocess.run(command, check=True, capture_output=True)
        info = json.loads((Path(out) / "run.json").read_text())
        lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
        first, last = lines[0], lines[1]
        images = (last["step"] - first["step"]) * config.batch_size
        return {"gib": info["peak_memory_gib"], "rate": images / (last["seconds"] - first["seconds"])}


def resident() -> float:
    """Bytes of a process that has imported what a run imports, and done nothing."""
    program = "import perceptual_mae.api, datasets; from perceptual_mae.data import open_source; open_source('photos')"
    program += "; from perceptual_mae.estimate.measured import free_memory; print(free_memory('cpu')[1])"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return float(ran.stdout.split()[-1])


BASELINE = resident() if __name__ == "__main__" else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=list(range(len(ROWS))), help="which of them")
    parser.add_argument("--calibrate", type=int, default=0, help="the row that the share is measured on")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    options = parser.parse_args()

    base = settings(ROWS[options.calibrate], options.precision)
    base_cost, decode = count(base, options.precision), decode_rate(base)
    rows: list[dict[str, Any]] = []
    for number in options.rows:
        config = settings(ROWS[number], options.precision)
        # In turn with the run: a machine that is shared changes its speed.
        calibration = calibrate(base, options.precision, base_cost)
        guess, real = predicted(config, calibration, decode, 2), measured(config)
        row = dict(zip(("method", "model", "image_size", "patch_size", "batch"), ROWS[number], strict=True))
        row |= {"predicted_gib": round(guess["gib"], 3), "measured_gib": round(real["gib"], 3)}
        row |= {"memory_error": round(guess["gib"] / real["gib"] - 1, 3)}
        row |= {"share": round(calibration.share, 3), "predicted_images_per_second": round(guess["rate"], 2)}
        row |= {"measured_images_per_second": round(real["rate"], 2)}
        row |= {
            "rate_error": round(guess["rate"] / real["rate"] - 1, 3),
            "calibrated_on_itself": number == options.calibrate,
        }
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    others = [row for row in rows if not row["calibrated_on_itself"]] or rows
    result = {
        "benchmark": "plan",
        "device": f"cpu, {torch.get_num_threads()} threads",
        "precision": options.precision,
        "calibrated_on": dict(
            zip(("method", "model", "image_size", "patch_size", "batch"), ROWS[options.calibrate], strict=True)
        ),
        "median_memory_error": statistics.median(abs(row["memory_error"]) for row in rows),
        "median_rate_error": statistics.median(abs(row["rate_error"]) for row in others),
        "rows": rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
