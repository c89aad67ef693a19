"""Training views of an image with its mask: they stay together, whatever is done to them."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from perceptual_mae.augment import segment
from perceptual_mae.augment.segment import SegmentationView

FILL = (11, 22, 33)
STEPS = 8
"""Classes are squares of this side, so that a view shows several."""


def labelled_picture(height: int, width: int) -> tuple[Tensor, Tensor]:
    """An image whose colour says the class of a pixel, and those classes."""
    rows, columns = torch.arange(height) // STEPS, torch.arange(width) // STEPS
    classes = (rows[:, None] * 3 + columns) % 7
    image = torch.stack([30 * classes + 20, 240 - 30 * classes, 100 + 10 * classes]).to(torch.uint8)
    return image, classes


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without colours."""
    monkeypatch.setattr(segment, "_COLOURS", v2.Identity())


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("image_size", [(60, 90), (20, 30), (17, 90), (200, 10), (1, 1)])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_image_and_mask_stay_together(image_size: tuple[int, int], size: tuple[int, int]) -> None:
    picture, mask = labelled_picture(*image_size)
    view = SegmentationView(size, FILL)
    torch.manual_seed(0)
    for _ in range(60):
        image, classes = view(picture, mask)
        assert image.shape == (3, *size)
        assert image.dtype == torch.uint8
        assert classes.shape == size
        assert classes.dtype == torch.int64
        inside = classes != 255
        assert inside.any()
        assert set(classes[inside].tolist()) <= set(mask.flatten().tolist())
        assert (torch.tensor(FILL) == image[:, ~inside].T).all()
        # Away from edges between classes, where colours are blended, the colour says the class.
        expected = torch.stack([30 * classes + 20, 240 - 30 * classes, 100 + 10 * classes])
        wrong = ((image - expected).abs() > 12).any(dim=0) & inside
        edges = torch.zeros_like(inside)
        for axis in (0, 1):
            for shift in (-2, -1, 1, 2):
                edges |= classes.roll(shift, axis) != classes
        assert not (wrong & ~edges).any()


@pytest.mark.usefixtures("plain")
def test_scale_one_is_a_crop_of_the_image() -> None:
    """Pixel for pixel, at every place and both ways round."""
    picture, mask = labelled_picture(40, 50)
    picture = torch.randint(256, picture.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(40 * 50).reshape(40, 50)  # a pixel's own number
    view = SegmentationView((16, 24), FILL, scale=(1.0, 1.0))
    torch.manual_seed(0)
    corners, flips = set(), 0
    for _ in range(400):
        image, classes = view(picture, mask)
        assert torch.equal(image, picture.flatten(1)[:, classes])
        assert ((classes[1:] - classes[:-1]) == 50).all()
        step = classes[:, 1:] - classes[:, :-1]
        assert (step == step[0, 0]).all()
        flips += int(step[0, 0] == -1)
        corners.add(divmod(int(classes[0].min()), 50))
    tops, lefts = {top for top, _ in corners}, {left for _, left in corners}
    assert (min(tops), max(tops)) == (0, 24)
    assert (min(lefts), max(lefts)) == (0, 26)
    assert 0.4 < flips / 400 < 0.6


@pytest.mark.usefixtures("plain")
def test_scales_are_uniform() -> None:
    """Measured by how many columns of the image a view shows."""
    mask = torch.arange(2000).expand(2000, 2000)
    picture = torch.zeros(3, 2000, 2000, dtype=torch.uint8)
    view = SegmentationView((64, 64), FILL)
    torch.manual_seed(0)
    scales = [63 / float((row[-1] - row[0]).abs()) for row in (view(picture, mask)[1][0] for _ in range(300))]
    assert 0.49 < min(scales) < 0.53
    assert 1.9 < max(scales) < 2.05
    quarters = np.histogram(scales, bins=4, range=(0.5, 2.0))[0]
    assert quarters.min() > 45
    assert quarters.max() < 105


@pytest.mark.usefixtures("plain")
def test_small_images_keep_their_scale() -> None:
    """At half the scale an image of 30 x 50 is 15 x 25; the rest of the view does not count."""
    picture, mask = labelled_picture(30, 50)
    image, classes = SegmentationView((40, 40), FILL, scale=(0.5, 0.5))(picture, mask)
    inside = classes != 255
    assert inside[:15, :25].all()
    assert inside.sum() == 15 * 25
    assert (image[:, :15, :25] != torch.tensor(FILL).reshape(3, 1, 1)).any(dim=0).all()


def test_the_global_generator_decides() -> None:
    picture, mask = labelled_picture(60, 90)
    view = SegmentationView((32, 32), FILL)
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seen.append(view(picture, mask))
    assert all(map(torch.equal, seen[0], seen[1]))
    assert not torch.equal(seen[0][0], seen[2][0])


def test_colours_change_and_classes_do_not() -> None:
    picture, mask = labelled_picture(32, 32)
    view = SegmentationView((32, 32), FILL, scale=(1.0, 1.0))
    torch.manual_seed(0)
    changed = 0
    for _ in range(64):
        image, classes = view(picture, mask)
        assert torch.equal(classes, mask) or torch.equal(classes, mask.flip(-1))
        original = picture if torch.equal(classes, mask) else picture.flip(-1)
        changed += not torch.equal(image, original)
    # Each of the four is left out every other time: 15 of 16 views change.
    assert 54 <= changed <= 63


@pytest.mark.parametrize("channels", [1, 5])
def test_other_channels(channels: int) -> None:
    picture = torch.randint(256, (channels, 40, 40), dtype=torch.uint8)
    image, classes = SegmentationView((16, 16), (7,) * channels)(picture, torch.zeros(40, 40, dtype=torch.int64))
    assert image.shape == (channels, 16, 16)
    assert (classes == 0).any()
