"""Large-scale jitter (arXiv 2012.07177): objects at many scales, in images of one size."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import masks_to_boxes

_LEAST = 1.0
"""Sides in pixels of the smallest object that can still be seen."""


@dataclass(frozen=True)
class LargeScaleJitter:
    """An image resized at random, then cut to a square or laid into one, perhaps mirrored, with its objects.

    Of what is enlarged beyond the square, a random part is seen; what is smaller lies in the upper left corner, and the
    rest is black.

    Attributes:
        side: of the square, in pixels.
        scale: least and greatest scale, 1 being that at which the image just fits into the square; uniform.
        flip: probability of a horizontal flip.
    """

    side: int
    scale: tuple[float, float] = (0.1, 2.0)
    flip: float = 0.5

    def __call__(self, image: Tensor, objects: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Draws four numbers from PyTorch's generator, whatever the image.

        Args:
            image: `(C, h, w)` uint8.
            objects: `boxes` `(n, 4)` float32 as corners in pixels, `labels` `(n,)`, `masks` `(n, h, w)` uint8.

        Returns:
            `(C, side, side)` uint8, and those of the objects that are still seen. The box of an object that the edge
            cuts is the bounding box of what is left of its mask.
        """
        size, across, down, mirrored = torch.rand(4).tolist()
        height, width = image.shape[1:]
        scale = (self.scale[0] + (self.scale[1] - self.scale[0]) * size) * self.side / max(height, width)
        top, rows, seen_rows = self._visible(height, scale, down)
        left, columns, seen_columns = self._visible(width, scale, across)

        # Cut first: most of an image that is enlarged is never seen.
        view = image[None, :, top : top + rows, left : left + columns]
        square = image.new_zeros(image.shape[0], self.side, self.side)
        square[:, :seen_rows, :seen_columns] = _resized(view, (seen_rows, seen_columns))[0]
        masks = objects["masks"].new_zeros(len(objects["masks"]), self.side, self.side)
        cut = objects["masks"][:, top : top + rows, left : left + columns]
        masks[:, :seen_rows, :seen_columns] = F.interpolate(
            cut[:, None], size=(seen_rows, seen_columns), mode="nearest-exact"
        )[:, 0]

        corner = torch.tensor([left, top, left, top])
        factor = torch.tensor([seen_columns / columns, seen_rows / rows] * 2)
        limit = torch.tensor([seen_columns, seen_rows] * 2)
        whole = (objects["boxes"] - corner) * factor
        boxes = whole.clamp(min=0).minimum(limit)
        there = masks.flatten(1).any(dim=1).bool()
        edged = there & ((whole - boxes).abs().amax(dim=1) > 1e-3)
        if edged.any():
            boxes[edged] = _around(masks[edged])
        kept = there & (boxes[:, 2:] - boxes[:, :2] >= _LEAST).all(dim=1)
        boxes, masks, labels = boxes[kept], masks[kept], objects["labels"][kept]
        if mirrored < self.flip:
            square, masks = square.flip(-1), masks.flip(-1)
            boxes = torch.stack([self.side - boxes[:, 2], boxes[:, 1], self.side - boxes[:, 0], boxes[:, 3]], dim=1)
        return square, {"boxes": boxes, "labels": labels, "masks": masks}

    def _visible(self, length: int, scale: float, where: float) -> tuple[int, int, int]:
        """Along one axis: where what is seen begins, how many pixels of the image it is, and of the square."""
        pixels = min(length, max(1, round(self.side / scale)))
        return int(where * (length - pixels + 1)), pixels, max(1, min(self.side, round(pixels * scale)))


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """`(B, C, h, w)` uint8 to `(B, C, *size)`, bilinear and antialiased."""
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


def _around(masks: Tensor) -> Tensor:
    """Bounding boxes of masks that are not empty, whole pixels: `(n, H, W)` to `(n, 4)`."""
    return masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])
