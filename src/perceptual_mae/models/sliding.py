"""Maps over images of any size from a network that takes one size: overlapping windows, averaged."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor


def starts(side: int, window: int) -> list[int]:
    """Where windows begin along one side: at most two thirds of a window apart, the first at 0, the last at the end.

    A side shorter than the window has one, which reaches beyond it.
    """
    if side <= window:
        return [0]
    stride = max(1, window * 2 // 3)
    return [min(index * stride, side - window) for index in range(math.ceil((side - window) / stride) + 1)]


def sliding_maps(
    network: Callable[[Tensor], Tensor], images: Tensor, window: tuple[int, int], at_once: int
) -> Iterator[Tensor]:
    """Mean over all windows of what a network says of each pixel, in bands from top to bottom.

    Memory is taken for one row of windows, however tall the images are.

    Args:
        network: `(b, C, *window)` to `(b, K, *window)`.
        images: `(B, C, H, W)`, neither side shorter than the window's.
        window: its `(height, width)`.
        at_once: windows that the network is given at a time.

    Yields:
        `(B, K, h, W)` float32; the heights h add up to H.
    """
    height, width = images.shape[2:]
    tops, lefts = starts(height, window[0]), starts(width, window[1])
    total: Tensor | None = None  # of the rows from `top` on; what windows above have said of them
    counts = images.new_zeros(window[0], width)
    for top, following in pairwise([*tops, height]):
        rows = images[:, :, top : top + window[0]]
        cuts = torch.stack([rows[..., left : left + window[1]] for left in lefts]).flatten(0, 1)
        places = [(left, image) for left in lefts for image in range(len(images))]
        for part, where in zip(cuts.split(at_once), _parts(places, at_once), strict=True):
            for said, (left, image) in zip(network(part).float(), where, strict=True):
                if total is None:
                    total = said.new_zeros(len(images), len(said), window[0], width)
                total[image, :, :, left : left + window[1]] += said
        for left in lefts:
            counts[:, left : left + window[1]] += 1
        assert total is not None
        done = following - top
        yield total[:, :, :done] / counts[:done]
        total = torch.cat([total[:, :, done:], torch.zeros_like(total[:, :, :done])], dim=2)
        counts = torch.cat([counts[done:], torch.zeros_like(counts[:done])])


def _parts(places: list[tuple[int, int]], size: int) -> list[list[tuple[int, int]]]:
    return [places[start : start + size] for start in range(0, len(places), size)]
