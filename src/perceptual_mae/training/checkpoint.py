"""Checkpoints: a folder each, either whole or not there.

`checkpoints/step-00000500/` holds a safetensors file for every network and `training.pt`, a `torch.save` of tensors and
plain values (optimisers, counters) that is read with `weights_only=True`: nothing in it can execute.
"""

import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from perceptual_mae.files import flush_to_disk, readable_as_usual

_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A moment of a run.

    Attributes:
        step: steps done.
        networks: state dicts by name: `model`, later also `discriminator`.
        training: everything else that the next step depends on.
    """

    step: int
    networks: Mapping[str, dict[str, Tensor]]
    training: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint into `folder` (a run's `checkpoints/`) and drop all but the `keep` newest.

    It is written under a temporary name, flushed to disk and renamed: killed at any moment, the folder holds only whole
    checkpoints.
    """
    target = folder / f"step-{checkpoint.step:08d}"
    temporary = folder / f".tmp-{target.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, state in checkpoint.networks.items():
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        save_file(tensors, temporary / f"{name}.safetensors")
    torch.save(checkpoint.training, temporary / "training.pt")
    for path in temporary.iterdir():
        readable_as_usual(path)
        flush_to_disk(path)
    flush_to_disk(temporary)
    if target.exists():
        _drop(target)
    temporary.rename(target)
    flush_to_disk(folder)
    # Later ones can only be damaged, else training would have gone on from them.
    kept = [path for path in checkpoints(folder) if _step(path) <= checkpoint.step][-keep:]
    for path in checkpoints(folder):
        if path not in kept:
            _drop(path)
    return target


def _drop(path: Path) -> None:
    """Delete a checkpoint; killed half-way, what is left is not taken for one."""
    doomed = path.with_name(f".tmp-old-{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def load(path: Path, needed: Collection[str] = ("model",)) -> Checkpoint:
    """Read one checkpoint, with the networks that are `needed`.

    Raises:
        OSError, ValueError, SafetensorError: it is damaged, or a network is missing.
    """
    if not _NAME.fullmatch(path.name):
        raise ValueError(f"{path} is no checkpoint")
    networks = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    for name in needed:
        if name not in networks:
            raise ValueError(f"{name}.safetensors is missing")
    try:
        training = torch.load(path / "training.pt", map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what the bytes of a damaged pickle raise is anybody's guess
        raise ValueError(f"training.pt cannot be read: {type(error).__name__}") from error
    return Checkpoint(_step(path), networks, training)


def newest(folder: Path, needed: Collection[str] = ("model",)) -> Iterator[Checkpoint | tuple[Path, str]]:
    """Checkpoints from the newest on; for a damaged one its path and what is wrong with it."""
    for path in reversed(checkpoints(folder)):
        try:
            yield load(path, needed)
        except (OSError, ValueError, SafetensorError) as error:
            yield path, str(error).splitlines()[0] if str(error) else type(error).__name__


def clear_temporary(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
