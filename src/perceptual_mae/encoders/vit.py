"""Plain Vision Transformers out of a state dict: the architecture is read off the shapes."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models import VisionTransformer
from torch import Tensor

from perceptual_mae.encoders.fit import Fit, SizeError, check_multiple, fit, shape, words
from perceptual_mae.models.architecture import PLAIN_VIT, Architecture
from perceptual_mae.models.positions import is_sincos
from perceptual_mae.models.sizes import SIZES

_HEADS = {size.embed_dim: size.num_heads for size in SIZES.values()} | {1152: 16, 1408: 16, 1664: 16}
"""Heads of widths that are no multiple of 64 or have fewer: they cannot be seen in the weights. (The last three are
published: SO-400M, giant and gigantic.)"""
_NEEDED = ("patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight")
_DIMENSIONS = {
    "patch_embed.proj.weight": 4,
    "pos_embed": 3,
    "cls_token": 3,
    "reg_token": 3,
    "register_tokens": 3,
    "blocks.0.attn.qkv.weight": 2,
    "blocks.0.mlp.fc1.weight": 2,
    "blocks.0.mlp.fc2.weight": 2,
}
"""Of the tensors off which the architecture is read; none of them is empty."""
_OTHER_KINDS = ("norm_pre.", "dist_token", "rope", "rel_pos")
"""What transformers have that compute something else between the same layers."""


class NoVitError(ValueError):
    """The weights are not those of a plain Vision Transformer under timm's names."""


@dataclass(frozen=True)
class PlainVit:
    """A Vision Transformer out of a state dict.

    Attributes:
        network: with its weights.
        architecture: how to build another one.
        image_size: `(height, width)` in pixels that it takes.
        fit: what matched.
        fixed_positions: see `Encoder`.
    """

    network: VisionTransformer
    architecture: Architecture
    image_size: tuple[int, int]
    fit: Fit
    fixed_positions: bool

    def __str__(self) -> str:
        """`vit 192/12/3, patch 16, 224 x 224`: width, depth, heads."""
        network = self.network
        shape = f"{network.embed_dim}/{len(network.blocks)}/{network.blocks[0].attn.num_heads}"
        return f"vit {shape}, patch {network.patch_embed.patch_size[0]}, {words(self.image_size)}"


