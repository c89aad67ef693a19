"""Scales of images and of patches."""

import pytest
import torch

from perceptual_mae.models.pyramid import image_pyramid, patch_sides


@pytest.mark.parametrize(
    ("patch", "sides"),
    [(16, (1, 2, 4, 8, 16)), (8, (1, 2, 4, 8)), (14, (7, 14)), (12, (3, 6, 12)), (7, (7,)), (1, (1,))],
)
def test_sides_are_halves_as_long_as_they_are_whole(patch: int, sides: tuple[int, ...]) -> None:
    assert patch_sides(patch) == sides


def test_every_scale_is_the_mean_of_the_pixels_under_it() -> None:
    images = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    sizes = [(4, 6), (8, 12), (16, 24)]
    for scale, (height, width) in zip(image_pyramid(images, sizes), sizes, strict=True):
        block = 16 // height
        for row in range(height):
            for column in range(width):
                under = images[:, :, row * block : (row + 1) * block, column * block : (column + 1) * block]
                torch.testing.assert_close(scale[:, :, row, column], under.mean(dim=(2, 3)))


def test_one_scale_is_the_image() -> None:
    images = torch.rand(1, 1, 5, 7)
    (only,) = image_pyramid(images, [(5, 7)])
    assert only is images


@pytest.mark.parametrize("sizes", [[(8, 8)], [(3, 4), (16, 16)], [(4, 4), (16, 16)], [(16, 8), (16, 16)]])
def test_sizes_that_are_no_pyramid_are_refused(sizes: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"no pyramid|is not half"):
        image_pyramid(torch.rand(1, 3, 16, 16), sizes)
