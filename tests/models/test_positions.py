"""Position embeddings against loops written from the formula, and against PyTorch's own interpolation."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from perceptual_mae.models.positions import is_sincos, resample, sincos_2d


@pytest.mark.parametrize(("dim", "grid"), [(8, (3, 3)), (32, (4, 7)), (48, (6, 2)), (4, (1, 1))])
def test_sincos_equals_the_formula(dim: int, grid: tuple[int, int]) -> None:
    rows, columns = grid
    quarter = dim // 4
    expected = np.zeros((1, 1 + rows * columns, dim))
    for y in range(rows):
        for x in range(columns):
            for i in range(quarter):
                frequency = 1 / 10000 ** (2 * i / (dim / 2))
                place = expected[0, 1 + y * columns + x]
                place[i], place[quarter + i] = math.sin(x * frequency), math.cos(x * frequency)
                place[2 * quarter + i], place[3 * quarter + i] = math.sin(y * frequency), math.cos(y * frequency)
    embedding = sincos_2d(dim, grid)
    assert embedding.dtype == torch.float32
    np.testing.assert_allclose(embedding.numpy(), expected, atol=1e-7)


def test_every_patch_has_its_own_place() -> None:
    embedding = sincos_2d(32, (14, 14))[0]
    assert len(embedding.unique(dim=0)) == 197


def test_the_fixed_embedding_is_recognised() -> None:
    fixed = sincos_2d(32, (4, 6))
    assert is_sincos(fixed, (4, 6))
    assert is_sincos(fixed.half(), (4, 6))
    assert is_sincos(resample(fixed, (8, 8), (4, 6)), (8, 8), (4, 6))
    assert not is_sincos(sincos_2d(32, (8, 8)), (8, 8), (4, 6))
    assert not is_sincos(fixed, (6, 4))
    assert not is_sincos(fixed, (4, 5))
    assert not is_sincos(fixed[:, 1:], (4, 6))
    assert not is_sincos(fixed[..., :30], (4, 6))
    assert not is_sincos(fixed + 0.01, (4, 6))


@pytest.mark.parametrize("dim", [2, 6, 30])
def test_a_width_that_is_no_multiple_of_four_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of 4, not {dim}"):
        sincos_2d(dim, (2, 2))


@pytest.mark.parametrize(("old", "new"), [((4, 4), (8, 8)), ((4, 4), (6, 3)), ((2, 6), (4, 12)), ((6, 6), (3, 3))])
def test_resample_is_bicubic_per_channel_and_keeps_the_class_token(old: tuple[int, int], new: tuple[int, int]) -> None:
    embedding = torch.randn(1, 1 + old[0] * old[1], 8, generator=torch.Generator().manual_seed(0))
    resampled = resample(embedding, new, old)
    assert resampled.shape == (1, 1 + new[0] * new[1], 8)
    assert torch.equal(resampled[:, 0], embedding[:, 0])
    for channel in range(8):
        image = embedding[0, 1:, channel].reshape(1, 1, *old)
        expected = F.interpolate(image, new, mode="bicubic", antialias=True)
        torch.testing.assert_close(resampled[0, 1:, channel].reshape(new), expected[0, 0])


def test_resample_to_the_same_grid_changes_nothing() -> None:
    embedding = torch.randn(1, 13, 8)
    assert torch.equal(resample(embedding, (3, 4), (3, 4)), embedding)
