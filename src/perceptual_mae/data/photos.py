"""`photos`: the photographs that scikit-image and scikit-learn carry, cut into tiles. Needs no download."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perceptual_mae.data.digest import digest
from perceptual_mae.data.types import Item

TILE = 96
STRIDE = 24
_LONGEST = 720
"""Longer sides are reduced to this: else half of all tiles would show the one retina."""
_VALIDATION_SHARE = 0.25

# Photographs only (through lens, microscope or telescope); the drawings, pages and test charts beside them are not.
_PHOTOS = {
    "skimage/data": [
        "astronaut.png",
        "brick.png",
        "camera.png",
        "cell.png",
        "chelsea.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ],
    "sklearn/datasets/images": ["china.jpg", "flower.jpg"],
}


class PhotoTiles:
    """Overlapping tiles of photographs; the photograph a tile is from is its class.

    The end of each photograph's longer side belongs to validation, the rest to training: no pixel is in both.
    """

    def __init__(self, split: str) -> None:
        self.name = "photos"
        self._photos = load_photos()
        self.classes = tuple(self._photos)
        self._tiles: list[tuple[int, int, int]] = []
        """Photograph, top and left of each tile."""
        for label, photo in enumerate(self._photos.values()):
            top, left, height, width = region(photo.shape[1], photo.shape[2], split)
            self._tiles += [
                (label, y, x)
                for y in range(top, top + height - TILE + 1, STRIDE)
                for x in range(left, left + width - TILE + 1, STRIDE)
            ]

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: int) -> Item:
        label, top, left = self._tiles[index]
        name = self.classes[label]
        tile = self._photos[name][:, top : top + TILE, left : left + TILE]
        return Item(tile, f"{name} at ({left}, {top})", label)

    def fingerprint(self) -> str:
        """Digest of the tiles' places."""
        return digest(b"photos", repr(self.classes).encode(), np.array(self._tiles).tobytes())


def region(height: int, width: int, split: str) -> tuple[int, int, int, int]:
    """The part (top, left, height, width) of a photograph of `height` x `width` pixels that belongs to a split."""
    longer = max(height, width)
    kept = max(TILE, round(_VALIDATION_SHARE * longer))
    start, size = (0, longer - kept) if split == "train" else (longer - kept, kept)
    return (start, 0, size, width) if height > width else (0, start, height, size)


@cache
def load_photos() -> dict[str, Tensor]:
    """Name to `(C, H, W)` uint8 with C of 1 or 3, in the photographs' own colours."""
    photos = {}
    for folder, files in _PHOTOS.items():
        package, *inside = folder.split("/")
        spec = find_spec(package)  # and no import: that takes a second
        root = Path(spec.origin).parent.joinpath(*inside) if spec and spec.origin else Path()
        for file in files:
            path = root / file
            if not path.is_file():  # which files are bundled has changed between versions
                continue
            with Image.open(path) as opened:
                picture: Image.Image = opened.convert("L" if opened.mode == "L" else "RGB")
            picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
            pixels = torch.from_numpy(np.array(picture))
            photos[path.stem] = (pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1)
    return photos
