"""Pyramids: where in a map a patch is seen, and of which of the encoder's maps it is made."""

import pytest
import torch
from torch import Tensor, nn

from perceptual_mae.models.feature_pyramid import SCALES, SeveralMapsPyramid, SimplePyramid

WIDTH, D = 12, 16
KINDS = [SimplePyramid, SeveralMapsPyramid]
Kind = type[nn.Module]


def maps(height: int = 8, width: int = 6, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, D, height, width, generator=generator) for _ in SCALES]


def pyramid(kind: Kind) -> nn.Module:
    torch.manual_seed(0)
    return kind(D, WIDTH)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 5), (1, 1)])
def test_shapes(kind: Kind, height: int, width: int) -> None:
    found = pyramid(kind)(maps(height, width))
    assert list(found) == ["0", "1", "2", "3", "pool"]
    halves, quarters = (-(-height // 2), -(-width // 2)), (-(-height // 4), -(-width // 4))
    sides = [(4 * height, 4 * width), (2 * height, 2 * width), (height, width), halves, quarters]
    for one, side in zip(found.values(), sides, strict=True):
        assert one.shape == (2, WIDTH, *side)
    assert torch.equal(found["pool"], found["3"][:, :, ::2, ::2])


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_is_seen_where_it_is(kind: Kind) -> None:
    network, plain = pyramid(kind), maps(16, 16)
    changed = [one.clone() for one in plain]
    row, column = 5, 9
    for one in changed:
        one[0, :, row, column] += 10
    before, after = network(plain), network(changed)
    for name, scale in zip(("0", "1", "2", "3"), SCALES, strict=True):
        difference = (after[name] - before[name]).abs().amax(dim=1)
        assert not difference[1].any(), "another image"
        rows, columns = (difference[0] > 1e-4).nonzero().unbind(1)
        reach = max(scale, 1) + (2 * scale if kind is SeveralMapsPyramid else 0)  # a 3 x 3 kernel; coarse maps above
        for found, place in ((rows, row), (columns, column)):
            assert (found + 1 >= scale * place - reach).all()
            assert (found <= scale * (place + 1) + reach).all()
            assert found.float().add(0.5).mean() / scale == pytest.approx(place + 0.5, abs=0.8)


def test_the_simple_one_is_made_of_the_last_map() -> None:
    given = [one.requires_grad_() for one in maps()]
    sum(one.square().sum() for one in pyramid(SimplePyramid)(given).values()).backward()
    assert [one.grad is not None for one in given] == [False, False, False, True]


def test_the_other_is_made_of_all_the_earliest_being_the_finest() -> None:
    given = [one.requires_grad_() for one in maps()]
    found = pyramid(SeveralMapsPyramid)(given)
    for place, name in enumerate(("0", "1", "2", "3")):
        gradients = torch.autograd.grad(found[name].square().sum(), given, retain_graph=True, allow_unused=True)
        # A map is seen in its own level, and, from above, in those that are finer.
        assert [gradient is not None for gradient in gradients] == [False] * place + [True] * (4 - place)


def test_a_level_written_out() -> None:
    network = pyramid(SimplePyramid)
    _, first, first_norm, second, second_norm = network.levels[2]

    def norm(one: Tensor, layer: nn.Module) -> Tensor:
        centred = one - one.mean(dim=1, keepdim=True)
        scaled = centred / (one.var(dim=1, keepdim=True, correction=0) + 1e-6).sqrt()
        return scaled * layer.weight[:, None, None] + layer.bias[:, None, None]

    with torch.no_grad():
        given = maps()[-1]
        mixed = norm(torch.einsum("oc,bchw->bohw", first.weight[:, :, 0, 0], given), first_norm)
        padded = nn.functional.pad(mixed, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
        expected = norm(torch.einsum("ocij,bchwij->bohw", second.weight, padded), second_norm)
        torch.testing.assert_close(network([given])["2"], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_learns(kind: Kind) -> None:
    network = pyramid(kind)
    weights = torch.randn(WIDTH, 1, 1, generator=torch.Generator().manual_seed(1))
    sum((one * weights).square().sum() for one in network(maps()).values()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
