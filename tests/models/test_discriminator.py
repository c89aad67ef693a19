"""Discriminators: against a forward pass written out in float64, and what each of them promises."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from perceptual_mae.models.discriminator import Discriminator, channels, resolutions
from perceptual_mae.models.pyramid import image_pyramid, patch_sides

Kind = Literal["plain", "stylegan2"]
KINDS: tuple[Kind, ...] = ("plain", "stylegan2")
SCALES = ((8, 12), (16, 24), (32, 48))
SMALL: dict[str, Any] = {"channel_base": 512, "channel_max": 32}


def scales_of(height: int, width: int, patch: int) -> list[tuple[int, int]]:
    """What a multi-scale decoder with this patch draws."""
    return [(height // patch * side, width // patch * side) for side in patch_sides(patch)]


def noise(batch: int, scales: Sequence[tuple[int, int]] = SCALES, C: int = 3, seed: int = 0) -> tuple[Tensor, ...]:
    """Images of every scale, each by itself."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(batch, C, *size, generator=generator) for size in scales)


def make(scales: Sequence[tuple[int, int]] = SCALES, C: int = 3, seed: int = 0, **arguments: Any) -> Discriminator:
    torch.manual_seed(seed)
    return Discriminator(scales, C, **(SMALL | arguments))


# -- the whole of it, written out --------------------------------------------------------------------------------------


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def halved(maps: Tensor) -> Tensor:
    """[1, 3, 3, 1] / 8 along both directions, then every second; the sides are even here."""
    for dim in (2, 3):
        ends = (0, 0, 1, 1) if dim == 2 else (1, 1, 0, 0)
        x, n = F.pad(maps, ends), maps.shape[dim]
        maps = sum(w / 8 * x.narrow(dim, k, n - 1) for k, w in enumerate((1, 3, 3, 1)))
        maps = maps.index_select(dim, torch.arange(0, n - 1, 2))
    return maps


def written_out(state: dict[str, Tensor], pyramid: Sequence[Tensor], kind: Kind) -> tuple[list[Tensor], Tensor]:
    """Features and scores of a discriminator of three scales with minibatch standard deviation, of 4 images."""
    equalised, gain = kind == "stylegan2", sqrt(2) if kind == "stylegan2" else 1.0

    def layer(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        weight = weight / sqrt(weight[0].numel()) if equalised else weight
        bias = state.get(f"{name}.bias")
        if weight.ndim == 2:
            return x @ weight.T + bias
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)

    def image(i: int) -> Tensor:
        return gain * leaky(layer(f"from_image.{i}", pyramid[2 - i] * 2 - 1))

    maps, features = image(0), []
    for i in range(3):
        inner = gain * leaky(layer(f"blocks.{i}.conv0", maps))
        if equalised:
            inner = gain * leaky(layer(f"blocks.{i}.conv1", halved(inner)))
            maps = (inner + layer(f"blocks.{i}.skip", halved(maps))) / sqrt(2)
        else:
            maps = leaky(layer(f"blocks.{i}.conv1", inner, stride=2))
        features.append(maps)
        if i < 2:
            maps = torch.cat([maps, image(i + 1)], dim=1)
    std = (maps.var(dim=0, correction=0) + 1e-8).sqrt().mean()
    maps = torch.cat([maps, std.expand(4, 1, *maps.shape[2:])], dim=1)
    maps = gain * leaky(layer("head.conv", maps))
    hidden = gain * leaky(layer("head.hidden", maps.flatten(1)))
    return features, layer("head.score", hidden)[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_a_forward_pass_written_out(kind: Kind) -> None:
    discriminator = make(layers=kind, minibatch_std=True).double()
    for name, parameter in discriminator.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    pyramid = [image.double() for image in noise(4)]
    features, scores = written_out(discriminator.state_dict(), pyramid, kind)
    seen = discriminator.judge(pyramid)
    torch.testing.assert_close(seen.scores, scores)
    assert len(seen.features) == len(features)
    for found, expected in zip(seen.features, features, strict=True):
        torch.testing.assert_close(found, expected)


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (224, [224, 112, 56, 28, 14, 7, 4]),
        (192, [192, 96, 48, 24, 12, 6, 3]),
        (96, [96, 48, 24, 12, 6, 3]),
        (64, [64, 32, 16, 8, 4]),
        (48, [48, 24, 12, 6, 3]),
        (36, [36, 18, 9, 5, 3]),
        (32, [32, 16, 8, 4]),
    ],
)
def test_resolutions_are_halves_down_to_four(side: int, expected: list[int]) -> None:
    assert resolutions([(side, side)]) == [(n, n) for n in expected]


