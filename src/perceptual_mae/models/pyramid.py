"""An image at several scales, each half the side of the next."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def patch_sides(patch_size: int) -> tuple[int, ...]:
    """Sides in pixels that a token is drawn with, coarse to fine: halves of the patch as long as they are whole.

    16 gives (1, 2, 4, 8, 16), so that a grid of g x g tokens draws images of side g, 2g, ..., 16g; 14 gives (7, 14).
    """
    sides = [patch_size]
    while sides[0] % 2 == 0:
        sides.insert(0, sides[0] // 2)
    return tuple(sides)


def image_pyramid(images: Tensor, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
    """Images `(B, C, H, W)` average-pooled to `sizes`, `(height, width)` each, coarse to fine; the last is `(H, W)`.

    Raises:
        ValueError: a size is not half of the next, or the last not the images'.
    """
    if tuple(images.shape[-2:]) != tuple(sizes[-1]):
        raise ValueError(f"images of {tuple(images.shape[-2:])} are no pyramid of {tuple(sizes[-1])}")
    scales = [images]
    for height, width in reversed(sizes[:-1]):
        scales.append(F.avg_pool2d(scales[-1], 2))
        if tuple(scales[-1].shape[-2:]) != (height, width):
            raise ValueError(f"a scale of {height} x {width} is not half of {tuple(scales[-2].shape[-2:])}")
    return tuple(reversed(scales))
