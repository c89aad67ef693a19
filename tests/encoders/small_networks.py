"""Transformers and timm models that take a moment, and what their own forward pass gives."""

from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from perceptual_mae.encoders import open_encoder
from perceptual_mae.errors import PmaeError
from perceptual_mae.models.encoder import Encoder

State = dict[str, Tensor]
IMAGENET = (torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225]))


def images(*shape: int) -> Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))


def small_vit(**settings: Any) -> VisionTransformer:
    """A transformer as people train them, in which no two layers are alike."""
    torch.manual_seed(1)
    shape: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2}
    defaults = shape | {"num_classes": 0, "norm_layer": partial(nn.LayerNorm, eps=1e-6)}
    network = VisionTransformer(**(defaults | settings)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    return network


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor.clone() for name, tensor in state.items()}


@torch.no_grad()
def expected_tokens(network: Any, pixels: Tensor, mean: Tensor = IMAGENET[0], std: Tensor = IMAGENET[1]) -> Tensor:
    return network.forward_features((pixels - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1))


def same_tokens(encoder: Encoder, network: Any) -> None:
    pixels = images(encoder.in_channels, *encoder.image_size)
    torch.testing.assert_close(encoder(pixels), expected_tokens(network, pixels), atol=1e-5, rtol=1e-5)


def refused(spec: object, **options: Any) -> tuple[int, str]:
    """Exit code and line."""
    with pytest.raises(PmaeError) as caught:
        open_encoder(str(spec), **options)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(("ENCODER", "--image-size"))
    return caught.value.exit_code, line


def whole(name: str, **options: Any) -> Any:
    """A timm model with its classifier and random weights, in which no two layers are alike."""
    torch.manual_seed(1)
    model = timm.create_model(name, pretrained=False, **options).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return model


def pixel_statistics(network: Any) -> tuple[Tensor, Tensor]:
    return torch.tensor(network.pretrained_cfg["mean"]), torch.tensor(network.pretrained_cfg["std"])
