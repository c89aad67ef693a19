"""Make `imagenette-96`, the second data set of docs/results.md: Imagenette at 96 x 96 pixels, as two parquet files.

    python -m benchmarks.imagenette_96 ./imagenette2-160 ./imagenette-96

Imagenette (fast.ai; the terms of ImageNet, for research) is an archive of JPEGs, to be unpacked first. Images are
resized to squares whatever their aspect, as those that were measured had been. Those had been resized and encoded by
others: numbers that are measured on these will be near the ones in docs/results.md, not the same.
"""

import io
import sys
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.tables_of_images import make
from perceptual_mae.errors import UsageError

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


def files_of(split: str, root: Path) -> list[tuple[Path, int]]:
    """Files of a split, `train` or `val`, with their labels, in the order of their names.

    Raises:
        UsageError: there are none.
    """
    folders = [(root / split / identifier, label) for label, identifier in enumerate(CLASSES)]
    files = [(file, label) for folder, label in folders for file in sorted(folder.glob("*.JPEG"))]
    if not files:
        raise UsageError(f"{root} is not Imagenette: there is no image in {split}/{min(CLASSES)}")
    return files


def squared(file: Path) -> bytes:
    """An image as a JPEG of `SIDE` x `SIDE` pixels."""
    with Image.open(file) as image:
        resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    resized.save(encoded, "JPEG", quality=95)
    return encoded.getvalue()


def main() -> int:
    splits = {"train": partial(files_of, "train"), "validation": partial(files_of, "val")}
    return make(__doc__, "Imagenette", splits, list(CLASSES.values()), squared)


if __name__ == "__main__":
    sys.exit(main())
