"""Random resized crops against torchvision's."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop, v2

from perceptual_mae.augment.crops import (
    CropConfig,
    center_box,
    center_crop_resize,
    crop_box,
    crop_resize,
    draw_crops,
    random_crop,
)
from perceptual_mae.errors import UsageError


def boxes(count, image_size, config=None, size=(64, 64), seed=0):
    draws = draw_crops(count, torch.Generator().manual_seed(seed), config or CropConfig(), size)
    return np.array([crop_box(image_size, draw) for draw in draws])


@pytest.mark.parametrize("image_size", [(375, 500), (64, 64), (300, 40), (31, 600)])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.6, 0.9)])
def test_same_distribution_as_torchvision(image_size, scale):
    torch.manual_seed(1)
    image = torch.empty(1, *image_size)
    count = 4000
    theirs = np.array([RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(count)])
    ours = boxes(count, image_size, CropConfig(scale=scale))
    for column in range(4):
        # Two samples of 4000 from one distribution differ by more than this once in a hundred thousand times.
        assert ks_2samp(ours[:, column], theirs[:, column]).statistic < 0.055


@pytest.mark.parametrize("image_size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (375, 500)])
def test_boxes_lie_in_the_image(image_size):
    found = boxes(300, image_size)
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:] >= 1).all()
    assert (found[:, 0] + found[:, 2] <= image_size[0]).all()
    assert (found[:, 1] + found[:, 3] <= image_size[1]).all()


def test_wide_outputs_take_wide_crops():
    found = boxes(2000, (400, 800), CropConfig(scale=(0.2, 0.4)), size=(32, 96))
    aspect = found[:, 3] / found[:, 2]
    assert aspect.min() > 3 * 0.74
    assert aspect.max() < 3 * 1.35


def test_the_same_generator_draws_the_same():
    first, again, other = (
        draw_crops(12, torch.Generator().manual_seed(seed), CropConfig(), (8, 8)) for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_crop_is_its_box_resized_and_perhaps_mirrored(flip):
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    for draw in draw_crops(5, torch.Generator().manual_seed(1), CropConfig(flip=flip), (16, 24)):
        found = v2.functional.resized_crop(
            image, *crop_box((50, 70), draw), [16, 24], v2.InterpolationMode.BICUBIC, antialias=True
        )
        expected = v2.functional.horizontal_flip(found) if flip else found
        assert (random_crop(image, draw, (16, 24)).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("flip", [0.0, 0.3, 1.0])
def test_flips(flip):
    draws = draw_crops(4000, torch.Generator().manual_seed(0), CropConfig(flip=flip), (8, 8))
    assert abs(np.mean([draw.flip for draw in draws]) - flip) < 0.03


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_resize_agrees_with_torchvision(layout, channels):
    image = torch.randint(0, 256, (1, channels, 120, 90), dtype=torch.uint8).contiguous(memory_format=layout)[0]
    for box in [(0, 0, 120, 90), (10, 20, 50, 60), (100, 80, 7, 5), (3, 4, 1, 1), (5, 6, 32, 48)]:
        expected = v2.functional.resized_crop(
            image, *box, size=[32, 48], interpolation=v2.InterpolationMode.BICUBIC, antialias=True
        )
        ours = crop_resize(image, box, (32, 48))
        assert ours.shape == expected.shape
        assert (ours.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("image_size", [(120, 200), (200, 120), (20, 30), (1, 500), (64, 64)])
@pytest.mark.parametrize("size", [(64, 64), (32, 64)])
def test_center_crop_shows_the_middle_undistorted(image_size, size):
    height, width = image_size
    top, left, h, w = center_box(height, width, size)
    assert h == height or w == width  # nothing is given away on both sides
    assert abs(top - (height - h - top)) <= 1
    assert abs(left - (width - w - left)) <= 1
    assert h == max(1, round(w * size[0] / size[1])) or w == max(1, round(h * size[1] / size[0]))
    image = torch.arange(width, dtype=torch.uint8).expand(1, height, width)
    assert center_crop_resize(image, size).shape == (1, *size)


def test_center_crop_agrees_with_resize_and_crop():
    ramp = torch.linspace(0, 255, 400).expand(3, 200, 400).to(torch.uint8)
    expected = v2.functional.center_crop(
        v2.functional.resize(ramp, [50], interpolation=v2.InterpolationMode.BICUBIC, antialias=True), [50, 50]
    )
    assert (center_crop_resize(ramp, (50, 50))[:, :, 2:-2].int() - expected[:, :, 2:-2].int()).abs().max() <= 1


@pytest.mark.parametrize("wrong", [{"scale": (0, 1)}, {"scale": (0.5, 0.2)}, {"ratio": (2, 1)}, {"flip": 1.5}])
def test_wrong_settings(wrong):
    with pytest.raises(UsageError, match=f"crop.{next(iter(wrong))}"):
        CropConfig(**wrong)