def vit(
    tensors: Mapping[str, Tensor],
    image_size: tuple[int, int] | None = None,
    trained_size: tuple[int, int] | None = None,
    heads: int | None = None,
) -> PlainVit:
    """A Vision Transformer and its weights.

    Args:
        tensors: under timm's names, those of public MAE files, DINO and MoCo v3 (which are the same), of DINOv2 or
            DeiT III; decoders and classifiers beside it are ignored.
        image_size: `(height, width)` in pixels of the images that it is to take; default: as it was trained.
        trained_size: that of the images that it was trained on; default: square.
        heads: attention heads; default: what is usual for the width.

    Returns:
        the network in float32 without a classifier, and what is known of it.

    Raises:
        NoVitError: weights of something else, or of a transformer of another kind.
        SizeError: an image size that does not fit its patches, or none where it was not trained on square images.
        ValueError: a tensor is missing or of another shape than the others say.
    """
    for name, count in _DIMENSIONS.items():
        if name in tensors and (tensors[name].ndim != count or not tensors[name].numel()):
            raise NoVitError(f"no plain Vision Transformer: {name} is {shape(tensors[name])}")
    tensors = _timm_names(tensors)
    if missing := [name for name in _NEEDED if name not in tensors]:
        few = ", ".join(list(tensors)[:2])
        raise NoVitError(
            f"no plain Vision Transformer: {missing[0]} is not among its {len(tensors)} tensors ({few}, ...)"
        )
    if others := [
        name for name in tensors if name.startswith(_OTHER_KINDS) or name.endswith(".relative_position_index")
    ]:
        raise NoVitError(f"no plain Vision Transformer: it has {others[0]}")
    settings = _settings(tensors, heads)
    patch, prefix = settings["patch_size"], settings["class_token"] + settings["reg_tokens"]
    positions = tensors["pos_embed"]
    trained = None if trained_size is None else (trained_size[0] // patch, trained_size[1] // patch)
    wanted = None if image_size is None else (image_size[0] // patch, image_size[1] // patch)
    if image_size is not None:
        check_multiple(image_size, (patch, patch))
    # DeiT III and DINOv2 with registers give patches alone a position; without a class token there is nothing else.
    alone = settings["init_values"] is not None or settings["reg_tokens"] > 0 or not settings["class_token"]
    old, embedded = _grid(positions.shape[1], prefix, alone, trained, wanted)
    grid = wanted or old
    size = (grid[0] * patch, grid[1] * patch)
    tensors["pos_embed"] = resample_abs_pos_embed(
        positions.float(), list(grid), old_size=list(old), num_prefix_tokens=embedded
    )
    architecture = Architecture(PLAIN_VIT, settings | {"img_size": size, "no_embed_class": embedded == 0})
    with torch.device("meta"):  # no weights are drawn that are replaced at once
        network = architecture.build()
    found = fit(network, tensors)
    if old != grid:
        found = replace(found, notes=(f"position embeddings resampled from {words(old)} patches to {words(grid)}",))
    return PlainVit(network, architecture, size, found, is_sincos(positions, old))


def _timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What DINOv2 and DeiT III call otherwise, and DINOv2's `[CLS]` position, which timm adds to the token."""
    renamed = {}
    for name, tensor in tensors.items():
        own = re.sub(r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma", name)
        own = re.sub(r"^(blocks\.\d+\.mlp)\.w12\.", r"\1.fc1.", own)
        renamed[re.sub(r"^(blocks\.\d+\.mlp)\.w3\.", r"\1.fc2.", own)] = tensor
    if {"register_tokens", "cls_token", "pos_embed"} <= renamed.keys():
        renamed["reg_token"] = renamed.pop("register_tokens")
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    return renamed


def _settings(tensors: Mapping[str, Tensor], heads: int | None) -> dict[str, Any]:
    """Arguments of timm's `VisionTransformer`, as the shapes say them."""
    kernel, positions = tensors["patch_embed.proj.weight"], tensors["pos_embed"]
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise NoVitError(f"no plain Vision Transformer: its patches are {tuple(kernel.shape[2:])}")
    width, channels, patch, _ = kernel.shape
    if positions.ndim != 3 or positions.shape[2] != width:
        raise NoVitError(f"no plain Vision Transformer: pos_embed is {tuple(positions.shape)} for a width of {width}")
    heads = heads or _HEADS.get(width, 0 if width % 64 else width // 64)
    if heads < 1 or width % heads:
        raise NoVitError(f"how many heads a transformer of width {width} has cannot be seen in its weights")
    hidden, gated = tensors["blocks.0.mlp.fc1.weight"].shape[0], False
    if "blocks.0.mlp.fc2.weight" in tensors:
        gated = hidden == 2 * tensors["blocks.0.mlp.fc2.weight"].shape[1]
    return {
        "embed_dim": width,
        "in_chans": channels,
        "patch_size": patch,
        "depth": len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
        "num_heads": heads,
        # timm rounds down what it multiplies: the half keeps it from the number below.
        "mlp_ratio": hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "qk_norm": "blocks.0.attn.q_norm.weight" in tensors,
        "init_values": 1.0 if "blocks.0.ls1.gamma" in tensors else None,
        "class_token": "cls_token" in tensors,
        "reg_tokens": tensors["reg_token"].shape[1] if "reg_token" in tensors else 0,
        "final_norm": "norm.weight" in tensors,
        "gated": gated,
    }


def _grid(
    tokens: int, prefix: int, alone: bool, trained: tuple[int, int] | None, wanted: tuple[int, int] | None
) -> tuple[tuple[int, int], int]:
    """The grid of a position embedding of so many tokens, and how many of them stand before the patches.

    It is the grid that was trained, where that is known and fits; a square; the one that is wanted; or one of the
    latter's aspect.

    Args:
        tokens: positions, in all.
        prefix: tokens of the network before its patches; none of them or all have a position.
        alone: the network is of a kind in which patches alone may have one. Others have it too, such as FlexiViT; but
            the 25 positions of 5 x 5 patches could be those of 4 x 6 and `[CLS]`, which only a known size tells apart.
        trained, wanted: `(rows, columns)`.

    Raises:
        SizeError: it is none of them.
    """

    def square(patches: int) -> tuple[int, int]:
        return math.isqrt(patches), math.isqrt(patches)

    def same_aspect(patches: int) -> tuple[int, int] | None:
        if wanted is None:
            return None
        rows = max(1, round(math.sqrt(patches * wanted[0] / wanted[1])))
        return rows, patches // rows

    guesses = ((lambda _: trained, True), (square, alone), (lambda _: wanted, True), (same_aspect, alone))
    for guess, without in guesses:
        for before in dict.fromkeys((prefix, 0) if without else (prefix,)):
            grid = guess(max(0, tokens - before))
            if grid is not None and grid[0] * grid[1] == tokens - before > 0:
                return grid, before
    beside = " beside [CLS]" if prefix else ""
    what = f"its {tokens} position embeddings are no square of patches{beside}"
    raise SizeError(f"{what}: say for which size it was trained")
