"""Reading files of weights, of anybody's: nothing in them is executed."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from perceptual_mae.errors import printable


@dataclass(frozen=True)
class WeightFile:
    """What is in a file.

    Attributes:
        state: tensors by name, in the dicts that a checkpoint has around them.
        metadata: texts that a safetensors file has beside its tensors.
    """

    state: Mapping[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)


def encoder_metadata(
    image_size: Sequence[int], mean: Sequence[float], std: Sequence[float], heads: int | None
) -> dict[str, str]:
    """What `load_encoder` has to know of an encoder and cannot see in its tensors.

    Args:
        image_size: `(height, width)` in pixels.
        mean, std: per channel, of images in [0, 1].
        heads: of its attention; None: it is no Vision Transformer.
    """
    facts = {"image_size": list(image_size), "mean": list(mean), "std": list(std)}
    return {name: json.dumps(value) for name, value in (facts | ({"num_heads": heads} if heads else {})).items()}


def metadata(path: Path) -> dict[str, str]:
    """The texts that a safetensors file has beside its tensors; empty where there is no such file."""
    try:
        with safe_open(path, framework="pt") as tensors:
            return tensors.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def read(path: Path) -> WeightFile:
    """Read a safetensors file, or one that `torch.save` wrote, onto the CPU.

    Which of the two it is the file says itself, whatever it is called.

    Raises:
        ValueError: it is neither, is damaged, or is a pickle of more than tensors and plain values.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        begin = file.read(9)
    if path.suffix == ".safetensors" or begin[8:] == b"{":  # the length of a JSON header, then the header
        try:
            with safe_open(path, framework="pt") as tensors:
                return WeightFile({name: tensors.get_tensor(name) for name in tensors.keys()}, tensors.metadata() or {})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            reason = printable(" ".join(str(error).split()))[:200]
            raise ValueError(f"damaged, or no safetensors file ({reason})") from error
    try:
        # Training checkpoints of MAE and DINO have the flags of their run in a namespace, which is plain values too.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what the bytes of a damaged pickle raise is anybody's guess
        raise ValueError(f"no file of weights that can be read safely ({type(error).__name__})") from error
    if not isinstance(state, Mapping):
        raise ValueError("it holds no weights by name")
    return WeightFile(state)
