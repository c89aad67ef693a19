"""Images in files, and what a source says of them."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from odd_files import encode, photograph

JPEG = encode(photograph((40, 30)), "JPEG")
PNG = encode(photograph((40, 30)), "PNG")


def write(root: Path, *names: str, data: bytes = JPEG) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def names_of(source):
    return [source[index].name for index in range(len(source))]


def labels_of(source):
    return [source[index].label for index in range(len(source))]


def write_parquet(path: Path, images: list, labels: list | None = None, column: str = "image", features=None) -> Path:
    columns = {column: images} | ({} if labels is None else {"label": labels})
    table = pa.table(columns)
    if features is not None:
        from datasets import Features

        table = table.replace_schema_metadata(Features(features).arrow_schema.metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def write_shard(path: Path, samples: list[dict[str, bytes]], first: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, sample in enumerate(samples, first):
            for suffix, data in sample.items():
                info = tarfile.TarInfo(f"{key:06d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
