"""Files of anybody's Vision Transformer: the tokens of timm's own network with the same weights, or one line."""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_networks import IMAGENET, State, expected_tokens, images, refused, same_tokens, small_vit, under
from timm.layers import SwiGLUPacked
from torch import Tensor, nn

import perceptual_mae
from perceptual_mae.encoders import open_encoder
from perceptual_mae.errors import PmaeError
from perceptual_mae.models.mae import IMAGENET_MEAN, IMAGENET_STD
from perceptual_mae.weight_files import encoder_metadata

# -- whose they are -------------------------------------------------------------------------------------------------


def dino(state: State) -> dict[str, Any]:
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    head = {"module.head.mlp.0.weight": torch.ones(3, 128)}
    return {
        "student": under("module.backbone.", other) | head,
        "teacher": under("backbone.", state) | {"head.mlp.0.weight": torch.ones(3, 128)},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small"),
    }


def moco(state: State) -> dict[str, Any]:
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    momentum, mine = under("module.momentum_encoder.", other), under("module.base_encoder.", state)
    head = {"module.base_encoder.head.0.weight": torch.ones(3, 128)}
    return {"state_dict": momentum | mine | head | {"module.predictor.0.weight": torch.ones(3, 3)}, "arch": "vit_small"}


def published_mae(state: State) -> dict[str, Any]:
    decoder = {"mask_token": torch.ones(1, 1, 64), "decoder_pos_embed": torch.ones(1, 17, 64)}
    return {"model": state | decoder | {"decoder_blocks.0.norm1.weight": torch.ones(64)}}


