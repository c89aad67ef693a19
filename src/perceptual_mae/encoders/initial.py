"""Weights to start from: somebody's encoder, and its decoder where there is one, into a model that is to be trained."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from perceptual_mae import weight_files
from perceptual_mae.encoders.open import open_whole
from perceptual_mae.errors import UsageError, said_of
from perceptual_mae.models import SIZES, MaskedAutoencoder
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.models.weights import unwrap
from perceptual_mae.paths import user_path

_FIXED = ("decoder_pos_embed", "mean", "std")
"""Of a decoder's state: what is no weight, and belongs to the size of the model's own images."""


def start_from(model: MaskedAutoencoder, spec: str, own_pixels: bool = False) -> str:
    """Fill a model with published weights, in place.

    All of the encoder is filled, position embeddings of another grid resampled; all of the decoder where the weights
    have one of the same sizes, else none of it.

    Args:
        model: on the CPU, with its initial weights.
        spec: an encoder argument as in `load_encoder`: a run, a file, `timm:NAME`, `hub:USER/NAME`.
        own_pixels: keep the model's mean and std; else those that the weights were trained with are taken.

    Returns:
        what was loaded, for the user.

    Raises:
        UsageError: no such encoder, or one of other sizes; the message names the settings that fit.
        PmaeError: weights that cannot be read or had.
    """
    with said_of("--init", usual="ENCODER"):
        opened = open_whole(spec, model.image_size)
    encoder = opened.encoder
    _check(model, encoder, spec)
    given, decoder = encoder.network.state_dict(), _decoder_of(spec, opened.autoencoder, model)
    model.load_state_dict({name: given[name] for name in model.encoder_state_dict()} | decoder, strict=False)
    if not own_pixels:
        model.mean.copy_(encoder.mean)
        model.std.copy_(encoder.std)
    return f"starting from {spec}: {opened.matched}; {'the decoder too' if decoder else 'the decoder starts anew'}"


def _check(model: MaskedAutoencoder, encoder: Encoder, spec: str) -> None:
    """Whether an encoder is one of the model's: the same tensors, which mean the same.

    Raises:
        UsageError: it is not.
    """
    own = {name: tensor.shape for name, tensor in model.encoder_state_dict().items()}
    given = {
        name: tensor.shape for name, tensor in encoder.network.state_dict().items() if name.split(".")[0] != "head"
    }
    if not encoder.depth or own.keys().isdisjoint(given):
        raise UsageError(f"--init {spec}: {encoder.name} is no Vision Transformer")
    first: Any = model.blocks[0]
    sizes = (model.embed_dim, len(model.blocks), first.attn.num_heads, model.patch_size, model.in_channels)
    heads = encoder.network.blocks[0].attn.num_heads
    others = (encoder.embed_dim, encoder.depth, heads, encoder.patch_size, encoder.in_channels)
    if sizes != others:
        raise UsageError(
            f"--init {spec}: its encoder is {_words(*others)}, the run's {_words(*sizes)}; {_advice(*others)}"
        )
    if strangers := sorted(given.keys() - own.keys()):
        raise UsageError(
            f"--init {spec}: it has {strangers[0]}, which the encoder of a masked autoencoder does not have"
        )
    if wrong := sorted(name for name, shape in own.items() if given.get(name) != shape):
        raise UsageError(f"--init {spec}: its {wrong[0]} is missing or of another shape than the run's")


def _words(width: int, depth: int, heads: int, patch: int, channels: int) -> str:
    return f"vit {width}/{depth}/{heads} with patches of {patch} and {channels} channels"


def _advice(width: int, depth: int, heads: int, patch: int, channels: int) -> str:
    named = [n for n, size in SIZES.items() if (size.embed_dim, size.depth, size.num_heads) == (width, depth, heads)]
    if not named:
        return f"no --model is of its size: there are {', '.join(SIZES)}"
    return f"give --model {named[0]} --patch-size {patch}" + (f" --pixels.channels {channels}" if channels != 3 else "")


def _decoder_of(spec: str, autoencoder: MaskedAutoencoder | None, model: MaskedAutoencoder) -> dict[str, Tensor]:
    """The weights of a decoder under the model's names; empty where there is none of its sizes.

    Args:
        spec: what was opened.
        autoencoder: its whole model, if it is a run.
        model: to start.
    """
    path = user_path(spec)
    encoder = model.encoder_state_dict()
    own = {n: t.shape for n, t in model.state_dict().items() if n not in encoder and n not in _FIXED}
    tensors: Mapping[str, Tensor] = {}
    if autoencoder is not None:
        tensors = autoencoder.state_dict()
    elif path.is_file():
        tensors = unwrap(weight_files.read(path).state).tensors
    found = {name: tensors[name] for name, shape in own.items() if name in tensors and tensors[name].shape == shape}
    return found if len(found) == len(own) else {}
