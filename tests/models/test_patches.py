"""Patches: the order that public checkpoints have, and a true inverse."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceptual_mae.models.patches import mask_to_pixels, patchify, unpatchify

side = st.integers(1, 5)


@given(B=st.integers(1, 3), C=side, rows=side, columns=side, patch=side)
def test_unpatchify_is_the_inverse(B: int, C: int, rows: int, columns: int, patch: int) -> None:
    images = torch.arange(B * C * rows * patch * columns * patch).reshape(B, C, rows * patch, columns * patch)
    patches = patchify(images, patch)
    assert patches.shape == (B, rows * columns, patch * patch * C)
    assert torch.equal(unpatchify(patches, (rows, columns), patch), images)


@pytest.mark.parametrize(("C", "H", "W", "patch"), [(3, 8, 8, 4), (1, 6, 9, 3), (4, 4, 6, 2)])
def test_order_is_row_by_row_each_patch_as_row_column_channel(C: int, H: int, W: int, patch: int) -> None:
    images = torch.arange(2 * C * H * W).reshape(2, C, H, W)
    patches = patchify(images, patch)
    columns = W // patch
    for b in range(2):
        for c in range(C):
            for y in range(H):
                for x in range(W):
                    token = (y // patch) * columns + x // patch
                    place = ((y % patch) * patch + x % patch) * C + c
                    assert patches[b, token, place] == images[b, c, y, x]


def test_a_grid_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="a grid of 2 x 3 has 6 patches, not 8"):
        unpatchify(torch.zeros(1, 8, 12), (2, 3), 2)


def test_mask_to_pixels_covers_the_patches() -> None:
    mask = torch.tensor([[True, False, False, False, True, True]])
    pixels = mask_to_pixels(mask, (2, 3), 4)
    assert pixels.shape == (1, 1, 8, 12)
    assert pixels.dtype == torch.bool
    for y in range(8):
        for x in range(12):
            assert pixels[0, 0, y, x] == mask[0, (y // 4) * 3 + x // 4]
