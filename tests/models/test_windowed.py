"""ViTDet's backbone: a plain Vision Transformer without a class token where nothing is cut, and local where it is."""

import pytest
import timm
import torch
from timm.models import VisionTransformer
from torch import Tensor

from perceptual_mae.encoders import load_encoder
from perceptual_mae.models.architecture import Architecture
from perceptual_mae.models.backbone import Backbone
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.models.windowed import WindowedBackbone

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
OPTIONS = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 2}
IMAGES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
ALL = (0, 1, 2, 3)


def encoder(**changes: object) -> Encoder:
    """A small one none of whose weights is zero or one."""
    torch.manual_seed(1)
    architecture = Architecture("vit", OPTIONS | changes)
    network = architecture.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Encoder(network, "it", network.patch_embed.img_size, MEAN, STD, architecture)


def randomised(backbone: WindowedBackbone) -> WindowedBackbone:
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "rel_pos" in name:
                parameter.copy_(torch.randn_like(parameter))
    return backbone


@torch.no_grad()
def by_hand(network: VisionTransformer, images: Tensor, grid: tuple[int, int], prefix: int) -> list[Tensor]:
    """Maps after each block of a Vision Transformer from which the class token is gone."""
    pixels = (images - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1)
    tokens = network.patch_embed(pixels) + network.pos_embed[:, network.pos_embed.shape[1] - grid[0] * grid[1] :]
    tokens, maps = network.norm_pre(tokens), []
    for block in network.blocks:
        tokens = block(tokens)
        maps.append(tokens.mT.unflatten(2, grid))
    return maps


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"class_token": False},
        {"reg_tokens": 2, "no_embed_class": True},
        {"init_values": 0.5, "qk_norm": True},
        {"qkv_bias": False, "mlp_ratio": 2.5},
        {"final_norm": False},
        {"pre_norm": True},
    ],
)
@pytest.mark.parametrize("window", [6, 14])
def test_uncut_it_is_a_plain_one_without_class_token(changes: dict[str, object], window: int) -> None:
    plain = encoder(**changes)
    backbone = WindowedBackbone.of(plain, window=window).eval()
    found = backbone(IMAGES, ALL)
    for one, expected in zip(found, by_hand(plain.network, IMAGES, (4, 6), 1), strict=True):
        torch.testing.assert_close(one, expected, atol=1e-4, rtol=1e-4)
        assert one.is_contiguous()


