"""Checkpoints: a folder each, either whole or not there.

`checkpoints/step-00000500/` holds a safetensors file for every network and `training.pt`, a `torch.save` of tensors and
plain values (optimisers, counters) that is read with `weights_only=True`: nothing in it can execute. `manifest.json`,
written last, knows size and checksum of them all; nothing is parsed that differs. One that is kept for ever says of
which epoch it is in `milestone.txt`. Of a network that is cut over processes, each has put its share into `sharded/`.
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

from perceptual_mae.files import flush_to_disk, writing
from perceptual_mae.training import sharded
from perceptual_mae.training.manifest import MANIFEST, Damaged, seal, verify

_NAME = re.compile(r"step-(\d{8,})")
_MILESTONE = "milestone.txt"
_SEALED = "sealed"
"""Said in `training.pt`: checkpoints of before had no manifest, and one that is lost must not make a new one an old."""


@dataclass(frozen=True)
class Checkpoint:
    """A moment of a run.

    Attributes:
        step: steps done.
        networks: state dicts by name, as `TrainingLoop.modules` has them: `model`, `discriminator`, `game`, ...
        training: everything else that the next step depends on.
    """

    step: int
    networks: Mapping[str, dict[str, Tensor]]
    training: dict[str, Any]


def begin(folder: Path, step: int) -> Path:
    """An empty folder for what several processes write into a checkpoint before one of them calls `save`.

    Raises:
        WriteError: it cannot be made.
    """
    temporary = temporary_of(folder, step)
    with writing(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    return temporary


def save(folder: Path, checkpoint: Checkpoint, keep: int, milestone: str | None = None, begun: bool = False) -> Path:
    """Write a checkpoint into `folder` (a run's `checkpoints/`) and drop all but the `keep` newest and the milestones.

    It is written under a temporary name, flushed to disk and renamed: killed at any moment, the folder holds only whole
    checkpoints.

    Args:
        folder: made where it is missing.
        checkpoint: what is saved.
        keep: how many of the newest stay.
        milestone: of what this one is kept for ever, in words; None: it goes when its time has come.
        begun: other files of it are there already, see `begin`.

    Raises:
        WriteError: the disk is full, read-only or broken; the older checkpoints are as they were, no half one stays.
    """
    target = folder / f"step-{checkpoint.step:08d}"
    temporary = temporary_of(folder, checkpoint.step) if begun else begin(folder, checkpoint.step)
    with writing(folder):
        try:
            _write(temporary, checkpoint, milestone)
            _put_in_place(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        flush_to_disk(folder)
        # Later ones can only be damaged, else training would have gone on from them.
        earlier = [path for path in checkpoints(folder) if _step(path) <= checkpoint.step]
        kept = {*earlier[-keep:], *(path for path in earlier if (path / _MILESTONE).exists())}
        for path in checkpoints(folder):
            if path not in kept:
                _drop(path)
    return target


def temporary_of(folder: Path, step: int) -> Path:
    """Where a checkpoint is written before it is whole."""
    return folder / f".tmp-step-{step:08d}"


def _write(folder: Path, checkpoint: Checkpoint, milestone: str | None) -> None:
    """Fill a folder and bring it to disk."""
    for name, state in checkpoint.networks.items():
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        save_file(tensors, folder / f"{name}.safetensors")
    # Into a file of ours: given a path, `torch.save` does not say why it failed.
    with open(folder / "training.pt", "wb") as file:
        torch.save(checkpoint.training | {_SEALED: True}, file)
    if milestone is not None:
        (folder / _MILESTONE).write_text(f"{milestone}\n", encoding="utf-8")
    seal(folder)


def _put_in_place(temporary: Path, target: Path) -> None:
    """Give a whole checkpoint its name. One that has it goes only then: deleting takes as long as there are files."""
    old = _waiting(target)
    try:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        temporary.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _waiting(target: Path) -> Path:
    """What a checkpoint is called while another one takes its name."""
    return target.with_name(f".waiting-{target.name}")


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
    sealed = verify(path)
    networks = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    for name in needed:
        if name not in networks:
            raise Damaged(f"{name}.safetensors is missing")
    try:
        training = torch.load(path / "training.pt", map_location="cpu", weights_only=True)
        was_sealed = training.pop(_SEALED, False)
    except OSError:
        raise
    except Exception as error:  # what the bytes of a damaged pickle raise is anybody's guess
        raise Damaged(f"training.pt cannot be read: {type(error).__name__}") from error
    if was_sealed and not sealed:
        raise Damaged(f"{MANIFEST} is missing")
    if (path / sharded.FOLDER).exists():
        sharded.load_shares(path / sharded.FOLDER, networks, training["optimizers"])
    return Checkpoint(_step(path), networks, training)


def newest(folder: Path, needed: Collection[str] = ("model",)) -> Iterator[Checkpoint | tuple[Path, str]]:
    """Checkpoints from the newest on; for a damaged one its path and what is wrong with it."""
    seen: set[Path] = set()
    # Listed anew each time: a run that trains on while it is looked at drops old ones and writes new ones.
    while untried := [path for path in checkpoints(folder) if path not in seen]:
        path = untried[-1]
        seen.add(path)
        try:
            yield load(path, needed)
        except (OSError, ValueError, SafetensorError) as error:
            if path.exists():
                yield path, _reason(error)


def _reason(error: Exception) -> str:
    """What is wrong with a damaged checkpoint, on one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{Path(error.filename).name}: {error.strerror.lower()}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def damage(path: Path, reason: str) -> str:
    """A damaged checkpoint, in words for the user."""
    return f"checkpoint {path.name} is damaged ({reason}), taking the one before"


def clear_temporary(folder: Path) -> None:
    """Remove what a killed run left half-written, and give one that was to be replaced its name again if it was not."""
    for path in folder.glob(".waiting-*"):
        target = path.with_name(path.name.removeprefix(".waiting-"))
        if target.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(target)
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
