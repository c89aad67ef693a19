"""timm: a folder that `timm.create_model` opens, in the format of the Hugging Face hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from perceptual_mae import __version__
from perceptual_mae.errors import PmaeError
from perceptual_mae.export.check import Check, compare, fixed_images
from perceptual_mae.export.source import Source
from perceptual_mae.models.architecture import PLAIN_VIT, Architecture
from perceptual_mae.weight_files import encoder_metadata

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
MARK = "exported_by"
"""Only files that an export wrote have it among their metadata."""
TOLERANCE = 1e-5

_NAMES: dict[str, dict[str, Any]] = {
    f"vit_{size}_patch{patch}_224": {"embed_dim": width, "depth": depth, "num_heads": heads, "patch_size": patch}
    for size, patch, width, depth, heads in (
        ("base", 16, 768, 12, 12),
        ("base", 8, 768, 12, 12),
        ("large", 16, 1024, 24, 16),
        ("large", 14, 1024, 24, 16),
        ("huge", 14, 1280, 32, 16),
        ("small", 16, 384, 12, 6),
        ("small", 8, 384, 12, 6),
        ("tiny", 16, 192, 12, 3),
    )
}
"""Plain transformers that timm has a name for, and what each of them is."""
_GATED = "vit_giant_patch14_dinov2"
"""timm's name for a SwiGLU in each block; all its sizes are given."""
_DEFAULTS: dict[str, Any] = {
    "img_size": (224, 224),
    "in_chans": 3,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "qk_norm": False,
    "init_values": None,
    "class_token": True,
    "reg_tokens": 0,
    "no_embed_class": False,
    "final_norm": True,
}
"""What timm's `VisionTransformer` is where nothing else is said."""


def timm_name(architecture: Architecture) -> tuple[str, dict[str, Any]]:
    """timm's name for a network, and the arguments in which ours differs from what timm means by it.

    Returns:
        the name, and plain values for `timm.create_model(name, num_classes=0, **arguments)`.
    """
    if architecture.name != PLAIN_VIT:
        return architecture.name.partition(".")[0], dict(architecture.options)
    ours = dict(architecture.options)
    if ours.pop("gated", False):
        name, theirs = _GATED, {}
    else:
        name = min(_NAMES, key=lambda one: sum(ours[key] != value for key, value in _NAMES[one].items()))
        theirs = _DEFAULTS | _NAMES[name]
    arguments = {key: value for key, value in ours.items() if key not in theirs or theirs[key] != value}
    if not ours["class_token"]:
        # timm would move the norm behind the pooling, and `forward_features` would go without it.
        arguments |= {"global_pool": "avg", "fc_norm": False}
    return name, {key: value for key, value in arguments.items() if value is not None}


def timm_config(source: Source) -> dict[str, Any]:
    """`config.json` as timm writes and reads it."""
    encoder, (name, arguments) = source.encoder, timm_name(source.architecture)
    known: Mapping[str, Any] = timm.get_pretrained_cfg(name).to_dict() if source.plain_vit is None else {}
    colours = encoder.in_channels == 3
    pretrained = {
        "tag": "pmae",
        "custom_load": False,
        "input_size": [encoder.in_channels, *encoder.image_size],
        "fixed_input_size": bool(known.get("fixed_input_size", True)),
        "interpolation": "bicubic",
        "crop_pct": 1.0,  # as this package looks at images: a central crop as large as possible
        "crop_mode": "center",
        "mean": source.pixels[0],
        "std": source.pixels[1],
        "num_classes": 0,
        # timm would turn weights for colours into weights for other channels; these are for them already.
        "first_conv": known.get("first_conv", "patch_embed.proj") if colours else None,
        "classifier": known.get("classifier", "head"),
        "pool_size": known.get("pool_size"),
    }
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": encoder.network.num_features,
        "model_args": {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()},
        "pretrained_cfg": pretrained,
    }


def metadata(source: Source) -> dict[str, str]:
    """What `load_encoder` reads in a safetensors file beside the tensors."""
    heads = None if source.plain_vit is None else source.plain_vit.blocks[0].attn.num_heads
    known = encoder_metadata(source.encoder.image_size, *source.pixels, heads)
    return {"format": "pt", MARK: f"perceptual_mae {__version__}"} | known


def write(source: Source, folder: Path) -> None:
    """Fill a folder."""
    save_file(source.state, folder / WEIGHTS, metadata(source))
    (folder / CONFIG).write_text(json.dumps(timm_config(source), indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def check(source: Source, folder: Path) -> list[Check]:
    """Open the folder and the file in it with timm, each the way that it documents.

    Raises:
        PmaeError: timm cannot build it.
    """
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    encoder, arguments = source.encoder, {key: _tuple(value) for key, value in config["model_args"].items()}
    images = fixed_images(2, encoder.in_channels, encoder.image_size)
    pixels = ((images - encoder.mean) / encoder.std).contiguous(memory_format=encoder.layout)
    ours = encoder.network.forward_features(pixels)
    ways = {
        "the folder in timm": lambda: timm.create_model(f"local-dir:{folder}", pretrained=True),
        "the file in timm": lambda: timm.create_model(
            config["architecture"], checkpoint_path=str(folder / WEIGHTS), num_classes=0, **arguments
        ),
    }
    checks = []
    for what, build in ways.items():
        try:
            with torch.random.fork_rng(devices=[]):
                network = build().eval().to(memory_format=encoder.layout)
        except Exception as error:  # each model has its own way to say so
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise PmaeError(f"timm has no name for this network: {reason[:200]}") from error
        checks.append(compare(what, network.forward_features(pixels), ours, TOLERANCE))
    return checks


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
