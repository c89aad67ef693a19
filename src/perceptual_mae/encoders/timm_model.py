"""Models that timm builds, with timm's own weights, those of a file, or those of a repository on the hub."""

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from perceptual_mae.encoders.fit import Fit, SizeError, check_multiple, fit, no_random_numbers, words
from perceptual_mae.encoders.stated import Stated
from perceptual_mae.errors import PmaeError, UsageError, nearest
from perceptual_mae.models.architecture import Architecture
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.models.positions import is_sincos

HUB = "https://huggingface.co/"


def published(name: str, image_size: tuple[int, int] | None) -> tuple[Encoder, str]:
    """A model with timm's own weights, from the Hugging Face hub or its cache.

    Raises:
        UsageError: timm has no such model.
        SizeError: it does not take images of this size.
        PmaeError: the weights cannot be had; it says which file to bring.
    """
    options, config = _plan(name, image_size)
    page = f"{HUB}{config['hf_hub_id']}" if config.get("hf_hub_id") else None
    try:
        network = _create(name, pretrained=True, **options)
    except Exception as error:  # of the network, of the hub's client, of timm: whatever it is, a file helps
        source = f"take model.safetensors from {page}" if page else "timm knows of none; train some"
        reason = f"the weights of {name} cannot be had ({type(error).__name__})"
        raise PmaeError(f"{reason}; {source} and give timm:{name}:FILE") from error
    encoder = _encoder(network, name, image_size, Architecture(name, options))
    return encoder, f"{name}, {words(encoder.image_size)}: timm's weights" + (f", {page}" if page else "")


def from_tensors(
    name: str, tensors: Mapping[str, Tensor], image_size: tuple[int, int] | None, known: Stated
) -> tuple[Encoder, str]:
    """A model with the weights of a file.

    Args:
        name: as timm knows it.
        tensors: the weights of the whole model, under timm's names or those of its publishers that timm knows.
        image_size: `(height, width)` in pixels; default: the model's own.
        known: what the file says of pixels; where it does not, they are the model's own.

    Raises:
        UsageError: timm has no such model.
        SizeError: it does not take images of this size.
        ValueError: the weights are of another model.
    """
    options, _ = _plan(name, image_size)
    return _filled(name, name, tensors, options, image_size, Architecture(name, options), known)


def from_hub(repository: str, image_size: tuple[int, int] | None) -> tuple[Encoder, str]:
    """A timm model that somebody has put on the Hugging Face hub, from there or from its cache.

    Raises:
        SizeError: it does not take images of this size.
        PmaeError: it cannot be had, or is no timm model; it says which file to bring.
        ValueError: the weights are of another model than the repository says.
    """
    name = f"hf-hub:{repository}"
    try:
        options, _ = _plan(name, image_size, known=True)
        config, architecture, arguments = timm.models.load_model_config_from_hf(repository)
        tensors = timm.models.load_state_dict_from_hf(repository)
    except SizeError:
        raise
    except Exception as error:  # see above
        reason = f"no timm model that can be had ({type(error).__name__})"
        form = f"take its weights from {HUB}{repository} and give the file, or timm:NAME:FILE with timm's name for it"
        raise PmaeError(f"{reason}; {form}") from error
    built = _architecture(architecture, config, {**(arguments or {}), **options})
    return _filled(name, repository, tensors, options, image_size, built)


def _filled(
    name: str,
    title: str,
    tensors: Mapping[str, Tensor],
    options: Mapping[str, Any],
    image_size: tuple[int, int] | None,
    architecture: Architecture,
    known: Stated | None = None,
) -> tuple[Encoder, str]:
    network = _create(name, **options)
    with torch.device("meta"):
        whole = timm.create_model(name, pretrained=False, **options).state_dict()
    found: Fit = fit(network, _renamed(tensors, network), heads=whole)
    encoder = _encoder(network, title, image_size, architecture, known)
    return encoder, f"{title}, {words(encoder.image_size)}: {found}"


def _create(name: str, pretrained: bool = False, **options: Any) -> Any:
    with no_random_numbers():
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)


def _plan(name: str, image_size: tuple[int, int] | None, known: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to tell timm so that a model takes images of a size, and what timm says of the model.

    Nothing is computed: the model is tried on the meta device.
    """
    if not known and not timm.is_model(name):
        raise UsageError(f"timm has no model {name}{nearest(name, timm.list_models())}")
    try:
        config = dict(_on_meta(name).pretrained_cfg)
    except RuntimeError as error:  # weights that there are not, such as resnet50.mine
        if known:
            raise
        family = name.partition(".")[0]
        tags = timm.list_models(f"{family}.*", pretrained=True)
        raise UsageError(
            f"{_line(error).rstrip('.')}{nearest(name, tags) or '; there are ' + ', '.join(tags[:8])}"
        ) from error
    if image_size is None:
        return {}, config
    try:
        network = _on_meta(name, img_size=image_size)
    except TypeError:  # convolutional networks take images of any size, and do not know the word
        return {}, config
    except Exception as error:  # each model has its own way to say so
        raise SizeError(f"{name} does not take images of {words(image_size)} ({_line(error)})") from error
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if patch is not None:
        check_multiple(image_size, (patch, patch) if isinstance(patch, int) else patch)
    return {"img_size": image_size}, config


def _on_meta(name: str, **options: Any) -> Any:
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False, num_classes=0, **options)


def _renamed(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Tensors under the names and in the shapes that timm's network has, of those that its publishers gave them."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(tensors)
    kernel, own = "patch_embed.proj.weight", network.state_dict()
    if kernel in tensors and kernel in own and tensors[kernel].shape[2:] != own[kernel].shape[2:]:
        return dict(tensors)  # timm would resample patches of another size without a word
    options = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(convert).parameters else {}
    try:
        return dict(convert(dict(tensors), network, **options))
    except Exception:  # whatever it met in a file of something else: what does not fit is named when it is loaded
        return dict(tensors)


def _architecture(name: str, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> Architecture:
    """How to build a network of the hub again without the hub.

    Args:
        name: timm's, as its repository gives it.
        config: what the repository says of its pixels; what timm does with that when it builds the network, no name
            says.
        arguments: those of its repository and those of the user, plain values.
    """
    channels, *size = config.get("input_size") or (3,)
    implied: dict[str, Any] = {"in_chans": channels} if channels != 3 else {}
    if config.get("fixed_input_size") and size:
        implied["img_size"] = tuple(size)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    return Architecture(name, {key: value for key, value in (implied | given).items() if key != "num_classes"})


def _encoder(
    network: nn.Module,
    title: str,
    image_size: tuple[int, int] | None,
    architecture: Architecture,
    known: Stated | None = None,
) -> Encoder:
    config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    size = image_size or tuple(config["input_size"][1:])
    mean, std = (known.pixels(len(config["mean"])) if known else None) or (config["mean"], config["std"])
    try:
        encoder = Encoder(network, title, size, mean, std, architecture)
    except Exception as error:  # each model has its own way to say so
        if image_size is not None:
            raise SizeError(f"{title} does not take images of {words(image_size)} ({_line(error)})") from error
        raise PmaeError(f"{title} gives no tokens and no map of features ({_line(error)})") from error
    positions = getattr(network, "pos_embed", None)
    if isinstance(positions, nn.Parameter):  # timm has resampled them already, from those of its own size
        rows, columns = (side // encoder.patch_size for side in config["input_size"][1:])
        encoder.fixed_positions = is_sincos(positions, encoder.grid, (rows, columns))
    return encoder


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
