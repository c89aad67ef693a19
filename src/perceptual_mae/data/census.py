"""Every image of a source, read once: what there is, what cannot be read, and the statistics of the pixels."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from perceptual_mae.data.arrays import is_tiff
from perceptual_mae.data.decode import MAX_PIXELS, decode, read_bytes
from perceptual_mae.data.pictures import open_picture
from perceptual_mae.data.stream import BatchStream
from perceptual_mae.data.types import BrokenImage, Item, Skip, Source
from perceptual_mae.errors import PmaeError

GREY, COLOUR = "grey", "colour"
KINDS = {
    "1": f"{GREY} of one bit",
    "L": GREY,
    "LA": f"{GREY} with transparency",
    "I": f"{GREY} of 32 bits",
    "F": f"{GREY} in floating point",
    "P": "palette",
    "PA": "palette with transparency",
    "RGB": COLOUR,
    "RGBA": f"{COLOUR} with transparency",
    "CMYK": "CMYK",
    "YCbCr": COLOUR,
    "LAB": "Lab",
}
"""Pillow's modes in words; those that begin with `I;16` are grey of 16 bits."""
_VALUES = np.arange(256) / 255
_TOGETHER = 64
"""Images that a worker reads in one go."""


@dataclass
class Census:
    """What was found of some images.

    Attributes:
        images: that can be read.
        size: of their files, in bytes.
        skipped: images that cannot be read.
        formats: of files, such as JPEG.
        kinds: of pixels, such as `colour`.
        sides: `(height, width)` in pixels, upright.
        labels: class indices; -1 for none.
        digests: of what is in each file, and the image's name.
        sums, squares: over images, of the mean of each channel's values in [0, 1] and of their squares: `(C,)`.
    """

    images: int = 0
    size: int = 0
    skipped: list[Skip] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    sides: Counter[tuple[int, int]] = field(default_factory=Counter)
    labels: Counter[int] = field(default_factory=Counter)
    digests: list[tuple[bytes, str]] = field(default_factory=list)
    sums: np.ndarray = field(default_factory=lambda: np.zeros(0))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def mean(self) -> list[float]:
        """Of each channel in [0, 1]; every image counts alike, however many pixels it has."""
        return (self.sums / max(1, self.images)).tolist()

    @property
    def std(self) -> list[float]:
        """Of each channel, over all pixels of all images, likewise."""
        variance = self.squares / max(1, self.images) - np.square(self.mean)
        return np.sqrt(np.maximum(variance, 0)).tolist()

    @property
    def shorter_side(self) -> int:
        """Median of the shorter sides, in pixels; 0 where nothing can be read."""
        shorter = sorted((min(sides), count) for sides, count in self.sides.items())
        seen = np.cumsum([count for _, count in shorter])
        return shorter[int(np.searchsorted(seen, self.images / 2))][0] if shorter else 0

    def add(self, item: Item, channels: int, max_pixels: int) -> None:
        """Read one image, and count it."""
        try:
            data = read_bytes(item.data) if isinstance(item.data, Path) else item.data
            image = decode(data, channels, max_pixels)
        except BrokenImage as broken:
            self.skipped.append(Skip(item.name, str(broken)))
            return
        assert not isinstance(data, BrokenImage)  # it would have been raised
        content = data.numpy().tobytes() if isinstance(data, Tensor) else data
        name, kind = ("array", _by_channels(len(data))) if isinstance(data, Tensor) else kind_of(data, channels)
        self.images += 1
        self.size += len(content)
        self.formats[name] += 1
        self.kinds[kind] += 1
        self.sides[image.shape[1], image.shape[2]] += 1
        self.labels[item.label] += 1
        self.digests.append((hashlib.blake2b(content, digest_size=16).digest(), item.name))
        # By how often there is each of the 256 values: exact, and without a float for every pixel.
        shares = np.stack([np.bincount(one.flatten().numpy(), minlength=256) for one in image]) / image[0].numel()
        self.sums = _sum(self.sums, shares @ _VALUES)
        self.squares = _sum(self.squares, shares @ np.square(_VALUES))

    def merge(self, other: "Census") -> None:
        """Count what was found of other images, too."""
        self.images += other.images
        self.size += other.size
        self.skipped += other.skipped
        self.formats.update(other.formats)
        self.kinds.update(other.kinds)
        self.sides.update(other.sides)
        self.labels.update(other.labels)
        self.digests += other.digests
        self.sums, self.squares = _sum(self.sums, other.sums), _sum(self.squares, other.squares)


def take_census(
    source: Source,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    workers: int = 0,
    progress: Callable[[int], object] = lambda done: None,
) -> Census:
    """Read all images of a source.

    Args:
        channels: that the images are to have; see `decode`.
        max_pixels: larger images are not read.
        workers: processes that read; 0: this one. They change no number.
        progress: called with the number of images that are done.

    Raises:
        PmaeError: the source itself cannot be read any more.
    """
    requests = [range(first, min(first + _TOGETHER, len(source))) for first in range(0, len(source), _TOGETHER)]
    found, done = Census(), 0
    for request, part in zip(
        requests, BatchStream(_Reader(source, channels, max_pixels), requests, workers=workers), strict=True
    ):
        found.merge(part)
        done += len(request)
        progress(done)
    return found


def kind_of(data: bytes, channels: int) -> tuple[str, str]:
    """Format and kind of pixels of an image that was decoded to so many channels, by its header."""
    try:
        with open_picture(data) as picture:
            kind = f"{GREY} of 16 bits" if picture.mode.startswith("I;16") else KINDS.get(picture.mode, picture.mode)
            return picture.format or "?", kind
    except Exception:  # no format of Pillow's: it was read all the same, so it is an array
        return "TIFF" if is_tiff(data) else "NumPy", _by_channels(channels)


def _by_channels(channels: int) -> str:
    return {1: GREY, 3: COLOUR, 4: f"{COLOUR} with transparency"}.get(channels, f"{channels} channels")


def same_content(digests: Iterable[tuple[bytes, str]]) -> list[list[str]]:
    """Names of images with the same content: a list for each content that there is more than once."""
    names: dict[bytes, list[str]] = {}
    for digest, name in digests:
        names.setdefault(digest, []).append(name)
    return [many for many in names.values() if len(many) > 1]


@dataclass(frozen=True)
class _Reader:
    """Reads the images of a request; runs in the workers."""

    source: Source
    channels: int
    max_pixels: int

    def __getitem__(self, request: Sequence[int]) -> Census | PmaeError:
        found = Census()
        try:
            for index in request:
                found.add(self.source[index], self.channels, self.max_pixels)
        except PmaeError as error:  # raised in the main process instead: there it is one line
            return error
        return found


def _sum(these: np.ndarray, those: np.ndarray) -> np.ndarray:
    return those if not these.size else these if not those.size else these + those
