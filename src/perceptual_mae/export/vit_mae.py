"""transformers' `ViTMAEForPreTraining`: encoder and decoder of a run, so that it can draw reconstructions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perceptual_mae.export.check import Check, compare, fixed_images
from perceptual_mae.export.hf_names import blocks, embeddings, every_name_fits, last_norm
from perceptual_mae.export.libraries import quietly
from perceptual_mae.export.source import Source
from perceptual_mae.models import MaskedAutoencoder

FOLDER = "vit-mae"
"""In the folder of the `transformers` target."""
TOLERANCE = 1e-5


def why_not(source: Source) -> str | None:
    """Why `ViTMAEForPreTraining` cannot be this autoencoder, in words; None: it can."""
    model = source.autoencoder
    if model is None:
        return "there is no decoder: only a run of `pmae pretrain` has one"
    if model.skip_blocks:
        return "the decoder is MSG-MAE's, which is given earlier maps of the encoder; ViTMAE has no place for them"
    if model.image_size[0] != model.image_size[1]:
        return "the images are not square, and ViTMAE reconstructs squares alone"
    if model.image_size != source.encoder.image_size:
        return "--image-size is another one than the decoder was trained for"
    return None


def config(source: Source, encoder: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json`.

    Args:
        source: a run.
        encoder: settings of the encoder, as `ViTModel` has them.
    """
    model = _model(source)
    assert source.run is not None
    block: Any = model.decoder_blocks[0]
    settings = {key: value for key, value in encoder.items() if not key.startswith("pooler_")}
    return settings | {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "decoder_hidden_size": model.mask_token.shape[-1],
        "decoder_num_hidden_layers": len(model.decoder_blocks),
        "decoder_num_attention_heads": block.attn.num_heads,
        "decoder_intermediate_size": block.mlp.fc1.out_features,
        "mask_ratio": source.run.config.mask_ratio,
        "norm_pix_loss": model.norm_pix_loss,
    }


def weights(source: Source) -> dict[str, Tensor]:
    """`model.safetensors`. Heads that draw at other scales than the finest have no place in it."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in _model(source).state_dict().items()}
    encoder = embeddings(state) | blocks(state, "blocks", "encoder.layer") | last_norm(state)
    decoder = ("decoder_embed", "decoder_norm", "decoder_pred")
    return (
        {f"vit.{name}": tensor for name, tensor in encoder.items()}
        | blocks(state, "decoder_blocks", "decoder.decoder_layers")
        | {f"decoder.{name}": tensor for name, tensor in state.items() if name.startswith(decoder)}
        | {"decoder.mask_token": state["mask_token"], "decoder.decoder_pos_embed": state["decoder_pos_embed"]}
    )


@torch.no_grad()
def check(source: Source, folder: Path) -> list[Check]:
    """Open the folder with transformers; compare features of whole images and what is drawn of masked ones.

    Raises:
        PmaeError: weights are missing or of another shape.
    """
    from transformers import ViTMAEForPreTraining

    ours = _model(source)
    images = fixed_images(2, ours.in_channels, ours.image_size)
    pixels = (images - ours.mean) / ours.std
    with quietly():
        theirs, info = ViTMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    every_name_fits(info)
    theirs.eval()
    ratio = theirs.config.mask_ratio
    noise = torch.rand(2, ours.num_patches, generator=torch.Generator().manual_seed(1))
    drawn = theirs(pixels, noise=noise)
    expected = ours(images, mask_ratio=ratio, noise=noise)
    theirs.config.mask_ratio = 0.0
    in_order = torch.arange(ours.num_patches, dtype=torch.float32).expand(2, -1)
    whole = theirs.vit(pixels, noise=in_order).last_hidden_state
    return [
        compare("ViTMAE's encoder", whole, ours.encode(images), TOLERANCE),
        compare("its mask", drawn.mask, expected.mask.to(drawn.mask.dtype), 0.0),
        compare("what it draws", drawn.logits, expected.patches, TOLERANCE),
    ]


def _model(source: Source) -> MaskedAutoencoder:
    assert source.autoencoder is not None  # `why_not` comes first
    return source.autoencoder
