"""Images in the rows of a `datasets.Dataset`: parquet files, WebDataset shards and the hub all end up here."""

import bisect
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from perceptual_mae.data.digest import digest
from perceptual_mae.data.types import Item
from perceptual_mae.errors import UsageError, printable

if TYPE_CHECKING:
    from datasets import Dataset, Features

_IMAGE_NAMES = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "tif", "tiff", "bytes", "pixels")
_LABEL_NAMES = ("label", "labels", "cls", "class", "fine_label", "category", "target")
_DIGITS = 18
"""Of a number that is written as text; what is longer is a name of digits."""
TRAIN_NAMES = ("train", "training")
VALIDATION_NAMES = ("validation", "valid", "val", "test", "testing", "dev")


class ArrowSource:
    """Encoded images in a column of a data set.

    Args:
        images: columns of which each row has its image in one, the first that is not empty; none: the column of images.
    """

    def __init__(self, name: str, dataset: "Dataset", images: Sequence[str] = ()) -> None:
        self.name = name
        self._dataset = dataset
        self._images = list(images) or image_columns(name, dataset.features)[:1]
        self._open_columns()
        label = label_column(dataset.features)
        self._labels, self.classes = _labels(dataset, label) if label else (None, ())

    def _open_columns(self) -> None:
        self._columns = [_Column(self._dataset.data.column(name).chunks) for name in self._images]

    def __getstate__(self) -> dict[str, Any]:
        # Arrow arrays would be copied; the data set itself travels as the names of its files.
        return {key: value for key, value in self.__dict__.items() if key != "_columns"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_columns()

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, index: int) -> Item:
        found = (column[index] for column in self._columns)
        data = next((image for image in found if image), b"")
        return Item(data, f"row {index}", -1 if self._labels is None else int(self._labels[index]))

    def fingerprint(self) -> str:
        """Digest of the number of rows and of every image's size in bytes: unlike a digest of file names and dates it
        survives a move, and unlike one of the contents it is done in a moment."""
        first, *others = (column.sizes() for column in self._columns)
        for other in others:
            first = np.where(first > 0, first, other)
        return digest(b"arrow", str(len(self)).encode(), first.tobytes())


class _Column:
    """Encoded images, by row.

    The column's Arrow buffers are read directly: a row costs about a microsecond, where `dataset[i]` costs a hundred.
    """

    def __init__(self, chunks: Sequence[pa.Array]) -> None:
        self._starts = [0, *accumulate(len(chunk) for chunk in chunks)]
        # Of a struct {bytes, path} either may be missing.
        structs = bool(chunks) and pa.types.is_struct(chunks[0].type)
        fields = {field.name: field.type for field in chunks[0].type} if structs else {}
        self._bytes = [chunk.field("bytes") if "bytes" in fields else chunk for chunk in chunks]
        texts = fields.get("path") in {pa.string(), pa.large_string()}
        self._files = [chunk.field("path") for chunk in chunks] if texts else None

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> bytes | Path:
        """The contents of an image's file, or its path; empty where there is neither."""
        chunk = bisect.bisect_right(self._starts, index) - 1
        row = index - self._starts[chunk]
        data = self._bytes[chunk][row].as_py()
        if data is None:
            file = self._files[chunk][row].as_py() if self._files else None
            data = Path(file) if file else b""
        return data

    def sizes(self) -> np.ndarray:
        """Bytes of each image, `(rows,)` int64; -1 or 0 where there is none: below a null Arrow has either."""
        import pyarrow.compute as pc

        return np.concatenate(
            [pc.fill_null(pc.binary_length(chunk), -1).to_numpy().astype(np.int64) for chunk in self._bytes]
        )


def without_decoding(dataset: "Dataset") -> "Dataset":
    """The data set with its image columns left encoded, so that nothing but this package decodes them."""
    from datasets import Image

    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset


def image_columns(spec: str, features: "Features") -> list[str]:
    """The columns that hold images, the likeliest first: `Image` features, and encoded bytes; those of a usual name.

    Raises UsageError, with the columns there are, where there is none.
    """
    from datasets import Image

    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    images += [name for name, feature in features.items() if name not in images and _holds_bytes(feature)]
    named = [name for name in _IMAGE_NAMES if name in images]
    if not images:
        there = printable(", ".join(features))[:300]
        raise UsageError(f"{spec} has no column of images (columns: {there}): name one `image`")
    return [*named, *(name for name in images if name not in named)]


def _holds_bytes(feature: object) -> bool:
    if isinstance(feature, dict):
        feature = feature.get("bytes")
    return getattr(feature, "dtype", None) in {"binary", "large_binary"}


def label_column(features: "Features") -> str | None:
    """The column that holds the classes: a `ClassLabel`, or integers or words under a usual name."""
    from datasets import ClassLabel

    kinds = {"string", "large_string", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
    usable = [name for name in _LABEL_NAMES if getattr(features.get(name), "dtype", None) in kinds]
    named = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    return next((name for name in usable if name in named), None) or next(iter(named + usable), None)


def _labels(dataset: "Dataset", column: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels as int64 (-1 for none) and the names of the classes."""
    from datasets import ClassLabel

    feature = dataset.features[column]
    values = dataset.data.column(column)
    if isinstance(feature, ClassLabel):
        known = values.fill_null(-1).to_numpy().astype(np.int64)
        return np.where((known >= 0) & (known < len(feature.names)), known, -1), tuple(feature.names)
    if feature.dtype in {"string", "large_string"}:
        words = values.to_pylist()
        # Digits written as text are numbers: class 10 comes after class 9.
        numeric = all(word is None or (word.strip().isdecimal() and len(word) <= _DIGITS) for word in words)
        present = sorted({word for word in words if word is not None}, key=int if numeric else str)
        label_of = {word: label for label, word in enumerate(present)}
        return np.array([label_of.get(word, -1) for word in words], np.int64), tuple(w.strip() for w in present)
    try:
        numbers = np.maximum(values.cast(pa.int64()).fill_null(-1).to_numpy(), -1)
    except pa.ArrowInvalid:  # beyond 63 bits: hashes or identifiers
        return None, ()
    count = int(numbers.max(initial=-1)) + 1
    # A column of numbers that runs far above the number of rows holds identifiers, not classes.
    if count > max(len(numbers), 1):
        return None, ()
    return numbers, tuple(str(label) for label in range(count))
