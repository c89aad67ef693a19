"""Opening the fixed loss network that `--loss-network` names."""

from pathlib import Path
from typing import Literal

from perceptual_mae import dvae_file, weight_files
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.methods import METHODS
from perceptual_mae.models.fixed_network import FixedNetwork
from perceptual_mae.models.timm_features import ImageSizeError, TimmFeatures
from perceptual_mae.models.weights import unwrap
from perceptual_mae.paths import user_path

_FORMS = {
    "dvae": f"dvae:FILE: the encoder is published as {dvae_file.PUBLISHED_AT}; `pmae convert-dvae encoder.pkl "
    "dvae.safetensors` makes it usable",
    "timm": "timm:NAME, such as timm:resnet50.a1_in1k with timm's weights from the hub, or timm:NAME:FILE with a file",
}
"""What to write after `--loss-network`, by the kind of network that a method looks through."""


def open_loss_network(
    spec: str | None,
    wanted: Literal["dvae", "timm"],
    image_size: tuple[int, int],
    channels: int,
    size: int | tuple[int, int] | None = None,
) -> FixedNetwork:
    """The network that a method looks through, on the CPU, frozen, and not calibrated yet.

    Args:
        spec: `dvae:FILE`, `timm:NAME` or `timm:NAME:FILE`.
        wanted: the kind that the method has.
        image_size: `(height, width)` of the images, in pixels.
        channels: channels of the images.
        size: of the images that the network is shown: `(height, width)`, or the shorter side at the same aspect;
            None: as they are.

    Raises:
        UsageError: the argument or the images do not suit the method or the network.
        PmaeError: weights that cannot be read or cannot be had, or are of another network.
    """
    kind, _, rest = (spec or "").partition(":")
    if kind != wanted or not rest:
        methods = " and ".join(name for name, method in METHODS.items() if method.loss_network == wanted)
        given = "" if spec is None else f"--loss-network {spec}: "
        raise UsageError(f"{given}--method {methods} needs --loss-network {_FORMS[wanted]}")
    if isinstance(size, int):
        size = _shorter_side(image_size, size)
    opened = {"dvae": _open_dvae, "timm": _open_timm}[wanted]
    return opened(rest, f"--loss-network {spec}", channels, size or image_size)


def _open_dvae(rest: str, flag: str, channels: int, size: tuple[int, int]) -> FixedNetwork:
    path = _file(rest, flag)
    try:
        encoder = dvae_file.open_encoder(path)
    except OSError as error:
        raise PmaeError(f"{flag}: {error.strerror or error}") from error
    except PmaeError as error:
        raise PmaeError(f"--loss-network dvae:{error}") from error
    _check_channels(flag, encoder.input_channels, channels)
    if min(size) < encoder.reduction:
        small = f"{size[0]} x {size[1]} pixels are too small for it"
        raise UsageError(f"{flag}: {small}; give a --loss-network-size of at least {encoder.reduction}")
    return FixedNetwork(encoder.features, size)


def _open_timm(rest: str, flag: str, channels: int, size: tuple[int, int]) -> FixedNetwork:
    name, _, file = rest.partition(":")
    _check_channels(flag, 3, channels)
    try:
        network = TimmFeatures(name, size)
    except ImageSizeError as error:
        raise UsageError(f"{flag}: {error}; choose another --loss-network-size") from error
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error
    if file:
        path = _file(file, flag)
        try:
            network.load(unwrap(weight_files.read(path).state).tensors)
        except OSError as error:
            raise PmaeError(f"{flag}: {error.strerror or error}") from error
        except ValueError as error:
            raise PmaeError(f"{flag}: {error}") from error
    else:
        try:
            network.fetch()
        except Exception as error:  # of the network, of the hub's client, of timm: whatever it is, a file helps
            source = network.published_at
            where = f"take model.safetensors from {source}" if source else "timm knows of none; train some"
            form = f"{where} and give --loss-network timm:{name}:FILE"
            raise PmaeError(f"{flag}: the weights of {name} cannot be had ({type(error).__name__}); {form}") from error
    network.quicken()
    return FixedNetwork(network, size)


def _shorter_side(image_size: tuple[int, int], side: int) -> tuple[int, int]:
    height, width = image_size
    shorter = min(height, width)
    return max(1, round(height * side / shorter)), max(1, round(width * side / shorter))


def _check_channels(flag: str, takes: int, channels: int) -> None:
    if takes != channels:
        raise UsageError(f"{flag}: takes images of {takes} channels; these have {channels} (--pixels.channels)")


def _file(name: str, flag: str) -> Path:
    path = user_path(name)
    if not path.is_file():
        raise UsageError(f"{flag}: there is no file {path}")
    return path
