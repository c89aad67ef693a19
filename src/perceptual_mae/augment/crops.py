"""Random resized crops (Szegedy et al. 2014, as in torchvision), with the random numbers drawn apart from the images.

`draw_crops` draws for a whole batch at once and before any image is open, so the random stream never depends on what
the images turn out to be: not on their sizes, not on which of them were broken, not on how a batch is cut into pieces.
`random_crop` then fits an image's numbers to its size; it cuts first and resizes only what was cut.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptual_mae.augment.settings import CropConfig

Box = tuple[int, int, int, int]
"""Top, left, height, width, in pixels."""

TRIES = 10
"""How often torchvision tries for a box that fits into the image before it falls back on a central one."""


class CropDraw(NamedTuple):
    """The random numbers of one image's crop.

    Plain floats: they are many times faster here than one-element tensors, and are used once per image.

    Attributes:
        heights: `TRIES` tries' heights over the square root of the image's area.
        widths: their widths, likewise.
        position: in [0, 1): where the box lies between top and bottom, left and right.
        flip: whether the crop is mirrored.
        ratio: least and greatest width over height, in pixels.
    """

    heights: Sequence[float]
    widths: Sequence[float]
    position: Sequence[float]
    flip: bool
    ratio: tuple[float, float]


def draw_crops(count: int, generator: torch.Generator, config: CropConfig, size: tuple[int, int]) -> list[CropDraw]:
    """Draw the crops of `count` images: area uniform in `scale`, aspect log-uniform in `ratio` times the output's.

    `size` is the output's (height, width) in pixels. The same generator state gives the same draws, always.
    """
    uniform = torch.rand(count, 2 * TRIES + 3, dtype=torch.float64, generator=generator)
    area = config.scale[0] + (config.scale[1] - config.scale[0]) * uniform[:, :TRIES]
    aspect = size[1] / size[0]
    low, high = math.log(config.ratio[0] * aspect), math.log(config.ratio[1] * aspect)
    ratio = torch.exp(low + (high - low) * uniform[:, TRIES : 2 * TRIES])
    heights, widths = (area / ratio).sqrt().tolist(), (area * ratio).sqrt().tolist()
    positions, flips = uniform[:, 2 * TRIES : 2 * TRIES + 2].tolist(), (uniform[:, -1] < config.flip).tolist()
    limits = itertools.repeat((math.exp(low), math.exp(high)), count)
    return list(map(CropDraw, heights, widths, positions, flips, limits))


def random_crop(image: Tensor, draw: CropDraw, size: tuple[int, int]) -> Tensor:
    """The crop of `image: (C, H, W)` uint8 that was drawn: `(C, *size)` uint8."""
    cut = crop_resize(image, crop_box((image.shape[1], image.shape[2]), draw), size)
    return cut.flip(-1) if draw.flip else cut


def crop_box(image_size: tuple[int, int], draw: CropDraw) -> Box:
    """The box of one image of `image_size` (height, width): the first try that fits, else the largest central one."""
    height, width = image_size
    root = math.sqrt(height * width)
    for one_height, one_width in zip(draw.heights, draw.widths, strict=True):
        h, w = round(one_height * root), round(one_width * root)
        if 0 < h <= height and 0 < w <= width:
            return int(draw.position[0] * (height - h + 1)), int(draw.position[1] * (width - w + 1)), h, w
    if width / height < draw.ratio[0]:
        h, w = max(1, round(width / draw.ratio[0])), width
    elif width / height > draw.ratio[1]:
        h, w = height, max(1, round(height * draw.ratio[1]))
    else:
        h, w = height, width
    return (height - h) // 2, (width - w) // 2, h, w


def center_box(height: int, width: int, size: tuple[int, int]) -> Box:
    """The largest central box with the aspect of `size` (height, width): what resizing the short side, then cutting
    the centre, shows of an image of `height` x `width` pixels."""
    scale = min(height / size[0], width / size[1])
    h, w = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return (height - h) // 2, (width - w) // 2, h, w


def crop_resize(image: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """Cut `box` out of `image: (C, H, W)` uint8 and resize it, bicubic and antialiased, to `(C, *size)` uint8."""
    top, left, height, width = box
    cut = image[None, :, top : top + height, left : left + width]
    if (height, width) == tuple(size):
        return cut[0]
    return F.interpolate(cut, size=size, mode="bicubic", antialias=True)[0]


def center_crop_resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The central crop used wherever an image is looked at and not trained on; small images are enlarged.

    `image: (C, H, W)` uint8 to `(C, *size)` uint8.
    """
    return crop_resize(image, center_box(image.shape[1], image.shape[2], size), size)
