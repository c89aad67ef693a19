"""Encoders: images in [0, 1] to tokens with `[CLS]` first, whatever timm's network gives."""

import pytest
import timm
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from perceptual_mae.models.encoder import Encoder

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
IMAGES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
PIXELS = (IMAGES - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1)


def vit(**settings: object) -> VisionTransformer:
    torch.manual_seed(1)
    shape: dict[str, object] = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 2}
    network = VisionTransformer(**(shape | {"num_classes": 0} | settings))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    return network


def encoder(network: nn.Module, size: tuple[int, int] = (32, 48)) -> Encoder:
    return Encoder(network, "it", size, MEAN, STD)


@torch.no_grad()
def by_hand(network: VisionTransformer, blocks: int) -> Tensor:
    """Tokens after so many blocks, written out."""
    tokens = network.norm_pre(network._pos_embed(network.patch_embed(PIXELS)))
    for block in network.blocks[:blocks]:
        tokens = block(tokens)
    return tokens


def test_tokens_and_what_it_knows_of_itself() -> None:
    network = vit()
    it = encoder(network)
    tokens = it(IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(tokens, network.norm(by_hand(network, 3)))
    assert tokens.shape == (2, 1 + 24, 64)
    assert not tokens.requires_grad
    assert (it.grid, it.embed_dim, it.patch_size, it.depth, it.in_channels) == ((4, 6), 64, 8, 3, 3)
    assert it.mean.shape == it.std.shape == (1, 3, 1, 1)


@pytest.mark.parametrize(("block", "blocks"), [(0, 1), (1, 2), (2, 3), (-1, 3), (-3, 1)])
def test_any_block(block: int, blocks: int) -> None:
    network = vit()
    torch.testing.assert_close(encoder(network)(IMAGES, block), by_hand(network, blocks))


@pytest.mark.parametrize("block", [None, 1])
def test_registers_are_left_out(block: int | None) -> None:
    network = vit(reg_tokens=2)
    with torch.no_grad():
        expected = by_hand(network, 2) if block == 1 else network.norm(by_hand(network, 3))
    tokens = encoder(network)(IMAGES, block)
    torch.testing.assert_close(tokens, torch.cat([expected[:, :1], expected[:, 3:]], dim=1))


@pytest.mark.parametrize("block", [None, 1])
@pytest.mark.parametrize("registers", [0, 1])
def test_without_a_class_token_the_first_is_the_mean(block: int | None, registers: int) -> None:
    network = vit(class_token=False, global_pool="", reg_tokens=registers)
    with torch.no_grad():
        patches = (by_hand(network, 2) if block == 1 else network.norm(by_hand(network, 3)))[:, registers:]
    for count in (1, 2, 3):
        tokens = encoder(network)(IMAGES.repeat(3, 1, 1, 1)[:count], block)
        torch.testing.assert_close(tokens[:, 1:], patches.repeat(3, 1, 1)[:count])
        torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(dim=1))


def test_beit_has_blocks_too() -> None:
    torch.manual_seed(0)
    network = timm.create_model("beit_base_patch16_224", embed_dim=64, depth=2, num_heads=2, img_size=32, num_classes=0)
    it = Encoder(network, "beit", (32, 32), MEAN, STD)
    assert it.depth == 2
    last = it(IMAGES[..., :32], -1)
    with torch.no_grad():
        torch.testing.assert_close(network.norm(last), network.forward_features(PIXELS[..., :32]))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "swin_tiny_patch4_window7_224"])
def test_maps_become_tokens(name: str) -> None:
    options = {"embed_dim": 24, "depths": (1, 1, 1), "num_heads": (3, 3, 3), "img_size": (64, 96)}
    options = options if name.startswith("swin") else {}
    network = timm.create_model(name, num_classes=0, **options)
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    it = encoder(network, (64, 96))
    tokens = it(images)
    with torch.no_grad():
        features = network.forward_features((images - it.mean) / it.std)
    features = features if name.startswith("swin") else features.permute(0, 2, 3, 1)
    rows, columns = features.shape[1:3]
    assert it.grid == (rows, columns)
    assert it.depth == 0
    torch.testing.assert_close(tokens[:, 1:].unflatten(1, (rows, columns)), features)
    torch.testing.assert_close(tokens[:, 0], features.mean(dim=(1, 2)))
    with pytest.raises(ValueError, match="it is no Vision Transformer: it has no blocks to look into"):
        it(images, 0)


def test_it_stays_in_eval_mode_and_frozen() -> None:
    it = encoder(vit(proj_drop_rate=0.5, drop_path_rate=0.5)).train()
    assert not any(module.training for module in it.modules())
    assert torch.equal(it(IMAGES), it(IMAGES))
    assert not any(parameter.requires_grad for parameter in it.parameters())


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 32, 48), (3, 32, 48), (2, 3, 48, 32)])
def test_images_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"it takes images \(B, 3, 32, 48\), not"):
        encoder(vit())(torch.rand(shape))


@pytest.mark.parametrize("block", [3, -4])
def test_blocks_that_there_are_not(block: int) -> None:
    with pytest.raises(ValueError, match="it has blocks 0 to 2, or -1 to -3 from the end"):
        encoder(vit())(IMAGES, block)
    assert encoder(vit()).block_index(-1) == 2
