"""Path lengths against Jacobians that are written out, and each other."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from perceptual_mae.losses.path_length import PathLength, exact_lengths, finite_difference_lengths
from perceptual_mae.models import MaskedAutoencoder

SIZES = (3 * 4 * 4, 5 * 2 * 2)
"""N_j of `Maps`."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(stream: torch.Generator) -> Callable[[Tensor], Tensor]:
    return lambda like: torch.randn(like.shape, generator=stream, dtype=like.dtype)


class Maps(nn.Module):
    """A small decoder, z (B, 2, 3) to images (B, 2, 4, 4), and a discriminator's two feature maps of them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.decoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 32))
            self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.double()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        first = F.gelu(self.first(self.decoder(z).reshape(-1, 2, 4, 4)))
        return first, F.gelu(self.second(first))


@pytest.fixture
def maps() -> Maps:
    return Maps()


@pytest.fixture
def z() -> Tensor:
    return torch.randn(3, 2, 3, dtype=torch.float64, generator=seeded())


def scaled(maps: Callable[[Tensor], tuple[Tensor, ...]], z: Tensor) -> Tensor:
    """All features of one image in one vector, each layer by 1 / sqrt(N_j)."""
    return torch.cat([layer.flatten() / math.sqrt(layer[0].numel()) for layer in maps(z[None])])


# -- both estimators ---------------------------------------------------------------------------------------------------


def test_linear_by_hand() -> None:
    """Layers 3 z, of one element, and (4 z, 4 z), of two: |J|^2 = 9 + (16 + 16) / 2 for every image."""

    def features(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.reshape(-1, 1, 1, 1)
        return 3 * z, 4 * z.expand(-1, 1, 2, 1)

    z, v = torch.zeros(4, 1, 1, dtype=torch.float64), torch.tensor([1.0, -1, 0.5, 2]).double().reshape(4, 1, 1)
    torch.testing.assert_close(finite_difference_lengths(features, z, v), 5 * v.abs().flatten())
    y = [torch.randn(4, 1, width, 1, dtype=torch.float64, generator=g) for g in [seeded()] for width in (1, 2)]
    expected = (3 * y[0].flatten() + 4 * y[1].flatten(1).sum(1) / math.sqrt(2)).abs()
    torch.testing.assert_close(exact_lengths(features, z, normal(seeded())), expected)


def test_estimators_agree_with_the_frobenius_norm(maps: Maps, z: Tensor) -> None:
    """Root mean squares over 512 draws, within 5 %. Images do not depend on each other here: one batch has them all."""
    one = z[0]
    frobenius = torch.func.jacrev(lambda z: scaled(maps, z))(one).norm().item()
    draws = one.expand(512, 2, 3)
    v = torch.randn(draws.shape, dtype=torch.float64, generator=seeded(1))
    difference = finite_difference_lengths(maps, draws, v).square().mean().sqrt().item()
    exact = exact_lengths(maps, draws, normal(seeded(2))).square().mean().sqrt().item()
    assert difference == pytest.approx(frobenius, rel=0.05)
    assert exact == pytest.approx(frobenius, rel=0.05)
    assert exact == pytest.approx(difference, rel=0.05)


def test_images_that_depend_on_each_other() -> None:
    """f_1 = z_1 and f_2 = z_2 + 2 z_1: differences see rows of the Jacobian, the exact form its columns."""

    def features(z: Tensor) -> tuple[Tensor]:
        first, second = z.reshape(2, 64, 1, 1)
        return (torch.stack([first, second + 2 * first]),)

    z, stream = torch.zeros(2, 1, 64, dtype=torch.float64), seeded()
    rows, columns = torch.zeros(2).double(), torch.zeros(2).double()
    for _ in range(64):
        v = torch.randn(z.shape, dtype=torch.float64, generator=stream)
        rows += finite_difference_lengths(features, z, v).square() / 64
        columns += exact_lengths(features, z, normal(stream)).square() / 64
    assert rows.tolist() == pytest.approx([1, 5], rel=0.1)
    assert columns.tolist() == pytest.approx([5, 1], rel=0.1)


def test_z_is_a_constant_and_weights_are_not(maps: Maps, z: Tensor) -> None:
    z.requires_grad_()
    weights = list(maps.parameters())
    lengths = finite_difference_lengths(maps, z, torch.randn(z.shape, generator=seeded()).double())
    for values in (lengths, exact_lengths(maps, z, normal(seeded()))):
        assert values.shape == (3,)
        assert (values > 0).all()
        gradients = torch.autograd.grad(values.sum(), [*weights, z], allow_unused=True)
        assert gradients[-1] is None
        assert all(gradient.abs().sum() > 0 for gradient in gradients[:-1])


def test_features_that_do_not_move_have_no_nan(z: Tensor) -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def features(z: Tensor) -> tuple[Tensor]:
        return ((weight * 0 * z).reshape(3, 6, 1, 1),)

    for lengths in (finite_difference_lengths(features, z, z), exact_lengths(features, z, normal(seeded()))):
        assert (lengths == 0).all()
        assert torch.autograd.grad(lengths.sum(), weight) == (0,)


def test_no_half_precision(z: Tensor) -> None:
    maps, z = Maps().float(), z.float()
    v = torch.randn(z.shape, generator=seeded())
    expected = finite_difference_lengths(maps, z, v), exact_lengths(maps, z, normal(seeded()))
    with torch.autocast("cpu", torch.bfloat16):
        found = finite_difference_lengths(maps, z, v), exact_lengths(maps, z, normal(seeded()))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


# -- the finite difference ---------------------------------------------------------------------------------------------


def test_difference_is_the_directional_derivative(maps: Maps, z: Tensor) -> None:
    v = torch.randn(z.shape, dtype=torch.float64, generator=seeded(1))
    expected = [torch.func.jvp(lambda z: scaled(maps, z), (a,), (b,))[1].norm() for a, b in zip(z, v, strict=True)]
    found = finite_difference_lengths(maps, z, v)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0.01, atol=0)
    smaller = finite_difference_lengths(maps, z, v, epsilon=1e-4)
    torch.testing.assert_close(smaller, torch.stack(expected), rtol=1e-7, atol=0)


def test_gradient_of_the_difference(maps: Maps, z: Tensor) -> None:
    """Against the gradient of |J v| with J by forward-mode differentiation, all parameters together."""
    v = torch.randn(z.shape, dtype=torch.float64, generator=seeded(1))
    weights = dict(maps.named_parameters())

    def true_lengths(weights: dict[str, Tensor]) -> Tensor:
        def features(z: Tensor) -> Tensor:
            return scaled(lambda z: torch.func.functional_call(maps, weights, (z,)), z)

        return torch.stack([torch.func.jvp(features, pair, other)[1].norm() for pair, other in pairs]).sum()

    pairs = [((a,), (b,)) for a, b in zip(z, v, strict=True)]
    expected = torch.cat([g.flatten() for g in torch.func.grad(true_lengths)(weights).values()])
    gradients = torch.autograd.grad(finite_difference_lengths(maps, z, v).sum(), list(weights.values()))
    found = torch.cat([g.flatten() for g in gradients])
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_float32_is_enough_for_an_autoencoder() -> None:
    """Within 1 % of the derivative in float64: epsilon is neither too small for rounding nor too large for curves."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskedAutoencoder.from_size("micro", image_size=32, patch_size=8)
        first, second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
    reconstruction = model(torch.rand(4, 3, 32, 32, generator=seeded()), generator=seeded())
    z, masking = reconstruction.latent.detach(), reconstruction.masking
    v = torch.randn(z.shape, generator=seeded(1))

    def features_of(model: MaskedAutoencoder, *layers: nn.Module) -> Callable[[Tensor], list[Tensor]]:
        def features(z: Tensor) -> list[Tensor]:
            maps = [model.to_pixels(model.decode(z, masking)[-1])]
            for layer in layers:
                maps.append(F.avg_pool2d(F.leaky_relu(layer(maps[-1]), 0.2), 2))
            return maps[1:]

        return features

    exactly = features_of(*(copy.deepcopy(module).double() for module in (model, first, second)))
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        _, moved = torch.func.jvp(exactly, (z.double(),), (v.double(),))
    expected = sum(layer.square().flatten(1).mean(dim=1) for layer in moved).sqrt()
    found = finite_difference_lengths(features_of(model, first, second), z, v)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=0)


