"""One vector for every image of a source, in a parquet file: part by part, by one process or several, resumable.

Nothing but a part is ever held in memory. Every part is a parquet file that says what it was made from, so a part that
is there can be told from one of another encoder, other images or another setting. Once all are there, the first process
copies them into one file, a row group each.
"""

import json
import shutil
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from perceptual_mae.data import MAX_PIXELS, Batch, Skip, Source
from perceptual_mae.data.views import cut
from perceptual_mae.errors import PmaeError, UsageError, refused_by_system
from perceptual_mae.evaluation.feature_cache import images_digest, weights_digest
from perceptual_mae.evaluation.features import Pool, Progress, Reading, encoded, part_of, refuse_nothing
from perceptual_mae.files import alone, write_atomically, write_text
from perceptual_mae.models.encoder import Encoder

PART = 1024
"""Images of a part, and of a row group."""
PATIENCE = 3600.0
"""Seconds that the first process waits for a part of another one while none comes."""
METADATA = b"pmae"
"""The key of a parquet file's metadata under which it says, in JSON, what it was made from."""
_FREE = ("encoder", "data")
"""Names in it that may differ: what they stand for has a digest beside them."""


@dataclass(frozen=True)
class Embedded:
    """What was written.

    Attributes:
        path: the parquet file.
        images: rows.
        width: numbers a vector.
        skipped: images that could not be read, listed in `skipped_list(path)`.
        made: False where the file was there already.
    """

    path: Path
    images: int
    width: int
    skipped: int
    made: bool


def skipped_list(out: Path) -> Path:
    """The file that lists the images which could not be read, beside the output."""
    return out.with_name(out.name + ".skipped.txt")


def embed(
    encoder: Encoder,
    source: Source,
    out: Path,
    *,
    pool: Pool = "mean",
    block: int | None = None,
    batch_size: int = 64,
    workers: int = 0,
    max_pixels: int = MAX_PIXELS,
    rank: int = 0,
    world_size: int = 1,
    images_per_part: int = PART,
    patience: float = PATIENCE,
    progress: Progress | None = None,
) -> Embedded | None:
    """Write `path` (name), `label` (class, or null), `label_id` and `vector` of every readable image of a source.

    Vectors are float32 lists of fixed size: twice the bytes of float16, which many readers of parquet do not know, and
    the values that the encoder gave. Rows are in the source's order.

    Args:
        encoder: with its device; bf16 where it is on a GPU that has it.
        source: images, in order.
        out: the file; `OUT.parts` beside it holds the parts while it is made, and a call that was cut off is continued.
        pool: what stands for an image.
        block, batch_size, workers, max_pixels: as in `features.extract`.
        rank, world_size: this process, of several that share the parts; all are called with the same arguments.
        images_per_part: images of the source in a part.
        patience: seconds without a new part after which the first process no longer waits for the others.
        progress: told how far this process is.

    Returns:
        what was written; None in processes other than the first, which do not wait for it.

    Raises:
        UsageError: `out` or its parts belong to something else, or the encoder has no such block.
        PmaeError: no image can be read, a feature is not finite, another process writes the same, the disk is full.
    """
    reading = Reading(block, batch_size, workers, max_pixels)
    reading.depends(encoder)  # refuses a block that is not there before anything is written
    job = _Job(encoder, source, out, pool, reading, images_per_part)
    with refused_by_system(f"--out {out}"):
        finished = job.finished()
        if finished is None:
            job.write_parts(rank, world_size, progress)
        if rank != 0:
            return None
        if finished is None:
            job.join(patience)
            finished = job.finished(made=True)
        shutil.rmtree(job.folder, ignore_errors=True)
        return finished


