"""From what a user calls an encoder to one: the ENCODER argument of every command."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch

from perceptual_mae import weight_files
from perceptual_mae.data import MAX_PIXELS
from perceptual_mae.encoders import timm_model
from perceptual_mae.encoders.fit import Side, SizeError, check_multiple, no_random_numbers, pair
from perceptual_mae.encoders.stated import PIXELS, limit_of, stated
from perceptual_mae.encoders.vit import NoVitError, PlainVit, vit
from perceptual_mae.errors import PmaeError, UsageError, nearest
from perceptual_mae.models import SIZES, MaskedAutoencoder
from perceptual_mae.models.encoder import Encoder, RawPixels
from perceptual_mae.models.mae import IMAGENET_MEAN, IMAGENET_STD, default_pixels
from perceptual_mae.models.weights import unwrap
from perceptual_mae.paths import user_path
from perceptual_mae.pretraining.build import trained_model
from perceptual_mae.pretraining.folder import RunFolder, is_run

FORMS = "a run folder, a weights file, timm:NAME, timm:NAME:FILE, hub:USER/NAME, random:SIZE/PATCH or pixels:SIDE"
_SEED = 0
"""Of random weights: a floor that is the same for everybody."""
_Named = tuple[Encoder, str]
_Size = tuple[int, int] | None


@dataclass(frozen=True)
class Opened:
    """An encoder, and what else is known of it.

    Attributes:
        encoder: in eval mode, on its device.
        matched: which of its weights came from where, in words.
        run: the run of `pmae pretrain` that it is, if it is one.
        autoencoder: the whole model of that run, on the CPU; of the same checkpoint as the encoder.
        step: steps that the run had trained for.
        max_pixels: larger images are skipped unread: those that were never trained on.
    """

    encoder: Encoder
    matched: str
    run: RunFolder | None = None
    autoencoder: MaskedAutoencoder | None = None
    step: int | None = None
    max_pixels: int = MAX_PIXELS


def load_encoder(spec: str | Path, image_size: Side | None = None, device: str | torch.device = "cpu") -> Encoder:
    """A trained encoder: a module in eval mode, from images in [0, 1] to tokens.

    `encoder(images)` takes `(B, C, H, W)` and gives `(B, 1 + N, D)`, `[CLS]` first; see `Encoder` for what it knows of
    itself (`mean`, `std`, `embed_dim`, `patch_size`, `image_size`, `grid`, `depth`).

    Args:
        spec: a run folder (its newest checkpoint); a weights file (ours, public MAE, DINO, DINOv2, MoCo v3 or plain
            timm, as safetensors or as `torch.save` writes them); `timm:NAME` with timm's weights from the hub;
            `timm:NAME:FILE`; `hub:USER/NAME`, a timm model on the Hugging Face hub; or `random:SIZE`, also
            `random:SIZE/PATCH`, one of our sizes with initial weights; or `pixels:SIDE`, no network but the image
            itself, made smaller.
        image_size: side of the images in pixels, or `(height, width)`; default: what the encoder was trained with.
            Position embeddings of another grid are resampled.
        device: where it computes.

    Raises:
        UsageError: no such encoder, or an image size that it does not take.
        PmaeError: weights that cannot be read or had, or that do not all match.
    """
    return open_encoder(spec, image_size, device)[0]


def open_encoder(spec: str | Path, image_size: Side | None = None, device: str | torch.device = "cpu") -> _Named:
    """The same, and which of its weights matched, in words.

    Raises:
        UsageError, PmaeError: see `load_encoder`; one line, which names the encoder or the image size.
    """
    opened = open_whole(spec, image_size, device)
    return opened.encoder, opened.matched


def open_whole(spec: str | Path, image_size: Side | None = None, device: str | torch.device = "cpu") -> Opened:
    """The same, and the run that it is, with its decoder: from one checkpoint, whatever a run in training writes.

    Raises:
        UsageError, PmaeError: see `open_encoder`.
    """
    if not str(spec):
        raise UsageError(f"ENCODER is missing; give {FORMS}")
    kind, _, rest = str(spec).partition(":")
    try:
        size = None if image_size is None else pair(image_size)
        known = kind in _KINDS and rest
        opened = Opened(*_KINDS[kind](rest, size)) if known else _from_path(user_path(spec), size)
    except SizeError as error:
        given = "--image-size" if image_size is None else f"--image-size {_typed(image_size)}"
        raise UsageError(f"{given}: ENCODER {spec}: {error}") from error
    except PmaeError as error:
        raise type(error)(f"ENCODER {spec}: {str(error).removeprefix(f'{spec} ').removeprefix(f'{spec}/')}") from error
    except ValueError as error:
        raise PmaeError(f"ENCODER {spec}: {error}") from error
    except OSError as error:
        raise PmaeError(f"ENCODER {spec}: {error.strerror or error}") from error
    opened.encoder.to(device)
    return opened


# -- the forms ---------------------------------------------------------------------------------------------------------


def _from_path(path: Path, size: _Size) -> Opened:
    if is_run(path):
        return _from_run(path, size)
    if (path / "config.yaml").is_file():
        return _from_finetuned(path, size)
    if path.is_dir():
        raise UsageError(f"this folder holds no run (there is no config.yaml in it); give {FORMS}")
    if path.is_file():
        return _from_file(path, size)
    meant = f"; did you mean timm:{path}?" if timm.is_model(str(path)) else ""
    if path.parent.is_dir() and not meant:
        meant = nearest(path.name, (one.name for one in path.parent.iterdir()))
    raise UsageError(f"there is no such file or folder{meant or '; give ' + FORMS}")


def _from_run(path: Path, size: _Size) -> Opened:
    run = RunFolder.read(path)
    try:
        model, step = trained_model(run)
    except RuntimeError as error:
        raise PmaeError("its checkpoint is not of the model that its config.yaml describes") from error
    encoder, found = encoder_of(run, model, size)
    matched = f"{found}: step {step} of the run; {found.fit}"
    return Opened(encoder, matched, run, model, step, run.config.loader.max_pixels)


def encoder_of(run: RunFolder, model: MaskedAutoencoder, size: _Size = None) -> tuple[Encoder, PlainVit]:
    """The encoder in the model of a run, by itself, and what it was made of; `size`: default, the run's."""
    found = vit(model.encoder_state_dict(), size, model.image_size, SIZES[run.config.model].num_heads)
    pixels = (model.mean.flatten().tolist(), model.std.flatten().tolist())
    name, architecture = run.path.resolve().name, found.architecture
    # A run learns no positions, wherever it has them from.
    return Encoder(found.network, name, found.image_size, *pixels, architecture, fixed_positions=True), found


