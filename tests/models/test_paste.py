"""Masks of boxes, laid into the image."""

import pytest
import torch

from perceptual_mae.models.paste import paste

SIZE = (23, 31)
ROWS, COLUMNS = torch.meshgrid(torch.arange(23) + 0.5, torch.arange(31) + 0.5, indexing="ij")


@pytest.mark.parametrize("seed", range(20))
def test_a_full_mask_is_the_pixels_whose_centre_lies_in_the_box(seed: int) -> None:
    random = torch.rand(4, generator=torch.Generator().manual_seed(seed))
    x1, y1 = 25 * random[0], 18 * random[1]
    x2, y2 = x1 + 0.3 + (30.7 - x1) * random[2], y1 + 0.3 + (22.7 - y1) * random[3]
    found = paste(torch.ones(28, 28), torch.stack([x1, y1, x2, y2]), SIZE)
    expected = (x1 < COLUMNS) & (x2 > COLUMNS) & (y1 < ROWS) & (y2 > ROWS)
    assert found.dtype == torch.bool
    assert torch.equal(found, expected)


def test_a_disc_stays_a_disc() -> None:
    fine = (torch.arange(28) + 0.5) / 28 - 0.5
    disc = (fine[:, None] ** 2 + fine[None] ** 2 < 0.2).float()
    box = torch.tensor([4.3, 2.6, 26.1, 20.2])
    found = paste(disc, box, SIZE)
    x, y = (COLUMNS - 4.3) / 21.8 - 0.5, (ROWS - 2.6) / 17.6 - 0.5
    wrong = found ^ (x**2 + y**2 < 0.2)
    assert wrong.sum() <= 6
    assert not wrong[(x**2 + y**2).sqrt().sub(0.2**0.5).abs() > 0.03].any(), "only at the rim"


def test_up_is_up_and_left_is_left() -> None:
    quarter = torch.zeros(28, 28)
    quarter[:14, 14:] = 1
    found = paste(quarter, torch.tensor([2.0, 4, 22, 14]), SIZE)
    expected = torch.zeros(SIZE, dtype=torch.bool)
    expected[4:9, 12:22] = True
    assert torch.equal(found, expected)


@pytest.mark.parametrize("box", [[40.0, 5, 50, 9], [3.0, 3, 3, 3], [-9.0, -9, -1, -1]])
def test_a_box_without_pixels(box: list[float]) -> None:
    assert not paste(torch.ones(28, 28), torch.tensor(box), SIZE).any()


def test_half_precision_and_thresholds() -> None:
    mask = torch.full((28, 28), 0.4, dtype=torch.bfloat16)
    box = torch.tensor([0.0, 0, 31, 23])
    assert not paste(mask, box, SIZE).any()
    assert paste(mask, box, SIZE, least=0.3)[1:-1, 1:-1].all()