def test_resolutions_reach_the_coarsest_scale() -> None:
    # One patch of 32 pixels: the coarsest image is one pixel.
    assert resolutions(scales_of(32, 64, 32))[-3:] == [(4, 8), (2, 4), (1, 2)]
    assert resolutions([(192, 256)])[-3:] == [(12, 16), (6, 8), (3, 4)]


@pytest.mark.parametrize(
    ("height", "width", "patch", "C"),
    [
        (224, 224, 16, 3),
        (224, 224, 14, 1),
        (192, 256, 16, 3),
        (96, 96, 8, 3),
        (64, 64, 8, 3),
        (48, 48, 8, 2),
        (32, 32, 8, 1),
        (32, 64, 32, 3),
        (36, 60, 12, 3),
        (35, 45, 5, 3),
        (33, 33, 11, 12),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_images_of_any_size_and_channels(height: int, width: int, patch: int, C: int, kind: Kind) -> None:
    every = scales_of(height, width, patch)
    pyramid = image_pyramid(torch.rand(2, C, height, width), every)
    for scales in (every, every[-1:]):
        discriminator = make(scales, C, layers=kind, minibatch_std=True, channel_max=16)
        with torch.no_grad():
            seen = discriminator.judge(pyramid)
        sizes = resolutions(scales)
        assert [tuple(maps.shape) for maps in seen.features] == [
            (2, channels(size, 512, 16), *size) for size in sizes[1:]
        ]
        assert seen.scores is not None
        assert seen.scores.shape == (2,)
        assert seen.scores.isfinite().all()
        assert all(maps.is_contiguous(memory_format=torch.channels_last) for maps in seen.features)


@pytest.mark.parametrize(
    ("base", "largest", "expected"),
    [
        (2048, 512, [8, 16, 32, 64, 144, 288, 512]),
        (4096, 512, [16, 32, 64, 144, 288, 512, 512]),
        (8192, 512, [32, 64, 144, 288, 512, 512, 512]),
        (8192, 100, [32, 64, 96, 96, 96, 96, 96]),
        (1, 512, [8] * 7),
        (4096, 1, [8] * 7),
    ],
)
def test_channels(base: int, largest: int, expected: list[int]) -> None:
    assert [channels(size, base, largest) for size in resolutions([(224, 224)])] == expected


def test_channels_of_an_oblong_are_those_of_the_square_of_as_many_pixels() -> None:
    assert channels((32, 128), 4096, 512) == channels((64, 64), 4096, 512) == 64


@pytest.mark.parametrize(
    ("side", "patch", "several", "kind", "base", "gmac"),
    [
        (224, 16, False, "plain", 4096, 1.16),
        (224, 16, True, "plain", 4096, 1.23),
        (224, 16, True, "stylegan2", 4096, 1.29),
        (224, 16, True, "stylegan2", 8192, 4.34),
        (64, 8, True, "stylegan2", 4096, 1.00),
    ],
)
def test_cost_of_a_look(side: int, patch: int, several: bool, kind: Kind, base: int, gmac: float) -> None:
    scales = scales_of(side, side, patch)
    with torch.device("meta"):
        discriminator = Discriminator(scales if several else scales[-1:], 3, kind, base, minibatch_std=several)
        with FlopCounterMode(display=False) as counter:
            discriminator.judge([torch.empty(1, 3, *size) for size in scales])
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, rel=0.01)


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        ([(31, 64)], "at least 32 pixels a side, not 31 x 64"),
        ([(12, 12), (24, 24)], "at least 32 pixels a side, not 24 x 24"),
        ([(16, 16), (64, 64)], "scales 16 x 16, 64 x 64 are not the halves 32 x 32, 64 x 64"),
        ([(64, 64), (32, 32)], "scales 64 x 64, 32 x 32 are not the halves 16 x 16, 32 x 32"),
    ],
)
def test_scales_that_do_not_fit_are_refused(scales: list[tuple[int, int]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Discriminator(scales)


@pytest.mark.parametrize(
    ("sizes", "C", "words"),
    [
        (SCALES[1:], 3, "of 3 x 8 x 12, 3 x 16 x 24, 3 x 32 x 48, not 3 x 16 x 24, 3 x 32 x 48$"),
        (((8, 12), (16, 24), (48, 32)), 3, "3 x 32 x 48, not 3 x 8 x 12, 3 x 16 x 24, 3 x 48 x 32$"),
        (SCALES, 1, "3 x 32 x 48, not 1 x 8 x 12, 1 x 16 x 24, 1 x 32 x 48$"),
        ((), 3, "3 x 32 x 48, not none$"),
    ],
)
def test_other_images_are_refused(sizes: Sequence[tuple[int, int]], C: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make().judge(noise(2, sizes, C))


# -- what it sees ------------------------------------------------------------------------------------------------------


def test_coarser_scales_than_it_takes_are_left_out() -> None:
    discriminator, pyramid = make(SCALES[-1:]), noise(2)
    assert torch.equal(discriminator.judge(pyramid).scores, discriminator.judge(pyramid[-1:]).scores)


def test_forward_judges_each_batch_by_itself() -> None:
    discriminator = make(minibatch_std=True)
    batches = noise(4), noise(2, seed=1)
    together = discriminator(*batches)
    for seen, pyramid in zip(together, batches, strict=True):
        alone = discriminator.judge(pyramid)
        assert torch.equal(seen.scores, alone.scores)
        assert all(map(torch.equal, seen.features, alone.features))


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_every_scale_and_every_weight(kind: Kind) -> None:
    discriminator = make(layers=kind, minibatch_std=True)
    pyramid = [image.requires_grad_() for image in noise(4)]
    discriminator.judge(pyramid).scores.square().sum().backward()
    for leaf in (*pyramid, *discriminator.parameters()):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().sum() > 0


def test_every_feature_sees_the_image() -> None:
    pyramid = [image.requires_grad_() for image in noise(2)]
    for maps in make().judge(pyramid).features:
        (slope,) = torch.autograd.grad(maps.sum(), pyramid[-1], retain_graph=True)
        assert slope.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_judged_by_itself(kind: Kind) -> None:
    discriminator, pyramid, others = make(layers=kind), noise(4), noise(4, seed=1)
    mixed = [torch.cat([own[:1], other[1:]]) for own, other in zip(pyramid, others, strict=True)]
    seen, again = discriminator.judge(pyramid), discriminator.judge(mixed)
    torch.testing.assert_close(seen.scores[0], again.scores[0])
    assert (seen.scores[1:] - again.scores[1:]).abs().min() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_with_minibatch_std_scores_depend_on_the_group_and_features_do_not(kind: Kind) -> None:
    discriminator = make(layers=kind, minibatch_std=True)
    pyramid, others = noise(8), noise(8, seed=1)

    def with_others_from(place: int) -> list[Tensor]:
        return [torch.cat([own[:place], other[place:]]) for own, other in zip(pyramid, others, strict=True)]

    seen = discriminator.judge(pyramid)
    other_group, own_group = (discriminator.judge(with_others_from(place)) for place in (4, 1))
    torch.testing.assert_close(seen.scores[:4], other_group.scores[:4])
    assert (seen.scores[0] - own_group.scores[0]).abs() > 1e-5
    for maps, again in zip(seen.features, own_group.features, strict=True):
        torch.testing.assert_close(maps[0], again[0])


def test_halves_of_a_batch_in_two_processes_are_judged_as_the_whole() -> None:
    discriminator, pyramid = make(minibatch_std=True), noise(8)
    halves = [discriminator.judge([image[part] for image in pyramid]).scores for part in (slice(4), slice(4, 8))]
    torch.testing.assert_close(torch.cat(halves), discriminator.judge(pyramid).scores)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", ["noise", "photographs"])
def test_initial_features_have_a_scale_near_one(kind: Kind, content: str, photographs: Tensor) -> None:
    images = torch.rand(12, 3, 32, 48) if content == "noise" else photographs / 255
    discriminator = make(layers=kind, minibatch_std=True, channel_base=2048, channel_max=256)
    with torch.no_grad():
        seen = discriminator.judge(image_pyramid(images, SCALES))
    scales = [maps.square().mean().sqrt().item() for maps in seen.features]
    assert all(0.15 < scale < 2 for scale in scales), scales
    assert seen.scores.abs().max() < 4


# -- derivatives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind: Kind) -> None:
    # Of images with an odd side, in channels 8 and 8 only.
    scales = ((17, 16), (34, 32))
    discriminator = make(scales, 1, layers=kind, minibatch_std=True, channel_max=8).double()
    names = [name for name, _ in discriminator.named_parameters()]
    images = [image.double().requires_grad_() for image in noise(2, scales, 1)]
    weights = [weight.detach().requires_grad_() for weight in discriminator.parameters()]

    def look(coarse: Tensor, fine: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        (seen,) = functional_call(discriminator, dict(zip(names, weights, strict=True)), ((coarse, fine),))
        return seen.scores, seen.features[-1]

    assert torch.autograd.gradcheck(look, (*images, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(look, (*images, *weights), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_one_look_serves_both_players(kind: Kind) -> None:
    """The generator's gradient at the images, then the discriminator's, backward through the same graph."""
    discriminator, pyramid = make(layers=kind, minibatch_std=True), [image.requires_grad_() for image in noise(4)]
    weights = list(discriminator.parameters())
    seen = discriminator.judge(pyramid)
    pull = torch.autograd.grad((seen.scores - 1).square().mean() + seen.features[0].mean(), pyramid, retain_graph=True)
    assert all(weight.grad is None for weight in weights)
    seen.scores.square().mean().backward(inputs=weights)

    anew = discriminator.judge(pyramid)
    expected = torch.autograd.grad((anew.scores - 1).square().mean() + anew.features[0].mean(), pyramid)
    assert all(map(torch.equal, pull, expected))
    expected = torch.autograd.grad(discriminator.judge(pyramid).scores.square().mean(), weights)
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast(kind: Kind) -> None:
    discriminator, pyramid = make(layers=kind, minibatch_std=True), [image.requires_grad_() for image in noise(4)]
    expected = discriminator.judge(pyramid)
    with torch.autocast("cpu", torch.bfloat16):
        seen = discriminator.judge(pyramid)
    assert all(maps.dtype == torch.bfloat16 for maps in seen.features)
    torch.testing.assert_close(seen.scores.float(), expected.scores, atol=0.05, rtol=0.05)
    for gradient in torch.autograd.grad(seen.scores.float().square().sum(), [*pyramid, *discriminator.parameters()]):
        assert gradient.dtype == torch.float32
        assert gradient.isfinite().all()


# -- weights -----------------------------------------------------------------------------------------------------------


def test_names_in_the_state_dict() -> None:
    state = make(layers="stylegan2", minibatch_std=True).state_dict()
    layers = [f"from_image.{i}" for i in range(3)]
    layers += [f"blocks.{i}.{conv}" for i in range(3) for conv in ("conv0", "conv1")]
    layers += ["head.conv", "head.hidden", "head.score"]
    names = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert set(state) == names | {f"blocks.{i}.skip.weight" for i in range(3)}
    assert all(tensor.is_contiguous() for tensor in state.values())


def test_kinds_share_names_and_stylegan2_adds_skips() -> None:
    plain, stylegan2 = (make(layers=kind, minibatch_std=True).state_dict() for kind in KINDS)
    added = stylegan2.keys() - plain.keys()
    assert plain.keys() < stylegan2.keys()
    assert all(".skip." in name for name in added)
    assert all(plain[name].shape == stylegan2[name].shape for name in plain)


def test_widths() -> None:
    discriminator = make(channel_base=4096, channel_max=512)
    shapes = {name: tuple(tensor.shape[:2]) for name, tensor in discriminator.state_dict().items() if tensor.ndim == 4}
    # sqrt(32 * 48) = 39.2, 19.6, 9.8 and 4.9: 104.5, 209, 418 and 836 channels; images bring an eighth.
    widths, entries = (96, 208, 416, 512), (96, 16, 48)
    assert [shapes[f"from_image.{i}.weight"] for i in range(3)] == [(entry, 3) for entry in entries]
    for i, (width, coarser) in enumerate(pairwise(widths)):
        assert shapes[f"blocks.{i}.conv0.weight"] == (width, width + (entries[i] if i else 0))
        assert shapes[f"blocks.{i}.conv1.weight"] == (coarser, width)
    assert shapes["head.conv.weight"] == (512, 512)


def test_the_same_seed_draws_the_same_weights() -> None:
    first, same, other = (make(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