LAYOUTS: dict[str, Callable[[State], dict[str, Any]]] = {
    "timm": dict,
    "timm with a head": lambda state: state | {"head.weight": torch.ones(9, 128), "head.bias": torch.ones(9)},
    "timm training": lambda state: {
        "state_dict": {name: torch.zeros_like(tensor) for name, tensor in state.items()},
        "state_dict_ema": state,
    },
    "mae": published_mae,
    "dino": dino,
    "dino without a wrapper": lambda state: under("backbone.", state),
    "moco v3": moco,
    "momentum under a shorter name": lambda state: (
        under("momentum.", {name: torch.zeros_like(tensor) for name, tensor in state.items()})
        | under("online_network.", state)
    ),
    "compiled and parallel": lambda state: {"model": under("module._orig_mod.", state)},
    "one state with student and teacher": lambda state: (
        under("student_backbone.", {name: torch.zeros_like(tensor) for name, tensor in state.items()})
        | under("teacher_backbone.", state)
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_plain_transformers(tmp_path: Path, layout: str) -> None:
    network = small_vit()
    torch.save(LAYOUTS[layout](network.state_dict()), tmp_path / "weights.pth")
    encoder, text = open_encoder(str(tmp_path / "weights.pth"))
    same_tokens(encoder, network)
    assert text.startswith("vit 128/2/2, patch 8, 32 x 32: 30 of 30 tensors matched")
    assert text.endswith("; mean and std are ImageNet's: the file does not say")


def test_the_text_says_what_was_left_out(tmp_path: Path) -> None:
    state = small_vit().state_dict()
    torch.save(published_mae(state), tmp_path / "mae.pth")
    torch.save(moco(state), tmp_path / "moco.pth.tar")
    text = open_encoder(str(tmp_path / "mae.pth"))[1]
    assert "; 3 of the file ignored (mask_token, decoder_pos_embed, decoder_blocks.0.norm1.weight)" in text
    text = open_encoder(str(tmp_path / "moco.pth.tar"))[1]
    assert "1 of the file ignored (head.0.weight) (names under state_dict.module.base_encoder)" in text
    assert "; 31 of the file are beside it (module.momentum_encoder.cls_token, ...)" in text


@pytest.mark.parametrize(
    "settings",
    [
        {"init_values": 0.1},
        {"qkv_bias": False},
        {"qk_norm": True},
        {"in_chans": 1},
        {"in_chans": 5},
        {"mlp_ratio": 2.6667 * 2, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU},
        {"mlp_ratio": 1.3},
        {"embed_dim": 448, "num_heads": 7, "depth": 1, "mlp_ratio": 453.5 / 448},  # 448 * (453 / 448) is 452.99...
        {"reg_tokens": 3, "no_embed_class": True},
        {"reg_tokens": 4},
        {"class_token": False, "global_pool": ""},
        {"class_token": False, "global_pool": "", "reg_tokens": 2, "no_embed_class": True},
        {"no_embed_class": True, "init_values": 0.1},
        {"global_pool": "avg"},
        {"embed_dim": 1280, "depth": 1, "num_heads": 16},
        {"embed_dim": 96, "num_heads": 3, "patch_size": 4},
    ],
    ids=lambda settings: " ".join(f"{name} {value}" for name, value in settings.items())[:50],
)
def test_the_architecture_is_read_off_the_shapes(tmp_path: Path, settings: dict[str, Any]) -> None:
    network = small_vit(**settings)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    encoder, _ = open_encoder(str(tmp_path / "weights.safetensors"))
    pixels, channels = images(encoder.in_channels, 32, 32), encoder.in_channels
    mean, std = IMAGENET if channels == 3 else (torch.full((channels,), 0.5), torch.full((channels,), 0.25))
    tokens, prefix = expected_tokens(network, pixels, mean, std), network.num_prefix_tokens
    patches = tokens[:, prefix:]
    cls = tokens[:, :1] if network.has_class_token else patches.mean(dim=1, keepdim=True)
    torch.testing.assert_close(encoder(pixels), torch.cat([cls, patches], dim=1), atol=1e-5, rtol=1e-5)
    assert encoder.patch_size == network.patch_embed.patch_size[0]


@pytest.mark.parametrize(
    "name", ["vit_base_patch14_dinov2", "vit_base_patch14_reg4_dinov2", "vit_giant_patch14_dinov2"]
)
def test_dinov2(tmp_path: Path, name: str) -> None:
    """timm reads the same file under DINOv2's names into its own model."""
    shape: dict[str, Any] = {"embed_dim": 128, "depth": 2, "num_heads": 2, "img_size": 70, "num_classes": 0}
    theirs = timm.create_model(name, **shape).eval()
    state = {key: torch.randn_like(tensor) * 0.1 for key, tensor in theirs.state_dict().items()}
    state = {key.replace("fc1", "w12").replace("fc2", "w3") if "giant" in name else key: t for key, t in state.items()}
    state["mask_token"], state["pos_embed"] = torch.ones(1, 128), torch.randn(1, 26, 128)
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
    theirs.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(copy.copy(state), theirs))
    torch.save(state, tmp_path / "dinov2.pth")
    encoder, text = open_encoder(str(tmp_path / "dinov2.pth"))
    pixels = images(3, 70, 70)
    expected = expected_tokens(theirs, pixels)
    expected = torch.cat([expected[:, :1], expected[:, theirs.num_prefix_tokens :]], dim=1)
    torch.testing.assert_close(encoder(pixels), expected, atol=1e-5, rtol=1e-5)
    assert "1 of the file ignored (mask_token)" in text


def test_layer_scale_under_the_names_of_deit3(tmp_path: Path) -> None:
    network = small_vit(init_values=0.1, no_embed_class=True)
    state = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
        for name, tensor in network.state_dict().items()
    }
    torch.save({"model": state}, tmp_path / "deit3.pth")
    same_tokens(open_encoder(str(tmp_path / "deit3.pth"))[0], network)


def test_moco_v3_small_has_twelve_heads(tmp_path: Path) -> None:
    network = small_vit(embed_dim=384, num_heads=12)
    torch.save(moco(network.state_dict()), tmp_path / "moco.pth.tar")
    same_tokens(open_encoder(str(tmp_path / "moco.pth.tar"))[0], network)
    usual = small_vit(embed_dim=384, num_heads=6)
    torch.save(usual.state_dict(), tmp_path / "small.pth")
    same_tokens(open_encoder(str(tmp_path / "small.pth"))[0], usual)


