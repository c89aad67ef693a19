"""Overlapping windows over an image of any size."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from perceptual_mae.models.sliding import sliding_maps, starts


@pytest.mark.parametrize("window", [1, 2, 3, 8, 64, 512])
@pytest.mark.parametrize("side", [1, 2, 7, 63, 64, 65, 106, 107, 512, 1023])
def test_windows_cover_a_side(side: int, window: int) -> None:
    found = starts(side, window)
    covered = {place for start in found for place in range(start, start + window)}
    assert covered >= set(range(side))
    assert max(covered) == max(side, window) - 1  # nothing beyond what must be
    assert found == sorted(set(found))
    assert all(after - before <= max(1, window * 2 // 3) for before, after in pairwise(found))
    if side > window > 1:  # and no more of them than it takes
        assert len(found) == -(-(side - window) // (window * 2 // 3)) + 1


def curious(size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """A network whose word on a pixel depends on the whole window and on the place in it."""
    places = torch.arange(size[0] * size[1], dtype=torch.float32).reshape(size) / 100

    def network(windows: Tensor) -> Tensor:
        assert windows.shape[2:] == size
        mean = windows.mean(dim=(2, 3), keepdim=True)
        return torch.cat([windows * mean + places, windows.flip(-1) - mean], dim=1)

    return network


def by_loop(network: Callable[[Tensor], Tensor], images: Tensor, window: tuple[int, int]) -> Tensor:
    """The mean over all windows in float64, a pixel at a time."""
    batch, _, height, width = images.shape
    said = {
        (top, left): network(images[:, :, top : top + window[0], left : left + window[1]]).double()
        for top in starts(height, window[0])
        for left in starts(width, window[1])
    }
    maps = torch.zeros(batch, next(iter(said.values())).shape[1], height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            views = [
                values[:, :, y - top, x - left]
                for (top, left), values in said.items()
                if 0 <= y - top < window[0] and 0 <= x - left < window[1]
            ]
            maps[:, :, y, x] = torch.stack(views).mean(dim=0)
    return maps


@pytest.mark.parametrize("size", [(8, 12), (9, 12), (20, 12), (21, 30), (40, 13)])
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_means_over_windows(size: tuple[int, int], at_once: int) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    network = curious((8, 12))
    asked = []

    def counting(windows: Tensor) -> Tensor:
        asked.append(len(windows))
        return network(windows)

    bands = list(sliding_maps(counting, images, (8, 12), at_once))
    torch.testing.assert_close(torch.cat(bands, dim=2), by_loop(network, images, (8, 12)).float())
    assert max(asked) <= at_once
    assert sum(asked) == 2 * len(starts(size[0], 8)) * len(starts(size[1], 12))


def test_memory_is_bounded_by_a_row_of_windows() -> None:
    """Bands come one after the other, before the windows below them are looked at."""
    looked = 0

    def network(windows: Tensor) -> Tensor:
        nonlocal looked
        looked += len(windows)
        return windows

    bands = sliding_maps(network, torch.rand(1, 1, 600, 12), (6, 12), 1)
    heights = []
    for row, band in enumerate(bands, start=1):
        assert looked == row
        heights.append(band.shape[2])
    assert sum(heights) == 600
    assert max(heights) <= 6
