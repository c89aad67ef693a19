"""Make `imagenette-96`, the second data set of docs/results.md: Imagenette at 96 x 96 pixels, as two parquet files.

    python -m benchmarks.imagenette_96 ./imagenette2-160 ./imagenette-96

Imagenette (fast.ai; the terms of ImageNet, for research) is an archive of JPEGs, to be unpacked first. Images are
resized to squares whatever their aspect, as those that were measured had been. Those had been resized and encoded by
others: numbers that are measured on these will be near the ones in docs/results.md, not the same.
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image

from benchmarks.tiny_imagenet_40 import write
from perceptual_mae.errors import PmaeError, UsageError

SIDE = 96
"""Pixels."""
CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""Names by WordNet's identifiers; labels are their places."""


def files_of(root: Path, split: str) -> list[tuple[Path, int]]:
    """Files of a split, `train` or `val`, with their labels, in the order of their names."""
    folders = [(root / split / identifier, label) for label, identifier in enumerate(CLASSES)]
    return [(file, label) for folder, label in folders for file in sorted(folder.glob("*.JPEG"))]


def squared(file: Path) -> bytes:
    """An image as a JPEG of `SIDE` x `SIDE` pixels."""
    with Image.open(file) as image:
        resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    resized.save(encoded, "JPEG", quality=95)
    return encoded.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Imagenette, unpacked: has train/ and val/")
    parser.add_argument("out", type=Path, help="folder for train.parquet and validation.parquet")
    options = parser.parse_args()
    try:
        for name, split in (("train", "train"), ("validation", "val")):
            files = files_of(options.folder, split)
            if not files:
                raise UsageError(f"{options.folder} is not Imagenette: there is no image in {split}/{min(CLASSES)}")
            count = write(files, options.out / f"{name}.parquet", CLASSES.values(), squared)
            print(f"{options.out / name}.parquet: {count:,} images")
    except PmaeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
