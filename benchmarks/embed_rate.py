"""What `pmae embed` keeps of an encoder's bare forward rate, reading, decoding and writing included. Prints JSON.

`micro` with 8-pixel patches on images of 64 pixels, one process; both compute in batches of the same size, in turn.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.measure import seconds
from perceptual_mae.data import choose_workers, open_source
from perceptual_mae.data.subset import sample
from perceptual_mae.encoders import open_encoder
from perceptual_mae.evaluation.embed import embed
from perceptual_mae.training.memory import keep_freed_memory

SIDE, BATCH = 64, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[2] / "shared" / "data" / "tiny-imagenet-40"
    parser.add_argument("--data", default=str(default) if default.exists() else "photos")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=choose_workers("auto", on_gpu=False))
    options = parser.parse_args()

    keep_freed_memory()
    encoder, _ = open_encoder("random:micro/8", SIDE)
    opened = open_source(options.data)
    assert opened is not None  # there is always a training split
    source = sample(opened, options.images, seed=0)
    batches = torch.rand(len(source), encoder.in_channels, SIDE, SIDE).split(BATCH)

    @torch.inference_mode()
    def bare() -> None:
        for images in batches:
            encoder(images)

    def embedding() -> None:
        with tempfile.TemporaryDirectory() as folder:
            embed(encoder, source, Path(folder) / "features.parquet", batch_size=BATCH, workers=options.workers)

    for action in (bare, embedding):
        action()  # warms up
    times = [(seconds(bare), seconds(embedding)) for _ in range(options.rounds)]
    alone, whole = (statistics.median(column) for column in zip(*times, strict=True))
    result = {
        "benchmark": "embed_rate",
        "data": Path(options.data).name,
        "images": len(source),
        "workers": options.workers,
        "threads": torch.get_num_threads(),
        "bare_images_per_second": round(len(source) / alone, 1),
        "embed_images_per_second": round(len(source) / whole, 1),
        "share_of_bare": round(alone / whole, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