def test_a_file_may_say_how_many_heads_there_are(tmp_path: Path) -> None:
    network = small_vit(embed_dim=384, num_heads=12)
    known = encoder_metadata((32, 32), IMAGENET_MEAN, IMAGENET_STD, 12)
    save_file(network.state_dict(), tmp_path / "small.safetensors", known)
    same_tokens(open_encoder(str(tmp_path / "small.safetensors"))[0], network)
    save_file(network.state_dict(), tmp_path / "odd.safetensors", known | {"num_heads": "7"})
    with pytest.raises(PmaeError, match="how many heads"):
        open_encoder(str(tmp_path / "odd.safetensors"))
    save_file(network.state_dict(), tmp_path / "words.safetensors", known | {"num_heads": "a few"})
    assert open_encoder(str(tmp_path / "words.safetensors"))[0].network.blocks[0].attn.num_heads == 6


def test_half_precision_files_compute_in_float32(tmp_path: Path) -> None:
    network = small_vit()
    save_file({name: tensor.bfloat16() for name, tensor in network.state_dict().items()}, tmp_path / "half.safetensors")
    encoder = perceptual_mae.load_encoder(tmp_path / "half.safetensors")
    assert encoder(images(3, 32, 32)).dtype == torch.float32
    network.load_state_dict({name: tensor.bfloat16() for name, tensor in network.state_dict().items()})
    same_tokens(encoder, network)


def test_mean_and_std_of_the_file(tmp_path: Path) -> None:
    network = small_vit()
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    metadata = {"mean": json.dumps(mean.tolist()), "std": json.dumps(std.tolist())}
    save_file(network.state_dict(), tmp_path / "metadata.safetensors", metadata)
    tensors = {"mean": mean.reshape(1, 3, 1, 1), "std": std.reshape(1, 3, 1, 1)}
    save_file(network.state_dict() | tensors, tmp_path / "tensors.safetensors")
    pixels = images(3, 32, 32)
    for name in ("metadata", "tensors"):
        encoder, text = open_encoder(str(tmp_path / f"{name}.safetensors"))
        torch.testing.assert_close(encoder(pixels), expected_tokens(network, pixels, mean, std), atol=1e-5, rtol=1e-5)
        assert "ImageNet" not in text
    for mean_text, std_text in (("nonsense", "[1,1,1]"), ("[0,0]", "[1,1]"), ("[0]", "[0]"), ("[NaN]", "[1]")):
        save_file(network.state_dict(), tmp_path / "odd.safetensors", {"mean": mean_text, "std": std_text})
        encoder, text = open_encoder(str(tmp_path / "odd.safetensors"))
        assert torch.equal(encoder.mean.flatten(), IMAGENET[0])
        assert text.endswith("mean and std are ImageNet's: the file does not say")


# -- image sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(48, 48), (16, 64), (64, 16), (32, 32), (24, 40)])
def test_another_image_size(tmp_path: Path, size: tuple[int, int]) -> None:
    """timm resamples the same position embeddings by itself. 2 x 8 patches are as many as 4 x 4."""
    network = small_vit()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    encoder, text = open_encoder(str(tmp_path / "weights.pth"), image_size=size)
    network.set_input_size(size)
    same_tokens(encoder, network)
    assert (encoder.image_size, encoder.grid) == (size, (size[0] // 8, size[1] // 8))
    assert ("resampled from 4 x 4 patches to" in text) == (size != (32, 32))


def test_files_that_were_not_trained_on_squares(tmp_path: Path) -> None:
    network = small_vit(img_size=(32, 48))
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path, {"image_size": "[32, 48]"})
    same_tokens(perceptual_mae.load_encoder(path), network)
    larger = perceptual_mae.load_encoder(path, image_size="48x48")
    save_file(network.state_dict(), path)  # as before the size was noted
    code, line = refused(path)
    assert code == 2
    assert line.startswith(f"--image-size: ENCODER {path}: its 25 position embeddings are no square of patches")
    same_tokens(perceptual_mae.load_encoder(path, image_size=(32, 48)), network)
    doubled = perceptual_mae.load_encoder(path, image_size=(64, 96))
    network.set_input_size((64, 96))
    same_tokens(doubled, network)
    network = small_vit(img_size=(32, 48))
    network.set_input_size((48, 48))
    same_tokens(larger, network)


@pytest.mark.parametrize("known", [True, False])
def test_positions_of_patches_alone_beside_a_class_token(tmp_path: Path, known: bool) -> None:
    """FlexiViT's: of 5 x 5 patches, or of 4 x 6 and [CLS]; only who knows the size can tell."""
    network = small_vit(img_size=40, no_embed_class=True)
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path, {"image_size": "[40, 40]"} if known else {})
    same_tokens(perceptual_mae.load_encoder(path, image_size=40), network)
    if known:
        network.set_input_size((48, 48))
        same_tokens(perceptual_mae.load_encoder(path, image_size=48), network)
    else:
        assert "no square of patches beside [CLS]: say for which size it was trained" in refused(path)[1]


