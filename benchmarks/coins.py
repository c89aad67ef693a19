"""A small Vision Transformer learns the coins of one photograph by heart: box and mask AP after less than a minute on
two cores. Masks come from a local threshold, and are written and read as a COCO folder. Prints JSON."""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import binary_fill_holes, binary_opening
from skimage import data
from skimage.filters import threshold_local
from skimage.measure import label, regionprops
from skimage.segmentation import clear_border

from perceptual_mae import load_encoder
from perceptual_mae.augment.jitter import LargeScaleJitter
from perceptual_mae.data import SamplePlan, cores, to_float
from perceptual_mae.data.coco import open_coco
from perceptual_mae.data.coco_masks import encode
from perceptual_mae.data.labelled import labelled_loader
from perceptual_mae.models.detector import Detector
from perceptual_mae.training.memory import keep_freed_memory
from perceptual_mae.transfer.detection import Detection, Jittered

GOAL = {"box_ap": 0.9, "mask_ap": 0.85, "seconds": 60}
SIDE, LEAST = 256, 300
"""Side of the images in pixels; pixels of the smallest coin."""


def coins() -> tuple[np.ndarray, list[np.ndarray]]:
    """The photograph `(303, 384)` uint8, and a mask of each coin that does not touch the edge."""
    photograph = data.coins()
    bright = binary_opening(binary_fill_holes(photograph > threshold_local(photograph, 51, offset=-10)), iterations=3)
    pieces = label(clear_border(bright))
    return photograph, [pieces == region.label for region in regionprops(pieces) if region.area >= LEAST]


def write_coco(folder: Path) -> None:
    """The photograph and its coins as a COCO folder."""
    photograph, masks = coins()
    Image.fromarray(photograph).save(folder / "coins.png")
    annotations = []
    for number, mask in enumerate(masks, start=1):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        sides = (int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1))
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [int(columns[0]), int(rows[0]), *sides],
                "area": int(mask.sum()),
                "segmentation": encode(mask),
            }
        )
    height, width = photograph.shape
    content = {
        "images": [{"id": 1, "file_name": "coins.png", "height": height, "width": width}],
        "categories": [{"id": 1, "name": "coin"}],
        "annotations": annotations,
    }
    (folder / "annotations.json").write_text(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="random:micro/16")
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--sampled", type=int, default=64, help="boxes that the heads learn from in a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        write_coco(Path(folder))
        source = open_coco(folder, "train")
        assert source is not None
        begun, processor = time.perf_counter(), time.process_time()
        torch.manual_seed(options.seed)
        network = Detector.of(load_encoder(options.encoder, SIDE), len(source.classes), sampled=options.sampled)
        task = Detection(network, source, source)
        as_it_is = Jittered(LargeScaleJitter(SIDE, scale=(1.0, 1.0), flip=0.0))  # one picture is to be learnt by heart
        optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=0.05)
        warmup = options.steps // 10
        loss = torch.tensor(math.nan)
        network.train()
        plan = SamplePlan(len(source), 1, options.seed)
        for step, batch in enumerate(labelled_loader(source, plan, as_it_is, last_step=options.steps)):
            rest = max(0.0, (step - warmup) / (options.steps - warmup))
            for group in optimizer.param_groups:
                group["lr"] = options.lr * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * rest))
            loss = torch.stack(list(network(to_float(batch.images), batch.targets).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        found = task.evaluate(network, torch.device("cpu"))
        seconds = time.perf_counter() - begun
    result = {
        "benchmark": "coins",
        "encoder": options.encoder,
        "seed": options.seed,
        "steps": options.steps,
        "loss": round(float(loss.detach()), 3),
        "box_ap": round(found["box_ap"], 3),
        "mask_ap": round(found["mask_ap"], 3),
        "seconds": round(seconds, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "threads": torch.get_num_threads(),
        "cores": cores(),
        "goal": GOAL,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
