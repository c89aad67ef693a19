"""Batch normalisations that are folded into convolutions: the same outputs and gradients, or nothing is touched."""

import pytest
import timm
import torch
from torch import Tensor, nn

from perceptual_mae.models.folding import fold_batch_norms
from perceptual_mae.models.timm_features import TimmFeatures

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def lively(network: nn.Module) -> nn.Module:
    """With running statistics and scales in which no two channels are alike."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_(0, 0.1)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def seen(network: nn.Module) -> tuple[list[Tensor], Tensor]:
    """Maps of some images, and the gradient on the images of a sum over them."""
    images = IMAGES.to(next(network.parameters()), copy=True).requires_grad_()
    maps = list(network(images))
    (gradient,) = torch.autograd.grad(sum(one.square().mean() for one in maps), images)
    return [one.detach() for one in maps], gradient


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_050", "densenet121"])
def test_the_same_is_computed(name: str) -> None:
    network = lively(timm.create_model(name, features_only=True)).double()  # no activation rounds across its kink
    had = norms(network)
    maps, gradient = seen(network)
    folded = fold_batch_norms(network, IMAGES[:1].double())
    assert folded > had / 3
    assert norms(network) == had - folded
    after, other = seen(network)
    for one, two in zip(maps, after, strict=True):
        torch.testing.assert_close(two, one)
    torch.testing.assert_close(other, gradient)


class Deceptive(nn.Module):
    """Normalises before it convolves, whatever the order of its parts says."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.conv(self.norm(images)),)


def test_what_would_change_is_left_alone() -> None:
    network = lively(Deceptive())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    (expected,), _ = seen(network)
    assert fold_batch_norms(network, IMAGES[:1]) == 0
    assert network.state_dict().keys() == before.keys()
    torch.testing.assert_close(network(IMAGES)[0], expected, atol=0, rtol=0)


def test_a_transformer_has_nothing_to_fold() -> None:
    network = TimmFeatures("vit_tiny_patch16_224", (64, 64)).eval()
    expected = network(IMAGES)
    network.quicken()
    for one, other in zip(network(IMAGES), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_a_loss_network_is_quickened() -> None:
    network = TimmFeatures("resnet18", (64, 64)).eval()
    lively(network)
    with torch.no_grad():
        expected = network(IMAGES)
    network.quicken()
    assert norms(network) == 0
    assert not any(weight.requires_grad for weight in network.parameters())
    for one, other in zip(network(IMAGES), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()), rtol=1e-3)
