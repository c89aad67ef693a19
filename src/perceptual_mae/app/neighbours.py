"""The images most like one, among those that `pmae embed` wrote vectors of."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from perceptual_mae.app.looking import Looker
from perceptual_mae.app.photograph import Photograph
from perceptual_mae.data import Source
from perceptual_mae.data.joined import open_splits
from perceptual_mae.data.types import Item
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.evaluation.embed import METADATA
from perceptual_mae.evaluation.feature_cache import images_digest, weights_digest
from perceptual_mae.evaluation.features import Pool, image_vectors, part_of
from perceptual_mae.paths import user_path

COLUMNS = ("path", "label", "vector")
SPLITS = ("all", "train", "validation")


@dataclass(frozen=True)
class Neighbour:
    """An image of the folder.

    Attributes:
        item: it, as it lies in its source; None where it is no longer there.
        name: its name.
        label: its class; empty where unknown.
        similarity: cosine of the angle between the vectors, in [-1, 1].
    """

    item: Item | None
    name: str
    label: str
    similarity: float


@dataclass(frozen=True)
class Neighbourhood:
    """The vectors of a folder of images, and what made them.

    Attributes:
        looker: the encoder that made them.
        vectors: `(n, D)` float32 of length 1.
        names, labels: n each.
        source: where the images are.
        skipped: images of the source that have no vector.
        pool, block: how a vector was made, as in `pmae embed`.
    """

    looker: Looker
    vectors: Tensor
    names: Sequence[str]
    labels: Sequence[str | None]
    source: Source
    skipped: int
    pool: Pool
    block: int | None

    def nearest(self, photograph: Photograph, count: int) -> list[Neighbour]:
        """The images most like one, the most similar first.

        Raises:
            ValueError: the encoder cannot see this image.
        """
        crop = photograph.crops[self.looker.view]
        if isinstance(crop, str):
            raise ValueError(f"{self.looker.name} cannot read the image: {crop}")
        both = image_vectors(self.looker.encoder, crop[None], self.block)
        query = F.normalize(both[:, part_of(self.pool, both.shape[1])], dim=1)
        found = (query @ self.vectors.T)[0].topk(min(count, len(self.vectors)))
        rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return [
            Neighbour(self._item(row), self.names[row], self.labels[row] or "", similarity) for row, similarity in rows
        ]

    def _item(self, row: int) -> Item | None:
        # Rows are in the source's order, and only broken images are left out: it cannot be far behind.
        for index in range(row, min(row + self.skipped + 1, len(self.source))):
            item = self.source[index]
            if item.name == self.names[row]:
                return item
        return None


def open_neighbourhood(file: str, lookers: Sequence[Looker], data: str | None = None) -> Neighbourhood:
    """Read what `pmae embed` wrote.

    Args:
        file: the parquet file.
        lookers: encoders, one of which made it.
        data: where the images are now; default: where they were.

    Raises:
        UsageError: no such file, or one that another encoder made, or that is not of these images.
        PmaeError: a file that cannot be read.
    """
    path = user_path(file)
    if not path.is_file():
        raise UsageError(f"--neighbours {file}: there is no such file; `pmae embed` writes one")
    table, origin = _read(file, path)
    looker = _whose(file, origin, lookers)
    vectors = _vectors(file, table, looker, origin["pool"])
    skipped = int(origin.get("skipped", 0))
    spec = data or str(origin["data"])
    flag = f"--neighbours-data {data}" if data else f"--neighbours {file}"
    try:
        source = _source(spec, looker.encoder.in_channels, origin["images"], len(table) + skipped)
    except UsageError as error:
        hint = "" if data else "; --neighbours-data says where its images are now"
        raise UsageError(f"{flag}: {str(error).removeprefix('--data ')}{hint}") from error
    return Neighbourhood(
        looker,
        F.normalize(vectors, dim=1),
        table["path"].to_pylist(),
        table["label"].to_pylist(),
        source,
        skipped,
        origin["pool"],
        origin.get("block"),
    )


def _read(file: str, path: Path) -> tuple[pa.Table, dict[str, Any]]:
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read(list(COLUMNS))
        origin = json.loads((table.schema.metadata or {})[METADATA])
        known = all(isinstance(origin[name], str) for name in ("data", "encoder", "weights", "images"))
    except (KeyError, TypeError, ValueError) as error:  # Arrow's own are ValueErrors, too
        raise UsageError(f"--neighbours {file}: it is no parquet file that `pmae embed` wrote") from error
    except (pa.ArrowException, OSError) as error:
        raise PmaeError(f"--neighbours {file}: it cannot be read: {error}") from error
    if not known or not set(COLUMNS) <= set(table.column_names) or not len(table):
        raise UsageError(f"--neighbours {file}: it is no parquet file that `pmae embed` wrote")
    return table, origin


def _whose(file: str, origin: dict[str, Any], lookers: Sequence[Looker]) -> Looker:
    """The encoder that made the file, told by its weights."""
    for looker in lookers:
        same = origin.get("image_size") == list(looker.encoder.image_size)
        if same and weights_digest(looker.encoder) == origin["weights"]:
            return looker
    raise UsageError(
        f"--neighbours {file}: it was made by {origin['encoder']}, which is none of the encoders given (or was trained "
        "on since): name that one with --encoders, or embed the images anew"
    )


def _vectors(file: str, table: pa.Table, looker: Looker, pool: Any) -> Tensor:
    """`(n, D)` float32."""
    width = looker.encoder.embed_dim * (2 if pool == "both" else 1)
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in table["vector"].chunks])
    if pool not in ("cls", "mean", "both") or flat.size != len(table) * width:
        raise UsageError(f"--neighbours {file}: its vectors are not of {width} numbers")
    return torch.from_numpy(flat.astype(np.float32, copy=False)).reshape(len(table), width)


def _source(spec: str, channels: int, digest: str, count: int) -> Source:
    """The images that were embedded: those that look the same or, where they were copied, are as many."""
    as_many = None
    for split in SPLITS:
        try:
            source = open_splits(spec, split, channels=channels)
        except UsageError:
            if split == "all":
                raise
            continue
        if images_digest(source) == digest:
            return source
        if len(source) == count:
            as_many = as_many or source
    if as_many is None:
        raise UsageError(f"{spec} holds other images than those that were embedded")
    return as_many
