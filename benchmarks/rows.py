"""Train every method for a few epochs and see what it has learnt. A line of JSON each; finished runs are not repeated.

Asks of each: does the error on removed patches of validation images fall from step 50 on, does the discriminator tell
real from generated, does its gradient reach the generator, and how far are reconstructions from images in the features
of a classifier (Fréchet distance; lower is sharper).
"""

import argparse
import json
import statistics
import time
import warnings
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from perceptual_mae.api import pretrain, some_images
from perceptual_mae.data import eval_batches, open_validation_or_all, to_float
from perceptual_mae.errors import PmaeError
from perceptual_mae.evaluation.reconstruction import look
from perceptual_mae.methods import METHODS, parts_of
from perceptual_mae.pretraining.build import trained_model
from perceptual_mae.pretraining.config import (
    CheckpointConfig,
    LogConfig,
    OptimizerConfig,
    PretrainConfig,
)
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.pretraining.loss_network import open_loss_network
from perceptual_mae.report.figures import save, side_by_side
from perceptual_mae.settings import from_dict, to_dict
from perceptual_mae.training.signals import Interrupted

SHARED = Path(__file__).parents[2] / "shared"
WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
FIRST = 50
"""Step of the first validation that counts."""


def settings(name: str, options: argparse.Namespace) -> PretrainConfig:
    method, architecture = parts_of(name)
    kind = METHODS[method].loss_network
    network = {None: None, "timm": f"timm:tf_efficientnet_lite0:{WEIGHTS}", "dvae": options.dvae}[kind]
    steps_per_epoch = options.images // options.batch
    config = PretrainConfig(
        data=options.data,
        out=str(Path(options.out) / "-".join([name, options.precision, str(options.epochs), *options.set])),
        method=method,
        architecture=architecture,
        loss_network=network,
        model=options.model,
        image_size=64,
        patch_size=8,
        epochs=options.epochs,
        max_steps=options.max_steps,
        batch_size=options.batch,
        lr=options.lr,
        precision=options.precision,
        save_every=10_000,
        optimizer=OptimizerConfig(warmup_epochs=options.warmup_epochs),
        log=LogConfig(every=10, pictures=4, validate_every=FIRST / steps_per_epoch, validation_images=2000),
        checkpoint=CheckpointConfig(minutes=2),
    )
    return changed(config, options.set)


def changed(config: PretrainConfig, changes: list[str]) -> PretrainConfig:
    """The settings with changes such as `losses.feature_balance=0.3`."""
    values = to_dict(config)
    for change in changes:
        path, _, value = change.partition("=")
        *groups, key = path.replace("-", "_").split(".")
        reduce(getitem, groups, values)[key] = yaml.safe_load(value)
    return from_dict(PretrainConfig, values)


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, unless that is done, and sum up."""
    config = settings(name, options)
    started = time.monotonic()
    result: dict[str, Any] = {"benchmark": "rows", "method": name, "precision": options.precision}
    result |= {"settings": options.set} if options.set else {}
    try:
        run = RunFolder.read(pretrain(config, Console(stderr=True)))
    except Interrupted:
        raise
    except PmaeError as error:
        return result | {"failed": str(error)}
    records = run.records()
    errors = {record["step"]: record["validation/l1"] for record in records if "validation/l1" in record}
    first, last = errors[FIRST], list(errors.values())[-1]
    result |= {"steps": records[-1]["step"], "l1_at_50": round(first, 4), "l1_at_end": round(last, 4)}
    result["fall"] = round(1 - last / first, 3)
    for key in ("d_real", "d_fake", "d_accuracy", "ada_p", "path_length", "loss/r1"):
        if any(key in record for record in records):
            result[key] = round(statistics.fmean([r[key] for r in records if key in r][-10:]), 4)
    for term in ("adversarial", "features"):
        pulls = [r[f"pull/{term}"] / r["pull/pixels"] for r in records if f"pull/{term}" in r]
        if pulls:
            result[f"pull_{term}_to_pixels"] = [round(p, 3) for p in (pulls[0], min(pulls), pulls[-1])]
    if WEIGHTS.exists():
        result["frechet_distance"] = round(frechet_distance(run, options.data), 3)
    result["images_per_second"] = statistics.median(r["images_per_second"] for r in records)
    return result | {"minutes": round((time.monotonic() - started) / 60, 1)}


@torch.inference_mode()
def frechet_distance(run: RunFolder, data: str) -> float:
    """Between validation images and their reconstructions, pasted into what was visible, in EfficientNet's features."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    config = run.config
    network = open_loss_network(f"timm:tf_efficientnet_lite0:{WEIGHTS}", "timm", config.size, 3)

    class Pooled(torch.nn.Module):
        num_features = 320

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return network.features[0](images)[-1].mean(dim=(2, 3))

    distance = FrechetInceptionDistance(Pooled(), normalize=True, input_img_size=(3, *config.size))
    model, _ = trained_model(run)
    source = open_validation_or_all(data)
    for batch in eval_batches(source, range(min(2000, len(source))), image_size=config.size):
        distance.update(to_float(batch.images), real=True)
        distance.update(look(model, batch.images, config.mask_ratio).pasted.clamp(0, 1), real=False)
    return float(distance.compute())


def draw(names: list[str], options: argparse.Namespace) -> None:
    """The same masked images as every method reconstructs them."""
    pictures, seen = {}, None
    for name in names:
        run = RunFolder.read(settings(name, options).out)
        images, _ = some_images(run.config, open_validation_or_all(options.data), options.pictured)
        seen = look(trained_model(run)[0], images, run.config.mask_ratio)
        pictures[name] = seen.pasted
    assert seen is not None
    save(side_by_side(seen.originals, seen.masks, pictures), Path(options.picture))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = SHARED / "data" / "tiny-imagenet-40"
    names = [f"{name}+{row}" if i else name for name, method in METHODS.items() for i, row in enumerate(method.rows)]
    parser.add_argument("--data", default=str(default) if default.exists() else "photos")
    parser.add_argument("--images", type=int, default=20_000, help="that the data has")
    parser.add_argument("--methods", nargs="+", default=[name for name in names if name != "dvae-p"])
    parser.add_argument("--dvae", help="--loss-network of dvae-p")
    parser.add_argument("--model", default="micro")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warmup-epochs", type=float, default=1.0)
    parser.add_argument("--set", nargs="*", default=[], help="settings that differ, such as losses.feature_balance=0.3")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", default="runs/rows")
    parser.add_argument("--picture", help="PNG to draw of what the methods make of the same images")
    parser.add_argument("--pictured", type=int, default=8, help="images in it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in options.methods:
        print(json.dumps(measured(name, options)), flush=True)
    if options.picture:
        draw(options.methods, options)


if __name__ == "__main__":
    main()