def _from_finetuned(path: Path, size: _Size) -> Opened:
    """Of a run of `pmae finetune`: the encoder of its best network."""
    file = path / "encoder.safetensors"
    if not file.is_file():
        raise PmaeError("this fine-tuned run holds no plain Vision Transformer, or none that was evaluated yet")
    opened = _from_file(file, size)
    opened.encoder.name = path.resolve().name
    return replace(opened, max_pixels=limit_of(path) or MAX_PIXELS)


def _from_file(path: Path, size: _Size) -> Opened:
    file = weight_files.read(path)
    found = unwrap(file.state)
    if not found.tensors:
        raise PmaeError("it holds no weights by name")
    tensors, known = dict(found.tensors), stated(path, file, found)
    for name in PIXELS:
        tensors.pop(name, None)
    try:
        # MoCo v3 is the only one that is published with heads of another width: its small one has twice as many.
        moco_small = "base_encoder." in found.prefix and tensors["patch_embed.proj.weight"].shape[0] == 384
        heads = 12 if moco_small and known.heads is None else known.heads
        opened = vit(tensors, size, known.image_size, heads)
    except NoVitError as error:
        raise PmaeError(f"{error}; if it is another model of timm's, give timm:NAME:{path}") from error
    channels = opened.network.patch_embed.proj.in_channels
    pixels = known.pixels(channels)
    mean, std = pixels or default_pixels(channels)
    whose = "" if pixels else f"; mean and std are {_usual(channels)}: the file does not say"
    name = "/".join(path.resolve().parts[-2:])
    fixed = opened.fixed_positions
    encoder = Encoder(opened.network, name, opened.image_size, mean, std, opened.architecture, fixed)
    place = f" (names under {found.prefix.removesuffix('.')})" if found.prefix else ""
    beside = f"; {len(found.others)} of the file are beside it ({found.others[0]}, ...)" if found.others else ""
    doubt = f"; {known.doubt}" if known.doubt else ""
    matched = f"{opened}: {opened.fit}{place}{beside}{whose}{doubt}"
    return Opened(encoder, matched, max_pixels=known.max_pixels or MAX_PIXELS)


def _from_timm(rest: str, size: _Size) -> _Named:
    name, _, file = rest.partition(":")
    if not file:
        return timm_model.published(name, size)
    path = user_path(file)
    if not path.is_file():
        near = nearest(path.name, (one.name for one in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise UsageError(f"there is no file {path}{near}")
    read = weight_files.read(path)
    found = unwrap(read.state)
    tensors = {own: tensor for own, tensor in found.tensors.items() if own not in PIXELS}
    return timm_model.from_tensors(name, tensors, size, stated(path, read, found))


def _from_random(rest: str, size: _Size) -> _Named:
    name, _, side = rest.partition("/")
    if name not in SIZES:
        raise UsageError(f"there is no such size; there are {', '.join(SIZES)}{nearest(name, SIZES)}")
    if "/" in rest and not re.fullmatch(r"[1-9]\d*", side):
        raise UsageError(f"the patch size is a number, such as random:{name}/8")
    patch, size = int(side or 16), size or (224, 224)
    check_multiple(size, (patch, patch))
    with no_random_numbers():
        torch.manual_seed(_SEED)
        model = MaskedAutoencoder.from_size(name, image_size=size, patch_size=patch)
    made = vit(model.encoder_state_dict(), size, size, SIZES[name].num_heads)
    pixels = (IMAGENET_MEAN, IMAGENET_STD)
    encoder = Encoder(made.network, f"random:{rest}", size, *pixels, made.architecture, made.fixed_positions)
    return encoder, f"{made}: random weights (seed {_SEED})"


def _from_pixels(rest: str, size: _Size) -> _Named:
    size = size or (224, 224)
    if not re.fullmatch(r"[1-9]\d*", rest) or int(rest) > min(size):
        raise UsageError(f"the side is a number of pixels up to {min(size)}, such as pixels:16")
    encoder = Encoder(RawPixels(int(rest)), f"pixels:{rest}", size, IMAGENET_MEAN, IMAGENET_STD)
    return encoder, f"the images themselves, {rest} x {rest} pixels of {size[0]} x {size[1]}"


_KINDS = {"timm": _from_timm, "hub": timm_model.from_hub, "random": _from_random, "pixels": _from_pixels}


def _usual(channels: int) -> str:
    """Whose mean and std those of `default_pixels` are."""
    return "ImageNet's" if channels == len(IMAGENET_MEAN) else "0.5 and 0.25"


def _typed(size: Side) -> str:
    """A size as the command line has it."""
    return str(size) if isinstance(size, int) else "x".join(map(str, size))
