"""safetensors: one file with the weights under timm's names, and what `load_encoder` has to know beside them."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from perceptual_mae import weight_files
from perceptual_mae.encoders import open_encoder
from perceptual_mae.encoders.fit import fit, no_random_numbers
from perceptual_mae.export.check import Check, compare, fixed_images
from perceptual_mae.export.source import Source
from perceptual_mae.export.timm_format import MARK, TOLERANCE, metadata
from perceptual_mae.models.encoder import Encoder


def write(source: Source, file: Path) -> None:
    """Write the file."""
    save_file(source.state, file, metadata(source))


def check(source: Source, file: Path) -> list[Check]:
    """Open it again."""
    encoder = source.encoder
    images = fixed_images(2, encoder.in_channels, encoder.image_size)
    return [compare("the file in perceptual_mae", _opened(source, file)(images), encoder(images), TOLERANCE)]


def _opened(source: Source, file: Path) -> Encoder:
    """The encoder in the file, which says what it is if it is a plain Vision Transformer; else the source does."""
    if source.plain_vit is not None:
        return open_encoder(file)[0]
    read = weight_files.read(file)
    with no_random_numbers():
        network = source.architecture.build()
    fit(network, read.state)
    size, mean, std = (json.loads(read.metadata[name]) for name in ("image_size", "mean", "std"))
    return Encoder(network, file.name, tuple(size), mean, std)


def is_ours(file: Path) -> bool:
    """Whether a file was written by an export, and may be replaced; a run's own files are not."""
    try:
        with safe_open(file, framework="pt") as opened:
            return MARK in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return False
