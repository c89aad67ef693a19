"""Parquet files in parts: how many rows each row group has, and the images of one as an Arrow file."""

import io
import os
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perceptual_mae.data.arrow import image_columns
from perceptual_mae.data.streaming.address import is_url, shown
from perceptual_mae.data.streaming.settings import StreamSettings
from perceptual_mae.data.streaming.transfer import read_range
from perceptual_mae.errors import PmaeError


class RangeFile(io.RawIOBase):
    """A file elsewhere, as far as it is read: every read is a request, tried again until it comes."""

    def __init__(self, url: str, size: int, settings: StreamSettings) -> None:
        self._url, self._size, self._settings, self._at = url, size, settings, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io`."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """See `io`."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """See `io`. Raises Unavailable."""
        stop = self._size if size is None or size < 0 else min(self._at + size, self._size)
        if stop <= self._at:
            return b""
        data = read_range(self._url, self._at, stop, self._settings)
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        """See `io`. Raises Unavailable."""
        return self.read()


def open_table(location: str, size: int, settings: StreamSettings, footer: Path | None = None) -> pq.ParquetFile:
    """A parquet file; of one elsewhere only the footer is read, and not even that where `footer` has it.

    Args:
        size: of the file in bytes.
        footer: a file that `write_footer` wrote.

    Raises:
        PmaeError: it is none, or cannot be reached.
    """
    try:
        if is_url(location):
            known = None if footer is None else pq.read_metadata(footer)
            file = pa.PythonFile(cast(BinaryIO, RangeFile(location, size, settings)), mode="r")
            return pq.ParquetFile(file, metadata=known)
        return pq.ParquetFile(pa.OSFile(os.fsencode(location)))  # as bytes, for a name may be no text
    except (pa.ArrowException, OSError) as error:
        raise PmaeError(f"{shown(location)}: no parquet file that can be read: {_words(error)}") from None


def write_footer(table: pq.ParquetFile, path: Path) -> None:
    """Keep the footer of a parquet file: in one with many row groups it is megabytes, and each of them needs it."""
    table.metadata.write_metadata_file(str(path))


def image_leaf(location: str, schema: pa.Schema) -> str:
    """The column with encoded images, as parquet names it: `image`, or `image.bytes` of a struct.

    Raises:
        UsageError: there is none.
    """
    from datasets import Features

    column = image_columns(shown(location), Features.from_arrow_schema(schema))[0]
    return f"{column}.bytes" if pa.types.is_struct(schema.field(column).type) else column


def read_images(table: pq.ParquetFile, group: int, leaf: str) -> pa.Table:
    """The images of a row group, in one column, `bytes`.

    Raises:
        Unavailable: it cannot be fetched.
        pa.ArrowException, OSError: the parquet file is damaged.
    """
    column = table.read_row_group(group, columns=[leaf]).column(0)
    chunks = [chunk.field("bytes") if pa.types.is_struct(chunk.type) else chunk for chunk in column.chunks]
    # With 64-bit offsets: a row group may hold more than 2 GiB.
    images = pa.chunked_array([chunk.cast(pa.large_binary()) for chunk in chunks], type=pa.large_binary())
    return pa.table({"bytes": images})


def write_images(images: pa.Table, path: Path) -> None:
    """Write what `read_images` gave as an Arrow file, which can be memory-mapped. Raises OSError."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, images.schema) as writer:
        writer.write_table(images)


class TableImages:
    """The images of a row group, memory-mapped from what `write_images` wrote."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as file:
            chunks = pa.ipc.open_file(file).read_all().column("bytes").chunks
        self._chunks = chunks
        self._starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, row: int) -> bytes:
        """The encoded image of a row; empty where it has none."""
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._chunks[chunk][row - int(self._starts[chunk])].as_py() or b""


def _words(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
