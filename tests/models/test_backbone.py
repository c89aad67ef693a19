"""Encoders as networks that learn to give maps: any Vision Transformer of timm's, and no weight that never learns."""

import pytest
import torch

from perceptual_mae.models.architecture import Architecture
from perceptual_mae.models.backbone import Backbone
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.models.segmenter import Segmenter

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
SMALL = {"embed_dim": 48, "num_heads": 2, "img_size": 32}
NAMES = {
    "beit_base_patch16_224": {"patch_size": 8},  # normalises what it has pooled
    "eva02_tiny_patch14_224": {"patch_size": 8},  # the same
    "vit_base_patch16_siglip_224": {"patch_size": 8},  # pools by attention
    "vit_small_patch16_224": {"patch_size": 8},
}


def encoder(name: str, depth: int = 4) -> Encoder:
    torch.manual_seed(0)
    architecture = Architecture(name, {**SMALL, **NAMES[name], "depth": depth})
    return Encoder(architecture.build(), name, (32, 32), MEAN, STD, architecture)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_learns(name: str) -> None:
    """Where several processes train, one that never has a gradient ends the run."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    backbone = Backbone.of(encoder(name))
    sum(one.square().sum() for one in backbone(images, (1, 3))).backward()  # type: ignore[union-attr]
    assert [name for name, weight in backbone.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_the_tokens_of_the_encoder(name: str) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    it = encoder(name)
    with torch.no_grad():
        first, last = Backbone.of(it).eval()(images, (1, 3))
    for found, block in ((first, 1), (last, None)):
        assert found.shape == (2, 48, 4, 4)
        torch.testing.assert_close(found.flatten(2).mT, it(images, block)[:, 1:])


def test_too_few_blocks_are_named() -> None:
    with pytest.raises(ValueError, match="UperNet needs 4 blocks, the network has 3"):
        Segmenter.of(encoder("vit_small_patch16_224", depth=3), 5)
