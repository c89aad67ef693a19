"""From one number of channels to another."""

import torch
from torch import Tensor

from perceptual_mae.data.types import BrokenImage

ORDINARY = frozenset({1, 3, 4})
"""Grey, colour, and colour with transparency: what can be turned into one another."""


def to_channels(image: Tensor, channels: int) -> Tensor:
    """`(C, H, W)` uint8 to `(channels, H, W)`, by the rules of `decode.decode`.

    Raises:
        BrokenImage: the numbers differ, and are not both ordinary.
    """
    have = image.shape[0]
    if have == channels:
        return image
    if have not in ORDINARY or channels not in ORDINARY:
        raise BrokenImage(f"has {have} channels, not {channels}")
    if have == 4:
        alpha = image[3:].int()
        white = 255 * (255 - alpha)
        image = ((image[:3].int() * alpha + white + 127) // 255).to(torch.uint8)
    if channels == 1:
        if image.shape[0] == 1:
            return image
        # ITU-R 601 luma in Pillow's fixed point, so that a grey image does not depend on which door it came in by.
        red, green, blue = image.int()
        return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)[None]
    if image.shape[0] == 1:
        image = image.expand(3, -1, -1)
    return torch.cat([image, torch.full_like(image[:1], 255)]) if channels == 4 else image
