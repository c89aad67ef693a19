"""How fast `pmae predict` is by the number of threads that read, draw and write beside the network. Prints JSON.

A small classifier that has learnt nothing, on photographs of a camera's shape, with overlays and without.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from PIL import Image
from skimage import data

from benchmarks.measure import seconds
from perceptual_mae import load_encoder, predict
from perceptual_mae.data import cores
from perceptual_mae.models.classifier import Classifier
from perceptual_mae.transfer.saved import save_finetuned
from perceptual_mae.transfer.task import Learnt

SIZE = 640, 480


def prepare(folder: Path, count: int) -> tuple[Path, Path]:
    """A classifier's file, and a folder of JPEGs."""
    network = Classifier.of(load_encoder("random:micro/8", 64), 10).eval()
    learnt = Learnt("classification", network, tuple(map(str, range(10))), network.describe())
    model = save_finetuned(learnt, folder / "model.safetensors", {})
    images = folder / "images"
    images.mkdir()
    photograph = Image.fromarray(data.astronaut())
    for number in range(count):
        box = (number % 64, number // 64 % 64, 448 + number % 64, 336 + number // 64 % 64)
        photograph.crop(box).resize(SIZE).save(images / f"{number:04}.jpg", quality=90)
    return model, images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=max(2, cores()), help="beside one")
    options = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as scratch:
        model, images = prepare(Path(scratch), options.images)

        def predicting(threads: int, overlays: bool) -> Callable[[], None]:
            def action() -> None:
                with mock.patch.object(predict, "cores", return_value=threads):
                    predict.predict(model, [images], Path(scratch) / "out", overlays=overlays)

            return action

        ways = {(n, drawn): predicting(n, drawn) for drawn in (True, False) for n in (1, options.threads)}
        times = [{way: seconds(action) for way, action in ways.items()} for _ in range(options.rounds)]
    rates = {way: options.images / statistics.median(one[way] for one in times) for way in ways}
    result = {"benchmark": "predict_rate", "images": options.images, "size": SIZE, "threads": options.threads}
    for drawn, name in ((True, "with_overlays"), (False, "without")):
        one, several = rates[1, drawn], rates[options.threads, drawn]
        result[name] = {"images_per_second": round(several, 1), "beside_one_thread": round(several / one, 2)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
