"""A parquet file, or a folder of them."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from perceptual_mae.data.arrow import ArrowSource
from perceptual_mae.data.folder import find_files
from perceptual_mae.data.load import as_strings, load
from perceptual_mae.data.splits import pick_files
from perceptual_mae.errors import UsageError, refused_by_system

SUFFIXES = frozenset({".parquet", ".pq"})


def is_parquet_folder(folder: Path, image_suffixes: frozenset[str]) -> bool:
    """Whether a folder is one of parquet files, and neither a folder of images with a table beside them nor neither."""
    file = next(find_files(folder, SUFFIXES), None)
    return file is not None and (_has_images(folder / file) or next(find_files(folder, image_suffixes), None) is None)


def _has_images(file: Path) -> bool:
    """Whether a parquet file has a column of encoded images, as far as its header tells."""
    header = _header(file)
    if header is None:
        return True  # it is opened as what it is called, which says what is wrong with it
    schema, _ = header
    kinds = [kind for field in schema for kind in (field.type, *(part.type for part in _parts(field.type)))]
    return any(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) for kind in kinds)


def _has_rows(file: Path) -> bool:
    header = _header(file)
    return header is None or header[1] > 0


def _header(file: Path) -> tuple[pa.Schema, int] | None:
    """Columns and number of rows of a parquet file, as its header tells; None: it cannot be read."""
    try:
        with open(file, "rb") as opened:  # by its path pyarrow opens no file whose name is no text
            found = pyarrow.parquet.read_metadata(opened)
        return found.schema.to_arrow_schema(), found.num_rows
    except (pa.ArrowException, OSError):
        return None


def _parts(kind: pa.DataType) -> list[pa.Field]:
    return list(kind) if pa.types.is_struct(kind) else []


def open_parquet(spec: str, path: Path, split: str) -> ArrowSource | None:
    """Open the parquet files of one split; None where there is no validation split.

    In a folder the words `train` and `validation` (`val`, `test`, ...) in the files' relative paths tell the splits. A
    single file is the training images, whatever it is called: it was named by hand.

    Raises:
        UsageError: a file that is no parquet, or has no column of images.
        PmaeError: a damaged file.
    """
    if path.is_file():
        files = [path] if split == "train" else None
    else:
        files = pick_files(path, sorted(find_files(path, SUFFIXES)), split)
    if files is None:
        return None
    for file in files:
        _check_magic(file)
    files = [file for file in files if _has_rows(file)]  # `datasets` refuses a file without, and all others with it
    if not files:
        raise UsageError(f"{spec}: there is no row in the parquet files of the {split} split")
    advice = "write the file again, with a column `image` of encoded bytes"
    dataset = load(spec, "parquet", advice, data_files=as_strings(files), split="train")
    return ArrowSource(spec, dataset)


def _check_magic(file: Path) -> None:
    with refused_by_system(f"{file} cannot be read"), open(file, "rb") as opened:
        start = opened.read(4)
        opened.seek(-min(4, os.fstat(opened.fileno()).st_size), 2)
        end = opened.read(4)
    if start != b"PAR1":
        raise UsageError(f"{file} is not a parquet file: it starts with {start!r}")
    if end != b"PAR1":
        raise UsageError(f"{file} is cut short (a parquet file ends as it starts): fetch it again")
