"""Make `tiny-imagenet-40`, the data of docs/results.md: 40 of the 200 classes of Tiny ImageNet, as two parquet files.

    python -m benchmarks.tiny_imagenet_40 ./tiny-imagenet-200 ./tiny-imagenet-40

Tiny ImageNet (Stanford's CS231n; the terms of ImageNet, for research) is a zip of 64-pixel JPEGs, to be unpacked first.
Files are taken as they are, 500 + 50 a class, in a seeded order.
"""

import sys
from pathlib import Path

from benchmarks.tables_of_images import make
from perceptual_mae.errors import UsageError

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
    """Files of the validation split with their labels: `val_annotations.txt` names the class of each.

    Raises:
        UsageError: it is not there.
    """
    labels = {identifier: label for label, identifier in enumerate(CLASSES)}
    file = root / "val" / "val_annotations.txt"
    if not file.is_file():
        raise UsageError(f"{root} is not Tiny ImageNet: there is no val/val_annotations.txt")
    lines = file.read_text(encoding="utf-8").splitlines()
    named = (line.split("\t")[:2] for line in lines)
    return [(root / "val" / "images" / file, labels[identifier]) for file, identifier in named if identifier in labels]


def main() -> int:
    splits = {"train": training, "validation": validation}
    return make(__doc__, "Tiny ImageNet", splits, list(CLASSES.values()))


if __name__ == "__main__":
    sys.exit(main())
