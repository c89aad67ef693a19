"""transformers: a folder that `ViTModel.from_pretrained` and `AutoImageProcessor.from_pretrained` open."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer

from perceptual_mae.errors import UsageError
from perceptual_mae.export import vit_mae
from perceptual_mae.export.check import Check, compare, fixed_images
from perceptual_mae.export.hf_names import blocks, embeddings, every_name_fits, last_norm
from perceptual_mae.export.libraries import quietly
from perceptual_mae.export.source import Source

WEIGHTS, CONFIG, PIXELS = "model.safetensors", "config.json", "preprocessor_config.json"
TOLERANCE = 1e-5

_BICUBIC = 3
"""Pillow's number."""
_NEEDED: dict[str, tuple[Any, str]] = {
    "qk_norm": (False, "norms of queries and keys"),
    "init_values": (None, "layer scale"),
    "class_token": (True, "no class token"),
    "reg_tokens": (0, "register tokens"),
    "no_embed_class": (False, "a class token without a position"),
    "final_norm": (True, "no last norm"),
}
"""Options of our plain transformers that `ViTModel` has one value of, and what another one means."""


def refuse(source: Source) -> None:
    """Say why `ViTModel` cannot be this encoder.

    Raises:
        UsageError: it cannot.
    """
    options = source.architecture.options
    why = next((words for name, (value, words) in _NEEDED.items() if options.get(name, value) != value), None)
    if source.plain_vit is None:
        why = f"it is {source.architecture.name}, no plain Vision Transformer"
    elif options.get("gated"):
        why = "it has a SwiGLU in each block"
    elif why:
        why = f"it has {why}"
    if why:
        raise UsageError(f"--to transformers: its ViTModel cannot be {source.encoder.name}: {why}; try --to timm")


def vit_config(source: Source) -> dict[str, Any]:
    """`config.json` of `ViTModel`."""
    network = _network(source)
    block = network.blocks[0]
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": network.embed_dim,
        "num_hidden_layers": len(network.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": network.norm.eps,
        "image_size": side(source.encoder.image_size),
        "patch_size": source.encoder.patch_size,
        "num_channels": source.encoder.in_channels,
        "qkv_bias": block.attn.qkv.bias is not None,
        # See `vit_weights`: what pools is the identity.
        "pooler_act": "linear",
        "pooler_output_size": network.embed_dim,
        "dtype": "float32",
    }


def vit_weights(source: Source) -> dict[str, torch.Tensor]:
    """`model.safetensors` of `ViTModel`.

    It wants a layer behind `[CLS]`, which masked autoencoders have not: the identity leaves it as it is. Without one,
    transformers would draw weights at random, and `pooler_output` would be noise.
    """
    state, width = source.state, source.encoder.embed_dim
    pooler = {"pooler.dense.weight": torch.eye(width), "pooler.dense.bias": torch.zeros(width)}
    return embeddings(state) | blocks(state, "blocks", "encoder.layer") | last_norm(state) | pooler


def pixels_config(source: Source) -> dict[str, Any] | None:
    """`preprocessor_config.json`; None where transformers knows no images of so many channels."""
    encoder = source.encoder
    if encoder.in_channels not in (1, 3, 4):
        return None
    height, width = encoder.image_size
    size = {"height": height, "width": width}
    square = height == width
    config = {
        "image_processor_type": "BitImageProcessor" if square else "ViTImageProcessor",
        "do_convert_rgb": encoder.in_channels == 3,
        "do_resize": True,
        # The central square, as we look at images. Of another aspect no processor cuts one: the whole is squeezed.
        "size": {"shortest_edge": height} if square else size,
        "resample": _BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": source.pixels[0],
        "image_std": source.pixels[1],
    }
    return config | ({"do_center_crop": True, "crop_size": size} if square else {})


def write(source: Source, folder: Path) -> None:
    """Fill a folder; where the run's decoder is MAE's, with a folder `vit-mae` in it."""
    save_file(vit_weights(source), folder / WEIGHTS, {"format": "pt"})
    put_json(folder / CONFIG, vit_config(source))
    pixels = pixels_config(source)
    if pixels is not None:
        put_json(folder / PIXELS, pixels)
    if vit_mae.why_not(source) is None:
        inner = folder / vit_mae.FOLDER
        inner.mkdir()
        save_file(vit_mae.weights(source), inner / WEIGHTS, {"format": "pt"})
        put_json(inner / CONFIG, vit_mae.config(source, vit_config(source)))
        if pixels is not None:
            put_json(inner / PIXELS, pixels)


@torch.no_grad()
def check(source: Source, folder: Path) -> list[Check]:
    """Open the folder with transformers."""
    from transformers import AutoImageProcessor, ViTModel

    encoder = source.encoder
    images = fixed_images(2, encoder.in_channels, encoder.image_size)
    with loading():
        model, info = ViTModel.from_pretrained(folder, output_loading_info=True)
    every_name_fits(info)
    output = model.eval()((images - encoder.mean) / encoder.std)
    ours = encoder(images)
    checks = [
        compare("ViTModel", output.last_hidden_state, ours, TOLERANCE),
        compare("its pooler_output and [CLS]", output.pooler_output, ours[:, 0], TOLERANCE),
    ]
    if (folder / PIXELS).is_file():
        processor = AutoImageProcessor.from_pretrained(folder)
        bytes_ = (images * 255).round().to(torch.uint8)
        theirs = processor(list(bytes_), return_tensors="pt", input_data_format="channels_first")["pixel_values"]
        checks.append(compare("its pixels", theirs, (bytes_ / 255 - encoder.mean) / encoder.std, TOLERANCE))
    if (folder / vit_mae.FOLDER).is_dir():
        checks += vit_mae.check(source, folder / vit_mae.FOLDER)
    return checks


def loading() -> Any:
    """Within, transformers shows no progress bar and says nothing."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    return quietly()


def side(size: tuple[int, int]) -> int | list[int]:
    """An image size as transformers' settings have it."""
    return size[0] if size[0] == size[1] else list(size)


def put_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write settings."""
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _network(source: Source) -> VisionTransformer:
    network = source.plain_vit
    assert network is not None  # `refuse` comes first
    return network
