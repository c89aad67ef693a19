"""Feature matching: by hand, Gram matrices against a loop, and where the gradient goes."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual_mae.losses.feature_matching import FeatureMatching, gram
from perceptual_mae.losses.term import Seen
from perceptual_mae.models import Reconstruction
from perceptual_mae.models.judgement import Judgement
from perceptual_mae.models.masking import Masking

NOTHING = torch.empty(0)
UNUSED = Reconstruction(NOTHING, (), (), NOTHING, Masking(NOTHING, NOTHING, NOTHING), (1, 1), torch.clone)


def match(fake: tuple[Tensor, ...], real: tuple[Tensor, ...], term: FeatureMatching | None = None) -> Tensor:
    return (term or FeatureMatching())(UNUSED, NOTHING, Seen(real=Judgement(real), fake=Judgement(fake)))[0]


class Phi(nn.Module):
    """A loss network of three layers of different size."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            sizes = [(3, 4, 1), (4, 6, 2), (6, 8, 2)]
            self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, stride, 1) for i, o, stride in sizes)

    def forward(self, images: Tensor) -> Judgement:
        features = []
        for layer in self.layers:
            images = F.leaky_relu(layer(images), 0.2)
            features.append(images)
        return Judgement(tuple(features))


@pytest.fixture
def phi() -> Phi:
    return Phi()


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    return tuple(torch.rand(2, 2, 3, 8, 12, generator=torch.Generator().manual_seed(0)))


# -- values ------------------------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    """Two layers, the first (1, 2, 1, 2): Grams are [[5, 11], [11, 25]] / 4 and [[1, 0], [0, 1]] / 4."""
    fake = torch.tensor([[1.0, 2], [3, 4]]).reshape(1, 2, 1, 2), torch.tensor(2.0).reshape(1, 1, 1, 1)
    real = torch.tensor([[1.0, 0], [0, 1]]).reshape(1, 2, 1, 2), torch.tensor(-1.0).reshape(1, 1, 1, 1)
    loss, parts = FeatureMatching()(UNUSED, NOTHING, Seen(real=Judgement(real), fake=Judgement(fake)))
    expected = {"features/1": 2.0, "gram/1": 50 / 16, "features/2": 3.0, "gram/2": 3.0}
    assert {name: part.item() for name, part in parts.items()} == expected
    assert loss.item() == pytest.approx(0.05 * 5 + 40 * 6.125)
    assert match(fake, real, FeatureMatching(delta_f=1, delta_s=0)).item() == 5
    assert match(fake, real, FeatureMatching(delta_f=0, delta_s=1)).item() == 6.125


def test_gram_equals_a_loop() -> None:
    features = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, 3, 3, dtype=torch.float64)
    for b, c, d, i, j in product(range(2), range(3), range(3), range(4), range(5)):
        expected[b, c, d] += features[b, c, i, j].item() * features[b, d, i, j].item() / (3 * 4 * 5)
    torch.testing.assert_close(gram(features).double(), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gram(features.double()), expected, rtol=1e-12, atol=1e-15)


def test_equal_features_match_wherever_they_are(images: tuple[Tensor, Tensor], phi: Phi) -> None:
    """Moved features differ, and their Gram matrices do not: they forget places."""
    features = phi(images[0]).features
    moved = tuple(layer.roll(1, dims=-1) for layer in features)
    assert match(features, features) == 0
    assert match(moved, features, FeatureMatching(delta_f=1, delta_s=0)) > 0.1
    assert match(moved, features, FeatureMatching(delta_f=0, delta_s=1)) < 1e-6


def test_half_precision_is_judged_in_float32(images: tuple[Tensor, Tensor], phi: Phi) -> None:
    fake, real = (tuple(layer.bfloat16() for layer in phi(image).features) for image in images)
    with torch.autocast("cpu", torch.bfloat16):
        loss = match(fake, real)
        in_autocast = gram(fake[0].float())
    assert loss.dtype == in_autocast.dtype == torch.float32
    assert torch.equal(in_autocast, gram(fake[0]))
    as_floats = (tuple(layer.float() for layer in layers) for layers in (fake, real))
    assert torch.equal(loss, match(*as_floats))


# -- gradients ---------------------------------------------------------------------------------------------------------


def test_gradcheck() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 3, 2, 4), (2, 4, 1, 2)]
    fake, real = ([torch.randn(s, dtype=torch.float64, generator=generator) for s in sizes] for _ in range(2))
    assert torch.autograd.gradcheck(lambda *fake: match(fake, tuple(real)), [f.requires_grad_() for f in fake])


@pytest.mark.parametrize(("delta_f", "delta_s"), [(1.0, 0.0), (0.0, 1.0)])
def test_every_layer_pulls_at_the_reconstruction(
    images: tuple[Tensor, Tensor], phi: Phi, delta_f: float, delta_s: float
) -> None:
    made = images[0].requires_grad_()
    fake, real = phi.requires_grad_(False)(made).features, phi(images[1]).features
    for layer in range(3):
        loss = match(fake[layer : layer + 1], real[layer : layer + 1], FeatureMatching(delta_f, delta_s))
        (pull,) = torch.autograd.grad(loss, made, retain_graph=True)
        assert (pull != 0).float().mean() > 0.9


def test_a_frozen_network_and_the_image_collect_nothing(images: tuple[Tensor, Tensor], phi: Phi) -> None:
    made, image = (tensor.requires_grad_() for tensor in images)
    phi.requires_grad_(False)
    match(phi(made).features, phi(image).features).backward()
    assert image.grad is None
    assert made.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in phi.parameters())


def test_what_is_seen_in_the_image_is_a_constant_to_a_network_that_learns(
    images: tuple[Tensor, Tensor], phi: Phi
) -> None:
    made, image = images
    weights = list(phi.parameters())
    with torch.no_grad():
        constant = phi(image).features
    expected = torch.autograd.grad(match(phi(made).features, constant), weights)
    found = torch.autograd.grad(match(phi(made).features, phi(image).features), weights)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in found)


def test_parts_are_constants(images: tuple[Tensor, Tensor], phi: Phi) -> None:
    _, parts = FeatureMatching()(UNUSED, NOTHING, Seen(real=phi(images[1]), fake=phi(images[0])))
    assert list(parts) == ["features/1", "gram/1", "features/2", "gram/2", "features/3", "gram/3"]
    assert not any(part.requires_grad for part in parts.values())


def test_it_takes_a_network() -> None:
    with pytest.raises(ValueError, match="takes a loss network"):
        FeatureMatching()(UNUSED, NOTHING)


def test_as_many_layers_on_both_sides() -> None:
    layer = torch.rand(1, 1, 2, 2)
    with pytest.raises(ValueError, match="shorter"):
        match((layer, layer), (layer,))
