"""Layers of discriminators against their formulas, written out in float64."""

from math import ceil, sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual_mae.models.discriminator_layers import (
    KAIMING_GAIN,
    LAYERS,
    SLOPE,
    BlurHalf,
    Conv,
    EqualisedConv,
    EqualisedLinear,
    Linear,
    PlainBlock,
    ResidualBlock,
    activate,
    minibatch_std,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_biases(module: nn.Module) -> nn.Module:
    """In float64, with biases that are not 0."""
    for name, parameter in module.double().named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return module


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


# -- weights -----------------------------------------------------------------------------------------------------------


def test_equalised_convolution_scales_weights_by_their_fan_in_and_the_activation_by_its_gain() -> None:
    layer = with_biases(EqualisedConv(5, 7, 3, gain=sqrt(2)))
    maps = random(2, 5, 6, 4)
    expected = sqrt(2) * leaky(F.conv2d(maps, layer.weight / sqrt(5 * 3 * 3), layer.bias, padding=1))
    torch.testing.assert_close(activate(layer(maps)), expected)


def test_equalised_linear_scales_weights_by_their_fan_in_and_the_activation_by_its_gain() -> None:
    layer = with_biases(EqualisedLinear(6, 3, gain=sqrt(2)))
    numbers = random(4, 6)
    expected = sqrt(2) * leaky(numbers @ layer.weight.T / sqrt(6) + layer.bias)
    torch.testing.assert_close(activate(layer(numbers)), expected)


@pytest.mark.parametrize(
    ("layer", "std"),
    [
        (Conv(16, 200, 3, gain=1.5), 1.5 / sqrt(144)),
        (Linear(100, 200, gain=1.5), 0.15),
        (EqualisedConv(16, 200, 3, gain=1.5), 1.0),
        (EqualisedLinear(100, 200, gain=1.5), 1.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_initial_weights(layer: nn.Module, std: float) -> None:
    assert layer.weight.std().item() == pytest.approx(std, rel=0.03)
    assert (layer.bias == 0).all()


def test_kaimings_gain() -> None:
    assert SLOPE == 0.2
    assert nn.init.calculate_gain("leaky_relu", 0.2) == KAIMING_GAIN


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_keep_the_mean_square_through_the_depth(kind: str) -> None:
    torch.manual_seed(0)
    numbers, maps = torch.randn(64, 512), torch.randn(2, 512, 4, 4)
    with torch.no_grad():
        for _ in range(10):
            numbers = activate(LAYERS[kind].linear(512, 512)(numbers))
            maps = activate(LAYERS[kind].conv(512, 512, 1)(maps))
    # StyleGAN2's gain makes 1.04^10 of it; a gain of 1 would leave a thousandth.
    assert 0.5 < numbers.square().mean() < 2.5
    assert 0.5 < maps.square().mean() < 2.5


# -- blocks ------------------------------------------------------------------------------------------------------------


def blurred_and_halved(maps: Tensor) -> Tensor:
    B, C, H, W = maps.shape
    taps = (1, 3, 3, 1)
    out = torch.zeros(B, C, ceil(H / 2), ceil(W / 2), dtype=maps.dtype)
    for i in range(ceil(H / 2)):
        for j in range(ceil(W / 2)):
            for k, a in enumerate(taps):
                for m, b in enumerate(taps):
                    y, x = 2 * i - 1 + k, 2 * j - 1 + m
                    if 0 <= y < H and 0 <= x < W:
                        out[:, :, i, j] += a * b / 64 * maps[:, :, y, x]
    return out


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 5), (3, 8), (1, 1), (2, 3)], ids=str)
def test_blur_half_equals_a_loop(size: tuple[int, int]) -> None:
    maps = random(2, 3, *size)
    torch.testing.assert_close(BlurHalf().double()(maps), blurred_and_halved(maps))


def test_blur_half_keeps_what_is_even_and_removes_what_alternates() -> None:
    even, checkered = torch.ones(1, 1, 12, 12), torch.ones(1, 1, 12, 12)
    checkered[..., ::2] = -1
    half = BlurHalf()
    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(half(even)[inside], torch.ones(1, 1, 4, 4))
    torch.testing.assert_close(half(checkered)[inside], torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("size", [(8, 8), (7, 5)], ids=str)
def test_plain_block(size: tuple[int, int]) -> None:
    block = with_biases(PlainBlock(3, 4, 6))
    maps = random(2, 3, *size)
    inner = leaky(F.conv2d(maps, block.conv0.weight, block.conv0.bias, padding=1))
    expected = leaky(F.conv2d(inner, block.conv1.weight, block.conv1.bias, padding=1)[..., ::2, ::2])
    torch.testing.assert_close(block(maps), expected)


@pytest.mark.parametrize("size", [(8, 8), (7, 5)], ids=str)
def test_residual_block_is_a_sum_scaled_by_the_root_of_two(size: tuple[int, int]) -> None:
    block = with_biases(ResidualBlock(3, 4, 6))
    maps = random(2, 3, *size)
    inner = sqrt(2) * leaky(F.conv2d(maps, block.conv0.weight / sqrt(27), block.conv0.bias, padding=1))
    inner = blurred_and_halved(inner)
    inner = sqrt(2) * leaky(F.conv2d(inner, block.conv1.weight / sqrt(36), block.conv1.bias, padding=1))
    beside = F.conv2d(blurred_and_halved(maps), block.skip.weight / sqrt(3))
    torch.testing.assert_close(block(maps), (inner + beside) / sqrt(2))


def test_layers_leave_their_input_alone() -> None:
    # Activations are computed in place: of a layer's output, never of what somebody else holds.
    for block in (PlainBlock(3, 4, 6), ResidualBlock(3, 4, 6)):
        maps = torch.randn(2, 3, 8, 8)
        before = maps.clone()
        block(maps)
        assert torch.equal(maps, before)


# -- minibatch standard deviation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "group"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (8, 4), (10, 2), (12, 4)])
def test_minibatch_std_equals_a_loop(batch: int, group: int) -> None:
    maps = random(batch, 2, 3, 2)
    found = minibatch_std(maps)
    assert found.shape == (batch, 1, 3, 2)
    for image in range(batch):
        first = image // group * group
        stds = []
        for c in range(2):
            for y in range(3):
                for x in range(2):
                    values = [maps[first + k, c, y, x].item() for k in range(group)]
                    mean = sum(values) / group
                    stds.append(sqrt(sum((v - mean) ** 2 for v in values) / group + 1e-8))
        torch.testing.assert_close(found[image], torch.full((1, 3, 2), sum(stds) / 12, dtype=torch.float64))


def test_minibatch_std_of_equal_images_has_a_finite_slope() -> None:
    maps = torch.ones(4, 2, 3, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(minibatch_std(maps).sum(), maps, create_graph=True)
    (bend,) = torch.autograd.grad(slope.square().sum(), maps)
    assert slope.isfinite().all()
    assert bend.isfinite().all()


def test_minibatch_std_is_computed_in_float32() -> None:
    maps = random(80, 2, 8, 8).bfloat16()
    found = minibatch_std(maps)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, minibatch_std(maps.double()).bfloat16())
