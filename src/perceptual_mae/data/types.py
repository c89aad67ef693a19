"""What a source of images is, and what it gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


class BrokenImage(Exception):  # noqa: N818 (it is a verdict on the file, and reads as one)
    """An image that cannot be used; the message says why in words a person can act on, in one line."""


@dataclass(frozen=True)
class Item:
    """One image as it lies in its source, not decoded yet.

    Attributes:
        data: encoded file bytes, the path of a file to read, a decoded uint8 image `(C, H, W)`, or why there is none.
        name: what a person calls it: a path relative to the source, or a row number.
        label: class index, or -1 where the source has no labels.
    """

    data: bytes | Path | Tensor | BrokenImage
    name: str
    label: int = -1


class Source(Protocol):
    """Random access to a finite set of images."""

    name: str
    """What the user typed, for messages."""
    classes: tuple[str, ...]
    """Class names by label; empty where the source has no labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...

    def fingerprint(self) -> str:
        """A short digest of which images these are and in which order (not of their pixels)."""
        ...


@runtime_checkable
class Streamed(Protocol):
    """A source whose images come in units (shards, or parts of them) that have to be fetched as a whole.

    Every image can be had, but each unit that is touched is fetched: whoever picks images picks few units.
    """

    counts: np.ndarray
    """Images of each unit, `(units,)` int64; they are numbered one unit after the other."""

    def expect(self, units: Sequence[int]) -> None:
        """Say which units are wanted now and next, the most urgent first: they are fetched ahead, others let go."""
        ...


@dataclass(frozen=True)
class Skip:
    """An image that could not be read, and why, in words for `skipped.txt`."""

    name: str
    reason: str


@dataclass
class Batch:
    """Images ready for the device.

    Attributes:
        images: `(B, C, H, W)` uint8.
        labels: `(B,)` int64, -1 where unknown.
        names: B names.
        skipped: images that could not be read while this batch was made (others stand in their place).
    """

    images: Tensor
    labels: Tensor
    names: list[str]
    skipped: list[Skip]

    def __len__(self) -> int:
        return len(self.images)

    def pin_memory(self) -> "Batch":
        """Called by the DataLoader when batches travel to a GPU."""
        self.images, self.labels = self.images.pin_memory(), self.labels.pin_memory()
        return self


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images to `[0, 1]`, on whichever device they are."""
    return images.to(dtype).div_(255)
