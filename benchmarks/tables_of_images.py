"""The parquet files of a data set, made from the images of its published archive."""

import argparse
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image

from perceptual_mae.errors import PmaeError, UsageError

Files = list[tuple[Path, int]]
"""Images and their labels."""


def make(
    description: str | None,
    source: str,
    splits: Mapping[str, Callable[[Path], Files]],
    classes: Sequence[str],
    read: Callable[[Path], bytes] = Path.read_bytes,
) -> int:
    """The command that makes them: reads a folder and an output from the command line, and returns its exit code.

    Args:
        description: for `--help`.
        source: what the archive is called.
        splits: the images of each split in the unpacked archive, by the split's name; UsageError: it is another folder.
        classes: their names by label.
        read: an image file, as it is to be written.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"{source}, unpacked: has train/ and val/")
    parser.add_argument("out", type=Path, help="folder for train.parquet and validation.parquet")
    options = parser.parse_args()
    try:
        found = {name: files_of(options.folder) for name, files_of in splits.items()}
        for name, files in found.items():
            if not files:
                raise UsageError(f"{options.folder}: there is no {name} image of these classes")
            out = options.out / f"{name}.parquet"
            write(files, out, classes, read)
            print(f"{out}: {len(files):,} images")
    except PmaeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def write(files: Files, out: Path, classes: Sequence[str], read: Callable[[Path], bytes]) -> None:
    """A parquet file of images and labels, in a seeded order."""
    found = list(files)
    random.Random(0).shuffle(found)
    images = [{"bytes": read(file), "path": file.name} for file, _ in found]
    features = Features({"image": Image(), "label": ClassLabel(names=list(classes))})
    out.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict({"image": images, "label": [label for _, label in found]}, features).to_parquet(out)
