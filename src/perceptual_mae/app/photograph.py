"""An image as somebody gives it to the page, in the sizes that networks take."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from perceptual_mae.augment.crops import Box, center_box, center_crop_resize
from perceptual_mae.data import BrokenImage, decode


@dataclass(frozen=True)
class View:
    """How a network wants its images.

    Attributes:
        channels: of the image.
        size: `(height, width)` in pixels.
    """

    channels: int
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Photograph:
    """One image, and what each network sees of it; equal to itself only.

    Attributes:
        name: what a person calls it.
        size: `(height, width)` in pixels, upright.
        crops: by view, `(C, h, w)` uint8, or why there is none.
    """

    name: str
    size: tuple[int, int]
    crops: Mapping[View, Tensor | str] = field(repr=False)

    def box(self, view: View) -> Box:
        """The part of the image that a view shows: top, left, height, width in its pixels."""
        return center_box(*self.size, view.size)

    def enlarged(self, view: View) -> bool:
        """Whether the image has fewer pixels than the view shows."""
        return self.box(view)[2] < view.size[0]


def see(data: bytes | Path | Tensor | BrokenImage, name: str, views: Iterable[View], max_pixels: int) -> Photograph:
    """Decode an image once for every number of channels, and cut it for every view.

    The image itself is not kept: a hundred people with large photographs would fill memory.

    Args:
        data: the bytes of a file, or what a source of images gives.
        name: what to call it.
        views: one or more.
        max_pixels: larger images are refused unread.

    Raises:
        BrokenImage: no view can be had of it; the message says why, in one line.
    """
    views = list(dict.fromkeys(views))
    decoded: dict[int, Tensor | str] = {}
    for view in views:
        if view.channels not in decoded:
            try:
                decoded[view.channels] = decode(data, view.channels, max_pixels)
            except BrokenImage as broken:
                decoded[view.channels] = str(broken)
    whole = [image for image in decoded.values() if isinstance(image, Tensor)]
    if not whole:
        raise BrokenImage(next(str(reason) for reason in decoded.values()))
    crops: dict[View, Tensor | str] = {}
    for view in views:
        image = decoded[view.channels]
        # A crop of the right size is a part of the whole image, and would keep all of it in memory.
        crops[view] = center_crop_resize(image, view.size).clone() if isinstance(image, Tensor) else image
    height, width = whole[0].shape[1:]
    return Photograph(name, (height, width), crops)


def to_batch(crop: Tensor, device: torch.device) -> Tensor:
    """`(C, h, w)` uint8 to `(1, C, h, w)` float in [0, 1], where the network is."""
    return crop[None].to(device).float() / 255
