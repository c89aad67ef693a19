"""A folder of images and masks as ADE20K has them (arXiv 1608.05442): a mask is a PNG of class numbers, 0 for none."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perceptual_mae.data.arrays import check_size
from perceptual_mae.data.decode import MAX_PIXELS, decode, read_bytes
from perceptual_mae.data.digest import digest
from perceptual_mae.data.folder import SUFFIXES, find_files, printable
from perceptual_mae.data.labelled import Sample
from perceptual_mae.data.pictures import open_picture
from perceptual_mae.data.types import BrokenImage, Skip
from perceptual_mae.errors import UsageError, refused_by_system
from perceptual_mae.paths import user_path

IGNORED = 255
"""The class of pixels that do not count, in a target."""
_GREY = 0
"""PNG's colour type of grey images."""
_STRETCHED = {2: 85, 4: 17}
"""By what Pillow multiplies grey values of so many bits."""
_FOLDERS = {"train": ("training", "train"), "validation": ("validation", "val")}
_NAMES = ("classes.txt", "objectInfo150.txt")
_LAYOUT = "images/training/NAME.jpg with annotations/training/NAME.png, and validation likewise"


class AdeSource:
    """Images with masks, in the order of their relative paths.

    Attributes:
        pairs: an image and its mask, as paths below the folders of their split.
        problems: what is left out: images without a mask, masks without an image, and what `check` found.
    """

    def __init__(
        self,
        name: str,
        images: Path,
        masks: Path,
        classes: Sequence[str],
        channels: int = 3,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.name, self.classes = name, tuple(classes)
        self.channels, self.max_pixels = channels, max_pixels
        self._images, self._masks = images, masks
        self.pairs, self.problems = _pair(images, masks)

    def __len__(self) -> int:
        return len(self.pairs)

    def title(self, index: int) -> str:
        """The path of an image below the folder of its split."""
        return printable(self.pairs[index][0])

    def read(self, index: int) -> Sample:
        """An image, and of every pixel its class from 0 on, 255 where it has none: `(H, W)` int64.

        Raises:
            BrokenImage: image or mask cannot be read, their sizes differ, or the mask has classes that there are not.
        """
        image = decode(self._images / self.pairs[index][0], self.channels, self.max_pixels)
        mask = self.read_mask(index)
        if mask.shape != image.shape[1:]:
            sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels and its image {image.shape[2]} x {image.shape[1]}"
            raise BrokenImage(f"its mask {self._mask_title(index)} has {sizes}")
        return Sample(image, targets(mask), self.title(index))

    def read_mask(self, index: int) -> Tensor:
        """The mask of an image as it is in its file, 0 for no class: `(H, W)` int64.

        Raises:
            BrokenImage: it cannot be read, or has classes that there are not.
        """
        mask = _decode_mask(self._masks / self.pairs[index][1], self._mask_title(index), self.max_pixels)
        largest = int(mask.max())
        if largest > len(self.classes):
            many = f"there are {len(self.classes)} classes; 0 is ignored"
            raise BrokenImage(f"its mask {self._mask_title(index)} has the value {largest}, but {many}")
        return mask

    def check(self, told: Callable[[int, int], None] | None = None) -> None:
        """Read all masks once, and leave those out that cannot be used: they are added to `problems`.

        Args:
            told: called with the number of masks read, and of all, after each.
        """
        good = []
        with ThreadPoolExecutor() as threads:  # decoding needs no interpreter
            for index, reason in enumerate(threads.map(self._trouble, range(len(self)))):
                if reason:
                    self.problems.append(Skip(self.title(index), reason))
                else:
                    good.append(self.pairs[index])
                if told is not None:
                    told(index + 1, len(self))
        self.pairs = good

    def _trouble(self, index: int) -> str:
        """What is wrong with a mask; empty: nothing."""
        try:
            self.read_mask(index)
        except BrokenImage as broken:
            return str(broken)
        return ""

    def fingerprint(self) -> str:
        """Digest of the classes, of the relative paths in order, and of the masks' files."""
        parts = ["\n".join(self.classes).encode()]
        for image, mask in self.pairs:
            parts += [os.fsencode(image), _contents_digest(self._masks / mask)]
        return digest(b"ade", *parts)

    def _mask_title(self, index: int) -> str:
        return printable(f"{self._masks.parent.name}/{self._masks.name}/{self.pairs[index][1]}")


def open_ade(
    spec: str,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
) -> AdeSource | None:
    """Open `train` or `validation` of a folder in ADE20K's layout; None where it has no validation images.

    The folders of the splits may also be called `train` and `val`. Classes are named by `classes.txt` or
    `objectInfo150.txt`: a line for each, whose last column counts where there are tabs. Without such a file there are
    as many as the largest value in the training masks, all of which are read for it.

    Args:
        classes: names that are known already, such as those of the training split.

    Raises:
        UsageError: no such folder, another layout, or nothing in it that can be used; one line.
        PmaeError: it may not be read.
    """
    with refused_by_system(f"--data {spec}"):
        return _open(spec, user_path(spec), split, classes, channels, max_pixels)


def _open(
    spec: str, root: Path, split: str, classes: Sequence[str] | None, channels: int, max_pixels: int
) -> AdeSource | None:
    if not root.is_dir():
        raise UsageError(f"--data {spec}: there is no such folder; give one with {_LAYOUT}")
    folders = _folders(root, split)
    if folders is None:
        if split == "validation" and _folders(root, "train") is not None:
            return None
        raise UsageError(f"--data {spec} is not laid out like ADE20K: there must be {_LAYOUT}")
    images, masks = folders
    if not masks.is_dir():
        there, missing = f"{images.parent.name}/{images.name}", f"{masks.parent.name}/{masks.name}"
        raise UsageError(f"--data {spec} has {there} but no {missing}: there must be {_LAYOUT}")
    names = _class_names(spec, root, None if classes is None else tuple(classes), max_pixels)
    source = AdeSource(spec, images, masks, names, channels, max_pixels)
    if not source.pairs:
        first = f" ({source.problems[0].name}: {source.problems[0].reason})" if source.problems else ""
        raise UsageError(f"--data {spec}: no image in {images.parent.name}/{images.name} has a mask{first}")
    return source


def targets(mask: Tensor) -> Tensor:
    """Values of a mask, 0 for no class, to classes from 0 on, 255 for none."""
    return torch.where(mask == 0, IGNORED, mask - 1)


# -- what is in the folder ---------------------------------------------------------------------------------------------


def _folders(root: Path, split: str) -> tuple[Path, Path] | None:
    """The folders of a split's images and masks; None where there are no images. The masks' may be missing."""
    for spelling in _FOLDERS[split]:
        if (root / "images" / spelling).is_dir():
            masks = [root / "annotations" / other for other in (spelling, *_FOLDERS[split])]
            return root / "images" / spelling, next((folder for folder in masks if folder.is_dir()), masks[0])
    return None


def _pair(images: Path, masks: Path) -> tuple[list[tuple[str, str]], list[Skip]]:
    """Images and masks of the same name, and what is left over."""
    mask_of = {mask.rpartition(".")[0]: mask for mask in find_files(masks, frozenset({".png"}))}
    pairs: dict[str, tuple[str, str]] = {}
    problems = []
    for image in sorted(find_files(images, SUFFIXES)):
        stem = image.rpartition(".")[0]
        if stem in pairs:
            problems.append(Skip(printable(image), f"{printable(pairs[stem][0])} has the same mask"))
        elif stem in mask_of:
            pairs[stem] = image, mask_of[stem]
        else:
            problems.append(
                Skip(printable(image), f"has no mask {printable(stem)}.png in {masks.parent.name}/{masks.name}")
            )
    lonely = sorted(mask for stem, mask in mask_of.items() if stem not in pairs)
    problems += [
        Skip(printable(mask), f"is a mask without an image in {images.parent.name}/{images.name}") for mask in lonely
    ]
    return list(pairs.values()), problems


def _class_names(spec: str, root: Path, known: tuple[str, ...] | None, max_pixels: int) -> tuple[str, ...]:
    """From a file, else as they are known already, else by number.

    Raises:
        UsageError: names that are no names, other names than are known, or more than a mask of one byte has values.
    """
    file = next((root / name for name in _NAMES if (root / name).is_file()), None)
    if file is None and known is not None:
        return known
    numbers = range(_largest(spec, root, max_pixels)) if file is None else ()
    names = tuple(f"class {n + 1}" for n in numbers) if file is None else _read_names(file)
    where = f"--data {spec}: {file.name}" if file is not None else f"--data {spec}"
    if known is not None and names != known:
        raise UsageError(f"{where} names other classes than are learnt: {', '.join(names[:4])}, ...")
    if not names:
        raise UsageError(f"{where}: there is no class; write a name a line into classes.txt")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"{where} names {twice[0]} twice: give every class a name of its own")
    if len(names) >= IGNORED:
        raise UsageError(f"{where} has {len(names)} classes: there can be {IGNORED - 1}")
    return names