# -- the exact form ----------------------------------------------------------------------------------------------------


def test_exact_is_a_row_of_the_jacobian(maps: Maps, z: Tensor) -> None:
    """|J^T y| with J by `jacrev` and the same y."""
    stream = seeded(3)
    shapes = [layer.shape for layer in maps(z)]
    y = [torch.randn(shape, dtype=torch.float64, generator=stream).flatten(1) for shape in shapes]
    jacobians = [torch.func.jacrev(lambda z: scaled(maps, z))(one).flatten(1) for one in z]
    expected = [(J.T @ torch.cat([a, b])).norm() for J, a, b in zip(jacobians, *y, strict=True)]
    torch.testing.assert_close(exact_lengths(maps, z, normal(seeded(3))), torch.stack(expected))
    assert tuple(layer[0].numel() for layer in maps(z)) == SIZES


def test_gradient_of_the_exact_form(maps: Maps, z: Tensor) -> None:
    """Second derivatives, against finite differences in float64 of the lengths by the weights of three layers."""
    names = ["decoder.1.weight", "decoder.3.bias", "second.weight"]
    weights = dict(maps.named_parameters())

    def lengths(*values: Tensor) -> Tensor:
        changed = dict(zip(names, values, strict=True))
        return exact_lengths(lambda z: torch.func.functional_call(maps, changed, (z,)), z[:1], normal(seeded()))

    leaves = [weights[name].detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(lengths, leaves)


def test_exact_differentiates_attention_twice() -> None:
    z = torch.randn(2, 4, 8, generator=seeded())
    weight = torch.randn(8, 8, generator=seeded(1)).requires_grad_()

    def features(z: Tensor) -> tuple[Tensor]:
        heads = (z @ weight).unsqueeze(1)
        return (F.scaled_dot_product_attention(heads, heads, heads),)

    exact_lengths(features, z, normal(seeded())).sum().backward()
    assert weight.grad.abs().sum() > 0


# -- the running mean --------------------------------------------------------------------------------------------------


def test_penalty_by_hand() -> None:
    """a moves from 0 to 0.02 before it is compared: (0.98^2 + 2.98^2) / 2; then on to 0.0398."""
    state, lengths = PathLength(), torch.tensor([1.0, 3.0], requires_grad=True)
    penalty = state.penalty(lengths)
    assert penalty.item() == pytest.approx(4.9204)
    assert state.mean.item() == pytest.approx(0.02)
    state.penalty(lengths)
    assert state.mean.item() == pytest.approx(0.0398)
    penalty.backward()
    # a is a constant: (length - a) and nothing else.
    assert lengths.grad.tolist() == pytest.approx([0.98, 2.98])


def test_the_mean_of_all_processes_is_what_it_follows() -> None:
    state = PathLength(decay=0.5)
    penalty = state.penalty(torch.tensor([1.0, 3.0]), torch.tensor(8.0))
    assert state.mean.item() == 4
    assert penalty.item() == (3**2 + 1**2) / 2


def test_steady_lengths_are_not_penalised_for_long() -> None:
    state = PathLength()
    penalties = [state.penalty(torch.tensor([2.0, 2.0])).item() for _ in range(500)]
    assert penalties == sorted(penalties, reverse=True)
    assert penalties[-1] < 1e-3
    assert state.mean.item() == pytest.approx(2 * (1 - 0.99**500), rel=1e-4)


def test_the_mean_is_saved() -> None:
    state = PathLength()
    state.penalty(torch.tensor([5.0]))
    again = PathLength()
    again.load_state_dict(state.state_dict())
    assert again.mean == state.mean == pytest.approx(0.05)
    assert not list(state.parameters())
