"""Segmentation of street scenes: the same small network from pre-trained and from random weights, in minutes on a CPU.

Runs `pmae pretrain` on the images alone, then `pmae finetune segmentation` from that run and from `random:`, with the
same settings. The features that pre-training matches are those of a network that was trained on ImageNet. Prints JSON.
A run that is finished already is not repeated: with the same `--out` it goes on.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[2] / "shared"
PATCH = 8
LOSS_NETWORK = "timm:tf_efficientnet_lite0"
# Streets are looked at through windows of 72 x 96 pixels at about the scale of the crops that are segmented later.
PRETRAIN = "--model tiny --method timm-p --losses.feature-balance 3 --image-size 72x96 --crop.scale [0.08,0.6]"
PRETRAIN += " --batch-size 32 --lr 1e-3 --optimizer.warmup-epochs 10 --precision bf16 --log.pictures 4"
PRETRAIN += " --log.validate-every 0"
FINETUNE = "--image-size 120x160 --head-width 64 --batch-size 4 --lr 1e-3 --scale [0.75,1.5] --precision bf16"
FINETUNE += " --log.pictures 4 --log.evaluate-every 16"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=str(SHARED / "data" / "camvid-small"))
    parser.add_argument("--loss-network", default=loss_network())
    parser.add_argument("--out", default=None, help="folder of the runs; default: a temporary one")
    parser.add_argument("--pretrain-epochs", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--layer-decay", type=float, default=0.9)
    parser.add_argument("--drop-path", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(options.out or temporary)
        pretrained = out / "pretrained"
        flags = f"{PRETRAIN} --loss-network {options.loss_network} --patch-size {PATCH}"
        flags += f" --epochs {options.pretrain_epochs}"
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


def loss_network() -> str:
    """The network with weights of a file, where that is at hand; else they are fetched."""
    file = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
    return f"{LOSS_NETWORK}:{file}" if file.exists() else LOSS_NETWORK


def pmae(*arguments: str) -> list[dict[str, Any]]:
    """Run a command, and return the lines of its run's metrics."""
    command = [sys.executable, "-m", "perceptual_mae.cli.main", *arguments]
    print("$ pmae", *arguments, file=sys.stderr)
    subprocess.run(command, check=True)
    out = Path(arguments[arguments.index("--out") + 1])
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
