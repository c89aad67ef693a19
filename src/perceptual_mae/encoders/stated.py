"""What a file of weights says of its encoder beside the tensors: the pixels that it takes, and its heads."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from perceptual_mae import plain_yaml
from perceptual_mae.errors import UsageError
from perceptual_mae.models import SIZES
from perceptual_mae.models.architecture import PLAIN_VIT
from perceptual_mae.models.mae import default_pixels
from perceptual_mae.models.weights import Unwrapped
from perceptual_mae.pretraining.folder import RunFolder, is_run
from perceptual_mae.weight_files import WeightFile, metadata

PIXELS = ("mean", "std")
_MOST_CHANNELS = 10_000
"""What has more numbers is no mean of channels."""


@dataclass(frozen=True)
class Stated:
    """What is said of an encoder; what nobody says is empty or None.

    Attributes:
        mean, std: per channel, of images in [0, 1]; or one number for all channels.
        image_size: `(height, width)` in pixels of the images that it was trained on.
        heads: attention heads.
        max_pixels: of the largest image that it was trained on.
        doubt: what could not be asked, in words.
    """

    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    image_size: tuple[int, int] | None = None
    heads: int | None = None
    max_pixels: int | None = None
    doubt: str = ""

    def pixels(self, channels: int) -> tuple[list[float], list[float]] | None:
        """Mean and std of so many channels; None where they are not said, or are of other channels."""
        fits = all(len(values) in (1, channels) for values in (self.mean, self.std))
        if not fits or not all(value > 0 for value in self.std):
            return None
        return _spread(self.mean, channels), _spread(self.std, channels)


def stated(path: Path, file: WeightFile, found: Unwrapped) -> Stated:
    """What a file says in its metadata, in tensors beside the encoder's, or by its place in a run.

    Args:
        path: of the file. Beside a checkpoint of a run lie the run's settings, which know the size of its images.
        file: its content.
        found: the encoder in it.
    """
    folder = _run_folder(path)
    (run, doubt), described = _run_in(folder), _description(file, folder)
    pixels: dict[str, Sequence[float]] = {}
    if run is not None:
        own, usual = run.config.pixels, default_pixels(run.config.pixels.channels)
        pixels = {"mean": own.mean or usual[0], "std": own.std or usual[1]}
    for name, tensor in (_beside(file, found) | found.tensors).items():
        if name in PIXELS and tensor.is_floating_point() and tensor.numel() <= _MOST_CHANNELS:
            pixels[name] = tensor.flatten().tolist()
    for said in (described, {name: _parsed(file.metadata.get(name)) for name in PIXELS}):
        pixels |= {name: values for name in PIXELS if (values := _numbers(said.get(name)))}
    said_sizes = (_parsed(file.metadata.get("image_size")), described.get("image_size"))
    sizes = [(int(one[0]), int(one[1])) for one in map(_numbers, said_sizes) if len(one) == 2 and min(one) >= 1]
    size = sizes[0] if sizes else run.config.size if run else None
    heads = [*_numbers([_parsed(file.metadata.get("num_heads"))]), *_numbers([_heads(described)])]
    known = int(heads[0]) if heads else SIZES[run.config.model].num_heads if run else None
    largest = _limit(described.get("max_pixels")) or (limit_of(folder) if folder else None)
    return Stated(pixels.get("mean", ()), pixels.get("std", ()), size, known, largest, doubt)


def limit_of(folder: Path) -> int | None:
    """Pixels of the largest image that a run of either kind reads, as its `config.yaml` has it; None: it does not."""
    try:
        settings = plain_yaml.load((folder / "config.yaml").read_text(encoding="utf-8"))
        return _limit(settings["loader"]["max_pixels"])
    except (OSError, ValueError, plain_yaml.YamlError, LookupError, TypeError):
        return None


def _limit(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 1 else None


def _run_folder(path: Path) -> Path | None:
    """The run, of either kind, of which a file is a checkpoint's: `RUN/checkpoints/step-00001500/FILE`."""
    folders = Path(os.path.abspath(path)).parents
    if len(folders) < 3 or folders[1].name != "checkpoints" or not re.fullmatch(r"step-\d+", folders[0].name):
        return None
    return folders[2]


def _run_in(folder: Path | None) -> tuple[RunFolder | None, str]:
    """The run of `pmae pretrain` in a folder, if there is one whose settings can be read; else why they cannot."""
    if folder is None or not is_run(folder):
        return None, ""
    try:
        return RunFolder.read(folder), ""
    except UsageError as error:  # of another version, perhaps: the file itself says nearly everything
        return None, f"the settings of its run are unknown ({error})"


def _description(file: WeightFile, folder: Path | None) -> dict[str, Any]:
    """That of a fine-tuned network: the file's own or, for a checkpoint, that of the best network of its run."""
    own = file.metadata.get("description")
    if own is None and folder is not None:
        own = metadata(folder / "model.safetensors").get("description")
    return _mapping(own)


def _beside(file: WeightFile, found: Unwrapped) -> dict[str, Tensor]:
    """Mean and std of the network around the encoder, whose names end one part earlier."""
    place = found.prefix.removesuffix(".").rpartition(".")[0]
    names = {name: f"{place}.{name}" if place else name for name in PIXELS}
    return {name: file.state[full] for name, full in names.items() if full in found.others and full in file.state}


def _heads(described: Mapping[str, Any]) -> object:
    """Heads of the encoder in the description of a fine-tuned network."""
    architecture = described.get("architecture")
    if not isinstance(architecture, dict) or architecture.get("name") != PLAIN_VIT:
        return None
    options = architecture.get("options")
    return options.get("num_heads") if isinstance(options, dict) else None


def _mapping(text: str | None) -> dict[str, Any]:
    value = _parsed(text)
    return value if isinstance(value, dict) else {}


def _parsed(text: str | None) -> Any:
    """A text of a file's metadata; None where it is no JSON."""
    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        return None


def _numbers(value: object) -> list[float]:
    """A list of finite numbers; empty where it is something else."""
    if not isinstance(value, list) or not all(isinstance(one, int | float) for one in value):
        return []
    try:
        numbers = [float(one) for one in value]
    except OverflowError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def _spread(values: Sequence[float], channels: int) -> list[float]:
    return list(values) if len(values) == channels else [values[0]] * channels
