"""Small masks that a network says of boxes, laid into the image."""

import torch
import torch.nn.functional as F
from torch import Tensor


def paste(mask: Tensor, box: Tensor, size: tuple[int, int], least: float = 0.5) -> Tensor:
    """What a mask that fills a box says of the centre of each pixel, bilinear.

    torchvision's own way rounds the box to whole pixels, which is felt where objects are small.

    Args:
        mask: `(m, m)` probabilities.
        box: `(4,)` corners in pixels.
        size: `(height, width)` of the image.
        least: probability from which on a pixel belongs to the object.

    Returns:
        `size` bool.
    """
    whole = torch.zeros(size, dtype=torch.bool)
    x1, y1, x2, y2 = box.tolist()
    columns, rows = _centres(x1, x2, size[1]), _centres(y1, y2, size[0])
    if not len(columns) or not len(rows):
        return whole
    # grid_sample counts from -1 to 1 across the mask.
    x, y = (2 * (columns + 0.5 - x1) / (x2 - x1) - 1), (2 * (rows + 0.5 - y1) / (y2 - y1) - 1)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    said = F.grid_sample(mask[None, None].float(), grid[None], padding_mode="border", align_corners=False)[0, 0]
    whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = said >= least
    return whole


def _centres(low: float, high: float, length: int) -> Tensor:
    """The pixels of an axis whose centres lie between two places: the others are none of the box."""
    pixels = torch.arange(length)
    return pixels[(pixels + 0.5 > low) & (pixels + 0.5 < high)]
