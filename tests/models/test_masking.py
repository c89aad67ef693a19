"""Masking: how many are kept, which ones, and that everything finds its place again."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceptual_mae.models.masking import draw_noise, mask_from_noise

CPU = torch.device("cpu")


@given(seed=st.integers(0, 2**31), N=st.integers(1, 60), ratio=st.floats(0, 0.999))
def test_the_lowest_noise_is_kept_and_everything_finds_its_place(seed: int, N: int, ratio: float) -> None:
    noise = torch.rand(3, N, generator=torch.Generator().manual_seed(seed))
    keep, restore, mask = mask_from_noise(noise, ratio)
    kept = max(1, int(N * (1 - ratio)))
    for image in range(3):
        by_noise = sorted(range(N), key=lambda i: noise[image, i].item())
        assert keep[image].tolist() == by_noise[:kept]
        assert mask[image].nonzero().flatten().tolist() == sorted(by_noise[kept:])
        # Patch i is at `restore[i]` of the sequence "kept, then removed".
        assert [by_noise[place] for place in restore[image].tolist()] == list(range(N))


@pytest.mark.parametrize(("N", "ratio", "kept"), [(196, 0.75, 49), (16, 0.75, 4), (196, 0.9, 19), (10, 0.99, 1)])
def test_number_of_kept_patches(N: int, ratio: float, kept: int) -> None:
    masking = mask_from_noise(torch.rand(5, N), ratio)
    assert masking.keep.shape == (5, kept)
    assert (~masking.mask).sum(dim=1).tolist() == [kept] * 5


def test_ratio_zero_keeps_everything() -> None:
    masking = mask_from_noise(torch.rand(2, 9), 0.0)
    assert masking.keep.shape == (2, 9)
    assert not masking.mask.any()


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_other_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="mask_ratio"):
        mask_from_noise(torch.rand(1, 4), ratio)


def test_ties_are_broken_by_position() -> None:
    assert mask_from_noise(torch.zeros(1, 300), 0.5).keep.tolist() == [list(range(150))]


def test_noise_differs_between_images_and_repeats_with_its_generator() -> None:
    first = draw_noise(8, 64, torch.Generator().manual_seed(3), CPU)
    again = draw_noise(8, 64, torch.Generator().manual_seed(3), CPU)
    other = draw_noise(8, 64, torch.Generator().manual_seed(4), CPU)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    masks = mask_from_noise(first, 0.75).mask
    assert len(masks.unique(dim=0)) == 8
    assert 0 <= first.min() < first.max() < 1


def test_a_generator_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    draw_noise(8, 64, torch.Generator().manual_seed(3), CPU)
    assert torch.equal(torch.rand(4), expected)


def test_every_patch_is_removed_equally_often() -> None:
    mask = mask_from_noise(draw_noise(20_000, 16, torch.Generator().manual_seed(0), CPU), 0.75).mask
    share = mask.double().mean(dim=0)
    # Five standard deviations of a share of 20,000.
    assert ((share - 0.75).abs() < 5 * (0.75 * 0.25 / 20_000) ** 0.5).all()
