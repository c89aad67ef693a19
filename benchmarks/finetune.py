"""Is a pre-trained encoder worth its hours? Fine-tune it, and the same network from random weights, at equal steps.

A line of JSON for each run, and one that sums up: mean and spread of the best validation top-1 over seeds.
"""

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console

from perceptual_mae.api import pretrain
from perceptual_mae.finetune import finetune
from perceptual_mae.pretraining.config import LogConfig, OptimizerConfig, PretrainConfig
from perceptual_mae.transfer.config import ClassificationConfig, FinetuneLogConfig, MixConfig
from perceptual_mae.transfer.folder import FinetuneFolder

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pretrained(options: argparse.Namespace) -> str:
    """A run folder: the one that was named, or one that is trained here."""
    if options.encoder:
        return str(options.encoder)
    config = PretrainConfig(
        data=options.data,
        out=str(Path(options.out) / f"{options.method}-{options.model}-{options.pretrain_epochs}"),
        method=options.method,
        model=options.model,
        image_size=options.image_size,
        patch_size=options.patch_size,
        epochs=options.pretrain_epochs,
        lr=3e-3,
        optimizer=OptimizerConfig(warmup_epochs=1),
        log=LogConfig(pictures=0, validate_every=0),
    )
    return str(pretrain(config, Console(stderr=True)))


def finetuned(encoder: str, name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune, unless that is done, and sum up."""
    # Few epochs of a small network: as much augmentation as MAE's hundred epochs would leave it undecided.
    mix = MixConfig(auto_augment=None, mixup=0.0, cutmix=0.0, erasing=0.0)
    config = ClassificationConfig(
        encoder=encoder,
        data=options.data,
        out=str(Path(options.out) / f"{name}-{options.epochs}-{seed}"),
        image_size=options.image_size,
        epochs=options.epochs,
        batch_size=options.batch,
        lr=options.lr,
        layer_decay=options.layer_decay,
        drop_path=0.0,
        seed=seed,
        mix=mix,
        log=FinetuneLogConfig(pictures=0, tensorboard=False),
    )
    started = time.monotonic()
    records = FinetuneFolder.read(finetune(config, Console(stderr=True))).records()
    top1 = [record["validation/top1"] for record in records if "validation/top1" in record]
    return {
        "benchmark": "finetune",
        "encoder": name,
        "seed": seed,
        "steps": records[-1]["step"],
        "top1": max(top1),
        "top1_last": top1[-1],
        "minutes": round((time.monotonic() - started) / 60, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = SHARED / "tiny-imagenet-40"
    parser.add_argument("--data", default=str(default) if default.exists() else "photos")
    parser.add_argument("--encoder", help="a run to fine-tune; default: one is pre-trained first")
    parser.add_argument("--method", default="mse")
    parser.add_argument("--model", default="micro")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--pretrain-epochs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--layer-decay", type=float, default=1.0, help="less would hold random weights back")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--out", default="runs/finetune-benchmark")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    encoders = {"random": f"random:{options.model}/{options.patch_size}", "pretrained": pretrained(options)}
    found: dict[str, list[float]] = {name: [] for name in encoders}
    for seed in options.seeds:
        for name, encoder in encoders.items():
            result = finetuned(encoder, name, seed, options)
            print(json.dumps(result), flush=True)
            found[name].append(result["top1"])
    summary: dict[str, Any] = {"benchmark": "finetune", "seeds": len(options.seeds)}
    for name, values in found.items():
        summary[name] = round(statistics.fmean(values), 4)
        summary[f"{name}_spread"] = round(max(values) - min(values), 4)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
