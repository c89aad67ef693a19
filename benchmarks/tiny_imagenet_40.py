"""Make `tiny-imagenet-40`, the data of docs/results.md: 40 of the 200 classes of Tiny ImageNet, as two parquet files.

    python -m benchmarks.tiny_imagenet_40 ./tiny-imagenet-200 ./tiny-imagenet-40

Tiny ImageNet (Stanford's CS231n; the terms of ImageNet, for research) is a zip of 64-pixel JPEGs, to be unpacked first.
Files are taken as they are, 500 + 50 a class, in a seeded order.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image

from perceptual_mae.errors import PmaeError, UsageError

CLASSES = {
    "n01443537": "goldfish",
    "n01742172": "boa constrictor",
    "n01917289": "brain coral",
    "n01984695": "spiny lobster",
    "n02056570": "king penguin",
    "n02058221": "albatross",
    "n02099712": "Labrador retriever",
    "n02123394": "Persian cat",
    "n02226429": "grasshopper",
    "n02410509": "bison",
    "n02791270": "barbershop",
    "n02814533": "beach wagon",
    "n02823428": "beer bottle",
    "n02883205": "bow tie",
    "n02950826": "cannon",
    "n03026506": "Christmas stocking",
    "n03085013": "computer keyboard",
    "n03393912": "freight car",
    "n03400231": "frying pan",
    "n03404251": "fur coat",
    "n03424325": "gasmask",
    "n03544143": "hourglass",
    "n03617480": "kimono",
    "n03649909": "lawn mower",
    "n03770439": "miniskirt",
    "n03814639": "neck brace",
    "n03891332": "parking meter",
    "n03976657": "pole",
    "n04008634": "projectile",
    "n04023962": "punching bag",
    "n04067472": "reel",
    "n04259630": "sombrero",
    "n04275548": "spider web",
    "n04398044": "teapot",
    "n04399382": "teddy",
    "n04562935": "water tower",
    "n06596364": "comic book",
    "n07871810": "meat loaf",
    "n07873807": "pizza",
    "n09256479": "coral reef",
}
"""Names by WordNet's identifiers; labels are their places."""


def training(root: Path) -> list[tuple[Path, int]]:
    """Files of the training split with their labels, in the order of their names."""
    folders = [(root / "train" / identifier / "images", label) for label, identifier in enumerate(CLASSES)]
    return [(file, label) for folder, label in folders for file in sorted(folder.glob("*.JPEG"))]


def validation(root: Path) -> list[tuple[Path, int]]:
    """Files of the validation split with their labels: `val_annotations.txt` names the class of each."""
    labels = {identifier: label for label, identifier in enumerate(CLASSES)}
    lines = (root / "val" / "val_annotations.txt").read_text(encoding="utf-8").splitlines()
    named = (line.split("\t")[:2] for line in lines)
    return [(root / "val" / "images" / file, labels[identifier]) for file, identifier in named if identifier in labels]


def write(
    files: Iterable[tuple[Path, int]],
    out: Path,
    classes: Iterable[str] = CLASSES.values(),
    read: Callable[[Path], bytes] = Path.read_bytes,
) -> int:
    """A parquet file of images, as `read` gives them, and labels, in a seeded order. Returns how many there are."""
    found = list(files)
    random.Random(0).shuffle(found)
    images = [{"bytes": read(file), "path": file.name} for file, _ in found]
    features = Features({"image": Image(), "label": ClassLabel(names=list(classes))})
    out.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict({"image": images, "label": [label for _, label in found]}, features).to_parquet(out)
    return len(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Tiny ImageNet, unpacked: has train/ and val/")
    parser.add_argument("out", type=Path, help="folder for train.parquet and validation.parquet")
    options = parser.parse_args()
    try:
        if not (options.folder / "val" / "val_annotations.txt").is_file():
            raise UsageError(f"{options.folder} is not Tiny ImageNet: there is no val/val_annotations.txt")
        for name, files in (("train", training(options.folder)), ("validation", validation(options.folder))):
            if not files:
                raise UsageError(f"{options.folder}: there is no {name} image of these classes")
            print(f"{options.out / name}.parquet: {write(files, options.out / f'{name}.parquet'):,} images")
    except PmaeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