def _read_names(file: Path) -> tuple[str, ...]:
    """A name a line; of lines with tabs the last column, without the line of headings that ADE20K has."""
    with refused_by_system(f"{file} cannot be read"):
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    rows = [line.split("\t") for line in lines if line]
    if rows and len(rows[0]) > 1 and not re.fullmatch(r"\d+", rows[0][0].strip()):
        rows = rows[1:]
    return tuple(printable(row[-1].strip()) for row in rows)


def _largest(spec: str, root: Path, max_pixels: int) -> int:
    """The largest value in the training masks that can be read."""
    folders = _folders(root, "train")
    if folders is None:
        raise UsageError(
            f"--data {spec}: there are neither training masks nor a classes.txt to tell which classes there are"
        )
    largest = 0
    for _, mask in _pair(*folders)[0]:
        try:
            largest = max(largest, int(_decode_mask(folders[1] / mask, mask, max_pixels).max()))
        except BrokenImage:  # named when it is read for training
            continue
    return largest


def _decode_mask(path: Path, title: str, max_pixels: int) -> Tensor:
    """The numbers of a PNG with one channel of any depth, or the indices of one with a palette: `(H, W)` int64.

    Pillow stretches grey of 2 and 4 bits to 0 .. 255, which is undone.

    Raises:
        BrokenImage: it cannot be read, holds colours, or has more than `max_pixels`.
    """
    try:
        data = read_bytes(path)
        with open_picture(data, ("PNG",)) as image:
            check_size(image.height, image.width, max_pixels)
            bands, mode = image.getbands(), image.mode
            values = np.array(image) if len(bands) == 1 else None
    except BrokenImage as broken:
        raise BrokenImage(f"its mask {title}: {broken}") from None
    except MemoryError:
        raise BrokenImage(f"its mask {title}: there is not enough memory for it") from None
    except Exception as error:  # damage surfaces from Pillow as anything
        raise BrokenImage(f"its mask {title} is no PNG that can be read ({' '.join(str(error).split())})") from None
    if values is None:
        raise BrokenImage(f"its mask {title} has {len(bands)} channels ({mode}): a mask has one, of class numbers")
    depth, kind = data[24], data[25]  # of the header, which comes first
    return torch.from_numpy(values.astype(np.int64) // (_STRETCHED.get(depth, 1) if kind == _GREY else 1))


def _contents_digest(file: Path) -> bytes:
    """The SHA-256 of a file, or of why it cannot be read."""
    try:
        return hashlib.sha256(read_bytes(file)).digest()
    except BrokenImage as broken:
        return hashlib.sha256(str(broken).encode()).digest()