def test_what_it_knows_of_itself() -> None:
    plain = encoder()
    backbone = WindowedBackbone.of(plain, window=3, drop_path=0.3)
    assert (backbone.image_size, backbone.grid, backbone.patch_size) == ((32, 48), (4, 6), 8)
    assert (backbone.embed_dim, backbone.depth, backbone.in_channels) == (64, 4, 3)
    assert isinstance(backbone, Backbone)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in backbone.network.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    norms = [module for module in backbone.network.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    assert len(norms) == 8, "no norm is left after the blocks"
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(parameter.requires_grad for parameter in plain.parameters())


def test_its_weights_are_copies() -> None:
    plain = encoder()
    before = plain.network.blocks[0].attn.qkv.weight.clone()
    backbone = WindowedBackbone.of(plain, window=3)
    with torch.no_grad():
        backbone.network.blocks[0].attn.qkv.weight.zero_()
    assert torch.equal(plain.network.blocks[0].attn.qkv.weight, before)


def test_four_blocks_at_equal_distances_see_everything() -> None:
    backbone = WindowedBackbone.of(encoder(depth=12), window=3)
    assert [i for i, block in enumerate(backbone.network.blocks) if not block.window_size] == [2, 5, 8, 11]
    assert {block.window_size for block in backbone.network.blocks} == {0, 3}


def test_windows_keep_to_themselves_until_a_block_sees_everything() -> None:
    backbone = randomised(WindowedBackbone.of(encoder(depth=12), window=2)).eval()
    images = IMAGES.clone().requires_grad_()
    for block, far in ((0, False), (1, False), (2, True)):
        (found,) = backbone(images, (block,))
        (gradient,) = torch.autograd.grad(found[0, :, 0, 0].square().sum(), images)
        seen = gradient[0].abs().sum(dim=0).unflatten(0, (4, 8)).unflatten(2, (6, 8)).amax(dim=(1, 3)) > 0
        own = torch.zeros(4, 6, dtype=torch.bool)
        own[:2, :2] = True
        assert torch.equal(seen, torch.ones_like(own) if far else own)


@torch.no_grad()
def test_a_windowed_block_written_out() -> None:
    backbone = randomised(WindowedBackbone.of(encoder(depth=6), window=2)).eval()
    block = backbone.network.blocks[0]
    assert block.window_size == 2
    tokens = torch.randn(1, 4, 6, 64, generator=torch.Generator().manual_seed(3))
    expected = torch.empty_like(tokens)
    attention = block.attn
    for top in (0, 2):
        for left in (0, 2, 4):
            part = tokens[0, top : top + 2, left : left + 2].reshape(4, 64)
            q, k, v = attention.qkv(block.norm1(part)).reshape(4, 3, 2, 32).permute(1, 2, 0, 3)
            scores = q @ k.mT / 32**0.5
            for i in range(4):
                for j in range(4):
                    down, right = i // 2 - j // 2 + 1, i % 2 - j % 2 + 1
                    scores[:, i, j] += q[:, i] @ (attention.rel_pos_h[down] + attention.rel_pos_w[right])
            mixed = attention.proj((scores.softmax(dim=-1) @ v).transpose(0, 1).reshape(4, 64))
            summed = part + mixed
            expected[0, top : top + 2, left : left + 2] = (summed + block.mlp(block.norm2(summed))).reshape(2, 2, 64)
    torch.testing.assert_close(block(tokens), expected, atol=1e-4, rtol=1e-4)


def test_relative_positions_begin_at_zero_and_learn() -> None:
    backbone = WindowedBackbone.of(encoder(), window=3)
    positions = {name: p for name, p in backbone.named_parameters() if "rel_pos" in name}
    assert len(positions) == 8
    assert not any(parameter.any() for parameter in positions.values())
    sum(one.square().sum() for one in backbone(IMAGES, ALL)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in backbone.parameters())


def test_from_an_architecture_its_weights_are_drawn() -> None:
    architecture = Architecture("vit", OPTIONS)
    torch.manual_seed(5)
    first = WindowedBackbone(architecture, (32, 48), MEAN, STD, window=3).eval()
    torch.manual_seed(5)
    again = WindowedBackbone(architecture, (32, 48), MEAN, STD, window=3).eval()
    assert torch.equal(first(IMAGES, (3,))[0], again(IMAGES, (3,))[0])
    other = WindowedBackbone(architecture, (32, 48), MEAN, STD, window=3).eval()
    assert not torch.equal(first(IMAGES, (3,))[0], other(IMAGES, (3,))[0])
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(IMAGES, (3,))[0], other(IMAGES, (3,))[0])


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("vit", OPTIONS | {"gated": True}, "its blocks have a GluMlp where plain ones have a Mlp"),
        ("beit_base_patch16_224", {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32}, "it is a Beit"),
    ],
)
def test_other_kinds_are_refused(name: str, options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be cut into windows: {reason}"):
        WindowedBackbone(Architecture(name, options), (32, 32), MEAN, STD)


def test_what_has_no_blocks_is_refused() -> None:
    network = timm.create_model("test_resnet", num_classes=0)
    with pytest.raises(ValueError, match="it is no Vision Transformer"):
        WindowedBackbone.of(Encoder(network, "it", (32, 32), MEAN, STD, Architecture("test_resnet")))
    with pytest.raises(ValueError, match="pixels:8 is no Vision Transformer"):
        WindowedBackbone.of(load_encoder("pixels:8"))
