"""Masks that people paint: their text, their noise, and what of them other grids hide."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from perceptual_mae.app.masks import Board, as_noise, from_text, random_mask, to_text, touched
from perceptual_mae.models.masking import mask_from_noise

masks = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda grid: st.lists(
        st.lists(st.booleans(), min_size=grid[1], max_size=grid[1]), min_size=grid[0], max_size=grid[0]
    ).map(torch.tensor)
)


@given(masks)
def test_a_text_is_read_as_it_was_written(mask: Tensor) -> None:
    rows, columns = mask.shape
    found = from_text(to_text(mask), (rows, columns))
    assert found is not None
    assert torch.equal(found, mask)
    if (rows, columns) != (1, 1):
        assert from_text(to_text(mask), (columns + 1, rows)) is None


@pytest.mark.parametrize("text", ["", "01", "01,10,", "01,1", "01,12", "01,10,11", "01\n,10", "٠١,١٠", "01,10\n"])
def test_other_texts_are_no_masks(text: str) -> None:
    assert from_text(text, (2, 2)) is None


@given(masks)
def test_a_model_hides_exactly_what_was_painted(mask: Tensor) -> None:
    mask[0, 0] = False  # a model has to see something
    noise, ratio = as_noise(mask)
    assert torch.equal(mask_from_noise(noise, ratio).mask[0], mask.flatten())


def test_more_is_hidden_of_the_same_mask() -> None:
    little, much = (random_mask((8, 8), ratio, seed=3) for ratio in (0.25, 0.75))
    assert int(little.sum()) == 16
    assert int(much.sum()) == 48
    assert not (little & ~much).any()  # whatever a small ratio hides, a large one hides too
    assert not torch.equal(random_mask((8, 8), 0.75, seed=4), much)
    assert not random_mask((8, 8), 0.0, seed=3).any()


def test_finer_patches_lie_in_the_coarse_one_that_hides_them() -> None:
    painted = torch.tensor([[True, False], [False, False]])
    fine = touched(painted, Board((2, 2), (0, 0, 40, 40)), Board((4, 4), (0, 0, 40, 40)))
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(fine, expected)


def test_another_crop_hides_what_it_shares() -> None:
    painted = torch.tensor([[True, False, False, True]])  # over the columns 0-9 and 30-39 of a picture of 60
    other = touched(painted, Board((1, 4), (0, 0, 10, 40)), Board((1, 3), (0, 5, 10, 51)))
    assert other.tolist() == [[True, True, True]]  # 5-22, 22-39, 39-56 share five, nine and one of these columns
    painted[0, 3] = False
    other = touched(painted, Board((1, 4), (0, 0, 10, 40)), Board((1, 3), (0, 5, 10, 51)))
    assert other.tolist() == [[True, False, False]]


def test_a_touch_by_rounding_is_none() -> None:
    painted = torch.tensor([[True, False, False]])
    board, other = Board((1, 3), (0, 0, 10, 30)), Board((1, 3), (0, 0, 10, 29))
    # The second patch of the other begins at 9.67, a third of a pixel within the painted one.
    assert touched(painted, board, other).tolist() == [[True, False, False]]