def test_sizes_that_are_none(tmp_path: Path) -> None:
    torch.save(small_vit().state_dict(), path := tmp_path / "weights.pth")
    for size in (0, -32, "32x", "big", (), (1, 2, 3), (32.0, 32)):
        code, line = refused(path, image_size=size)
        assert code == 2
        assert line.endswith("give one side in pixels such as 224, or HEIGHTxWIDTH such as 192x256")
    for size in (4, (32, 36), "36x32"):
        assert "is not a multiple of its patch size, 8" in refused(path, image_size=size)[1]
    assert perceptual_mae.load_encoder(path, image_size="64").image_size == (64, 64)


# -- weights that do not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"blocks.1.attn.qkv.weight": torch.ones(384, 64)}, "29 of 30 tensors match; blocks.1.attn.qkv.weight is 384"),
        ({"cls_token": torch.ones(1, 1, 64)}, "29 of 30 tensors match; cls_token is 1 x 1 x 64 in the file and 1 x 1"),
        ({"blocks.1.norm2.bias": None}, "29 of 30 tensors match; blocks.1.norm2.bias is missing"),
        ({"blocks.0.norm1.weight": None, "blocks.1.norm2.bias": None}, "28 of 30 tensors match; blocks.0.norm1.weight"),
        ({"blocks.1.mlp.fc3.weight": torch.ones(2)}, "1 of the file are of no part of the network, such as blocks.1"),
        ({"blocks.7.norm1.weight": torch.ones(128)}, "30 of 42 tensors match; blocks.2.norm1.weight is missing"),
        ({"pos_embed": None}, "no plain Vision Transformer: pos_embed is not among its 29 tensors ("),
        ({"pos_embed": torch.ones(1, 17, 64)}, "no plain Vision Transformer: pos_embed is (1, 17, 64) for a width"),
        ({"dist_token": torch.ones(1, 1, 128)}, "no plain Vision Transformer: it has dist_token; if it is another"),
        ({"norm_pre.weight": torch.ones(128)}, "no plain Vision Transformer: it has norm_pre.weight"),
        ({"patch_embed.proj.weight": torch.ones(128, 3, 8, 4)}, "no plain Vision Transformer: its patches are (8, 4)"),
        ({"patch_embed.proj.weight": None}, "no plain Vision Transformer: patch_embed.proj.weight is not among its 29"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(tmp_path: Path, change: dict[str, Tensor | None], complaint: str) -> None:
    state = {name: tensor for name, tensor in (small_vit().state_dict() | change).items() if tensor is not None}
    save_file(state, path := tmp_path / "weights.safetensors")
    code, line = refused(path)
    assert code == 1
    assert line.startswith(f"ENCODER {path}: ")
    assert complaint in line
    if "no plain" in complaint:
        assert line.endswith(f"if it is another model of timm's, give timm:NAME:{path}")


def test_a_width_of_unknown_heads(tmp_path: Path) -> None:
    torch.save(small_vit(embed_dim=72).state_dict(), tmp_path / "weights.pth")
    assert "how many heads a transformer of width 72 has cannot be seen" in refused(tmp_path / "weights.pth")[1]
