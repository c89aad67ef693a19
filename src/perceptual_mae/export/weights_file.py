"""safetensors: one file with the weights under timm's names, and what `load_encoder` has to know beside them."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from perceptual_mae.encoders import open_encoder
from perceptual_mae.export.check import Check, compare, fixed_images
from perceptual_mae.export.source import Source
from perceptual_mae.export.timm_format import MARK, TOLERANCE, metadata, timm_name


def write(source: Source, file: Path) -> None:
    """Write the file."""
    save_file(source.state, file, metadata(source))


def spec(source: Source, file: Path | str) -> str:
    """What to call the file on a command line: of a plain Vision Transformer it says itself what it is."""
    return str(file) if source.plain_vit is not None else f"timm:{timm_name(source.architecture)[0]}:{file}"


def check(source: Source, file: Path) -> list[Check]:
    """Open it again."""
    encoder = source.encoder
    size = None if source.plain_vit is not None else encoder.image_size
    images = fixed_images(2, encoder.in_channels, encoder.image_size)
    theirs = open_encoder(spec(source, file), size)[0]
    return [compare("the file in perceptual_mae", theirs(images), encoder(images), TOLERANCE)]


def is_ours(file: Path) -> bool:
    """Whether a file was written by an export, and may be replaced; a run's own files are not."""
    try:
        with safe_open(file, framework="pt") as opened:
            return MARK in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return False
