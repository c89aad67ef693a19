"""Segmentation of street scenes: the same small network from pre-trained and from random weights, in minutes on a CPU.

Runs `pmae pretrain` on the images alone, then `pmae finetune segmentation` from that run and from `random:`, with the
same settings. Prints JSON. A run that is finished already is not repeated: with the same `--out` it goes on.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[2] / "shared" / "data" / "camvid-small"
PATCH = 8
# Streets are looked at through windows of 72 x 96 pixels at about the scale of the crops that are segmented later.
PRETRAIN = "--model tiny --image-size 72x96 --crop.scale [0.08,0.6] --pixels.norm-pix-loss true"
PRETRAIN += " --batch-size 32 --lr 1e-3 --optimizer.warmup-epochs 10 --log.pictures 0 --log.validate-every 0"
FINETUNE = "--image-size 120x160 --batch-size 4 --lr 1e-3 --scale [0.5,1.5] --log.pictures 4 --log.evaluate-every 1000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=str(SHARED))
    parser.add_argument("--out", default=None, help="folder of the runs; default: a temporary one")
    parser.add_argument("--pretrain-epochs", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--layer-decay", type=float, default=0.9)
    parser.add_argument("--drop-path", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(options.out or temporary)
        pretrained = out / "pretrained"
        flags = f"{PRETRAIN} --patch-size {PATCH} --epochs {options.pretrain_epochs}"
        before = pmae("pretrain", "--data", options.data, "--out", str(pretrained), *flags.split())
        result: dict[str, Any] = {
            "benchmark": "camvid",
            "cores": len(os.sched_getaffinity(0)),
            "pretrain_epochs": options.pretrain_epochs,
            "pretrain_seconds": before[-1]["seconds"],
            "epochs": options.epochs,
        }
        for name, encoder in (("pretrained", str(pretrained)), ("random", f"random:tiny/{PATCH}")):
            found = []
            for seed in range(options.seeds):
                run = out / f"from-{name}-{options.epochs}-{seed}"
                flags = f"{FINETUNE} --epochs {options.epochs} --layer-decay {options.layer_decay}"
                flags += f" --drop-path {options.drop_path} --seed {seed} --data {options.data} --out {run}"
                found.append(pmae("finetune", "segmentation", encoder, *flags.split())[-1])
            result[name] = {
                "seconds": [round(last["seconds"], 1) for last in found],
                "miou": [round(last["validation/miou"], 4) for last in found],
                "pixel_accuracy": [round(last["validation/pixel_accuracy"], 4) for last in found],
                "iou_of_the_first": {
                    key.removeprefix("validation/iou/"): round(value, 3)
                    for key, value in found[0].items()
                    if key.startswith("validation/iou/")
                },
            }
    print(json.dumps(result))


def pmae(*arguments: str) -> list[dict[str, Any]]:
    """Run a command, and return the lines of its run's metrics."""
    command = [sys.executable, "-m", "perceptual_mae.cli.main", *arguments]
    print("$ pmae", *arguments, file=sys.stderr)
    subprocess.run(command, check=True)
    out = Path(arguments[arguments.index("--out") + 1])
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
