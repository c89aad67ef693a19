"""One process, one thread: decode and randomly crop JPEG files of 500 x 375 to 224 pixels, here and by torchvision's
`ImageFolder` with Pillow, in turn. Prints JSON.

`--data FOLDER` takes a folder of images instead. `--source SPEC --size 64` times any `--data` argument of `pmae` alone
(`tiny` is ../shared/data/tiny-imagenet-40).
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, InterpolationMode, PILToTensor, RandomResizedCrop, ToTensor

from benchmarks.measure import seconds
from perceptual_mae.augment.crops import CropConfig
from perceptual_mae.data import SamplePlan, open_source, to_float, train_loader
from perceptual_mae.data.photos import load_photos

BATCH = 32
TINY = Path(__file__).resolve().parents[2] / "shared" / "data" / "tiny-imagenet-40"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder of images instead of the built-in photographs")
    parser.add_argument("--source", help="time this data argument alone")
    parser.add_argument("--size", type=int, default=0, help="pixels of the crop (224, with --source 64)")
    parser.add_argument("--images", type=int, default=192, help="images timed in each of the rounds")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.source:
        print(json.dumps(time_source(str(TINY) if options.source == "tiny" else options.source, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(options.data or write_photos(Path(folder)), options)))


def write_photos(folder: Path) -> str:
    """The colour photographs built in, as JPEG files of 500 x 375 pixels and quality 90."""
    for name, photo in load_photos().items():
        if photo.shape[0] == 3:
            inside = folder / "photographs"
            inside.mkdir(exist_ok=True)
            image = Image.fromarray(photo.permute(1, 2, 0).numpy())
            image.resize((500, 375), Image.Resampling.LANCZOS).save(inside / f"{name}.jpg", quality=90)
    return str(folder)


def compare(folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Rates of this package's loader and of torchvision's with either of its ways to a tensor."""
    size = options.size or 224
    ours, count = loading(folder, size, options.images)
    ours_as_float, _ = loading(folder, size, options.images, as_float=True)
    as_uint8 = image_folder(folder, size, count, PILToTensor())
    as_float = image_folder(folder, size, count, ToTensor())
    times: list[list[float]] = []
    for _ in range(options.rounds + 1):
        # In turn, because a machine that is shared changes its speed under a benchmark.
        times.append([seconds(action) for action in (ours, as_uint8, ours_as_float, as_float)])
    columns = list(zip(*times[1:], strict=True))  # the first round warms up
    rates = [round(count / statistics.median(column), 1) for column in columns]
    return {
        "benchmark": "decode",
        "size": size,
        "images_per_second": rates[0],
        "torchvision_images_per_second": rates[1],
        "faster_than_torchvision": ratio(columns[1], columns[0]),
        "float_images_per_second": rates[2],
        "torchvision_float_images_per_second": rates[3],
        "float_faster_than_torchvision": ratio(columns[3], columns[2]),
    }


def ratio(theirs: tuple[float, ...], ours: tuple[float, ...]) -> float:
    return round(statistics.median(a / b for a, b in zip(theirs, ours, strict=True)), 2)


def loading(spec: str, size: int, images: int, as_float: bool = False) -> tuple[Callable[[], None], int]:
    """What makes at least `images` images in batches, as a training worker does, and how many it makes."""
    source = open_source(spec)
    assert source is not None  # there is always a training split
    plan = SamplePlan(len(source), BATCH, 0)
    steps = -(-images // plan.images_per_step)

    def run() -> None:
        for batch in train_loader(source, plan, image_size=(size, size), last_step=steps):
            if as_float:
                to_float(batch.images)

    return run, steps * plan.images_per_step


def image_folder(folder: str, size: int, images: int, to_tensor: Callable[[Any], torch.Tensor]) -> Callable[[], None]:
    """The same by torchvision: Pillow decodes, crops and resizes."""
    crop = RandomResizedCrop(size, scale=CropConfig().scale, interpolation=InterpolationMode.BICUBIC)
    dataset = ImageFolder(folder, Compose([crop, to_tensor]))

    def run() -> None:
        for first in range(0, images, BATCH):
            chosen = range(first, min(first + BATCH, images))
            torch.stack([dataset[index % len(dataset)][0] for index in chosen])

    return run


def time_source(spec: str, options: argparse.Namespace) -> dict[str, Any]:
    size = options.size or 64
    run, images = loading(spec, size, options.images * 10)
    run()
    took = statistics.median(seconds(run) for _ in range(options.rounds))
    return {
        "benchmark": "decode",
        "source": Path(spec).name,
        "size": size,
        "images_per_second": round(images / took),
        "microseconds_per_image": round(took / images * 1e6, 1),
    }


if __name__ == "__main__":
    main()