@dataclass(frozen=True)
class _Job:
    """An output in the making; the arguments are those of `embed`."""

    encoder: Encoder
    source: Source
    out: Path
    pool: Pool
    reading: Reading
    images_per_part: int

    @cached_property
    def origin(self) -> dict[str, Any]:
        """What a file says it was made from, ready for JSON."""
        return {
            "encoder": self.encoder.name,
            "data": self.source.name,
            "pool": self.pool,
            **self.reading.depends(self.encoder),
            "mean": self.encoder.mean.flatten().tolist(),
            "std": self.encoder.std.flatten().tolist(),
            "weights": weights_digest(self.encoder),
            "images": images_digest(self.source),
            "images_per_part": self.images_per_part,
        }

    @cached_property
    def folder(self) -> Path:
        return self.out.with_name(self.out.name + ".parts")

    @cached_property
    def parts(self) -> dict[Path, range]:
        """The parts, and which images belong to each."""
        starts = range(0, len(self.source), self.images_per_part)
        spans = (range(start, min(start + self.images_per_part, len(self.source))) for start in starts)
        return {self.folder / f"part-{number:05}.parquet": span for number, span in enumerate(spans)}

    @cached_property
    def schema(self) -> pa.Schema:
        width = self.encoder.embed_dim * (2 if self.pool == "both" else 1)
        vector = pa.list_(pa.float32(), width)
        return pa.schema([("path", pa.string()), ("label", pa.string()), ("label_id", pa.int64()), ("vector", vector)])

    # -- whose files these are -----------------------------------------------------------------------------------------

    def finished(self, made: bool = False) -> Embedded | None:
        """The output where it is there. Raises UsageError if it is that of something else."""
        if not self.out.exists():
            return None
        found = _origin_of(self.out) if self.out.is_file() else None
        if found is None:
            raise UsageError(f"--out {self.out}: there is something else of this name; name another file")
        changed = self._differences(found)
        if changed:
            raise UsageError(f"--out {self.out} holds other vectors ({changed}): delete it, or name another file")
        width = self.schema.field("vector").type.list_size
        return Embedded(self.out, pq.read_metadata(self.out).num_rows, width, found["skipped"], made)

    def _check_parts(self) -> None:
        """Delete parts that are damaged. Raises UsageError where there are parts of something else."""
        for part in filter(Path.exists, self.parts):
            found = _origin_of(part)
            changed = self._differences(found) if found else ""
            if changed:
                raise UsageError(
                    f"--out {self.out}: parts of other vectors are in {self.folder} ({changed}): delete that folder, "
                    "or name another file"
                )
            if found is None:
                part.unlink()

    def _differences(self, found: dict[str, Any]) -> str:
        """Settings with which something else was made, in words; empty if it is the same."""
        names = [name for name in self.origin if name not in _FREE and found.get(name) != self.origin[name]]
        words = {"weights": "another encoder", "images": "other images"}
        return "; ".join(words.get(name) or f"{name} {found.get(name)}, now {self.origin[name]}" for name in names)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def write_parts(self, rank: int, world_size: int, progress: Progress | None) -> None:
        """Make those of every `world_size`-th part from number `rank` on that are missing."""
        if rank == 0:
            self._check_parts()
        ours = list(self.parts.items())[rank::world_size]
        missing = [(path, span) for path, span in ours if not path.exists()]
        # The first process puts the output in place, and only then deletes the parts.
        if missing and self.finished() is None:
            with alone(self.folder / f".lock-{rank}", f"--out {self.out}"):
                self._write_missing(missing, sum(len(span) for _, span in ours), progress)

    def _write_missing(self, missing: list[tuple[Path, range]], total: int, progress: Progress | None) -> None:
        done = total - sum(len(span) for _, span in missing)
        # One stream for all parts, so that workers read on while a part is written.
        pieces = [cut(span, self.reading.images_at_once()) for _, span in missing]
        requests = [request for piece in pieces for request in piece]
        with closing(encoded(self.encoder, self.source, requests, self.reading)) as batches:
            for (path, _), piece in zip(missing, pieces, strict=True):
                tables, broken = [], []
                for request in piece:
                    batch, vectors = next(batches)
                    tables.append(self._table(batch, vectors))
                    broken += [[skip.name, skip.reason] for skip in batch.skipped]
                    done += len(request)
                    if progress is not None:
                        progress(done, total)
                table = pa.concat_tables(tables).combine_chunks()
                write_atomically(path, partial(_write, self._saying(skipped=broken), [table]))

    def _table(self, batch: Batch, vectors: Tensor) -> pa.Table:
        """The rows of a batch, whose vectors are `(rows, 2D)` float32."""
        classes, labels = self.source.classes, batch.labels.tolist()
        words = [classes[label] if 0 <= label < len(classes) else None for label in labels]
        numbers = [None if label < 0 else label for label in labels]
        flat = vectors[:, part_of(self.pool, vectors.shape[1])].flatten().numpy()
        lists = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=self.schema.field("vector").type)
        return pa.table([batch.names, words, numbers, lists], schema=self.schema)

    def _saying(self, **facts: Any) -> pa.Schema:
        """The schema of a file that says what it was made from, and more."""
        return self.schema.with_metadata({METADATA: json.dumps(self.origin | facts)})

    # -- one file ------------------------------------------------------------------------------------------------------

    def join(self, patience: float) -> None:
        """All parts in one file, and the list of broken images beside it, once all are there."""
        self._wait(patience)
        rows, broken = 0, []
        for part in self.parts:
            found = _origin_of(part)
            if found is None or self._differences(found):
                raise PmaeError(f"{part} was written by another process: run the same command again")
            broken += [Skip(*skip) for skip in found["skipped"]]
            rows += pq.read_metadata(part).num_rows
        refuse_nothing(rows, broken, self.source)
        if broken:
            write_text(skipped_list(self.out), "".join(f"{skip.name}\t{skip.reason}\n" for skip in broken))
        else:
            skipped_list(self.out).unlink(missing_ok=True)
        schema = self._saying(skipped=len(broken))
        write_atomically(self.out, partial(_write, schema, map(_read_part, self.parts)))

    def _wait(self, patience: float) -> None:
        """Until all parts are there. Raises PmaeError if none comes for a long time."""
        before, since = len(self.parts), time.monotonic()
        while missing := sum(not part.exists() for part in self.parts):
            if missing < before:
                before, since = missing, time.monotonic()
            if time.monotonic() - since > patience:
                raise PmaeError(
                    f"--out {self.out}: {missing} parts of other processes are missing, and none came for "
                    f"{patience:.0f} s: run the same command again"
                )
            time.sleep(min(0.5, patience / 10))


def _origin_of(path: Path) -> dict[str, Any] | None:
    """What a parquet file says it was made from; None if it does not, or is none."""
    try:
        found = json.loads(pq.read_schema(path).metadata[METADATA])
    except (pa.ArrowException, TypeError, KeyError, ValueError):
        return None
    except OSError as error:
        if error.errno is not None:  # what the system refuses; else a file that Arrow cannot make out
            raise
        return None
    return found if isinstance(found, dict) else None


def _read_part(path: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        path.unlink(missing_ok=True)
        raise PmaeError(f"{path} was damaged and is deleted: run the same command again") from error


def _write(schema: pa.Schema, tables: Iterable[pa.Table], path: Path) -> None:
    """A parquet file with a row group for each table that has rows."""
    # A dictionary saves space where values repeat; check sums find what a disk damages.
    with pq.ParquetWriter(path, schema, use_dictionary=["label"], write_page_checksum=True) as writer:
        for table in tables:
            if len(table):
                writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=len(table))
