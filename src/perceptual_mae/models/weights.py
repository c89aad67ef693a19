"""Loading weights by name, and saying what matched: silence has cost people weeks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from perceptual_mae.errors import PmaeError
from perceptual_mae.models.positions import resample

if TYPE_CHECKING:
    from perceptual_mae.models.mae import MaskedAutoencoder

_WRAPPERS = ("model", "state_dict", "module", "model_state_dict")
_PREFIXES = ("model.", "module.", "_orig_mod.")
_POSITIONS = ("pos_embed", "decoder_pos_embed")
_OWN_CONSTANTS = ("mean", "std")


@dataclass(frozen=True)
class LoadReport:
    """Which names of a state dict went where.

    Attributes:
        used: names of the model that were loaded.
        ignored: names of the file that the model has no place for.
        missed: names of the model that the file does not have, or has in another shape (then with both shapes).
        resampled: position embeddings that were of another grid.
    """

    used: tuple[str, ...]
    ignored: tuple[str, ...]
    missed: tuple[str, ...]
    resampled: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{len(self.used)} tensors loaded"]
        for what, names in (("resampled", self.resampled), ("ignored", self.ignored), ("missed", self.missed)):
            if names:
                shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
                parts.append(f"{len(names)} {what} ({shown})")
        return "; ".join(parts)


def load_mae_names(model: "MaskedAutoencoder", state: Mapping[str, Any]) -> LoadReport:
    """Load a state dict with the names of public MAE checkpoints into `model`, in place.

    Accepted: a full model or an encoder alone (also as timm names it); names under a common prefix such as `model.`;
    the dict that a checkpoint wraps around its state dict. The model is not touched unless the load succeeds.

    Raises:
        PmaeError: fewer than half of the encoder's tensors match: such a file is of another model.
    """
    tensors = _unwrap(state)
    own = model.state_dict()
    grids = _old_grids(tensors, model.grid)
    loaded: dict[str, Tensor] = {}
    missed, resampled = [], []
    for name, target in own.items():
        value = tensors.get(name)
        if value is None:
            if name not in _OWN_CONSTANTS:
                missed.append(name)
            continue
        if name in grids and value.shape != target.shape and value.shape[2] == target.shape[2]:
            value = resample(value.float(), model.grid, grids[name])
            resampled.append(name)
        if value.numel() == target.numel() and name in _OWN_CONSTANTS:
            value = value.reshape(target.shape)
        if value.shape != target.shape:
            missed.append(f"{name} (file {_shape(value)}, model {_shape(target)})")
            continue
        loaded[name] = value
    encoder = [name for name in model.encoder_state_dict() if name not in _POSITIONS]
    matched = sum(name in loaded for name in encoder)
    if 2 * matched < len(encoder):
        hint = f"; for instance {missed[0]}" if missed else ""
        raise PmaeError(f"the weights are of another model: {matched} of {len(encoder)} encoder tensors match{hint}")
    model.load_state_dict(loaded, strict=False)
    ignored = tuple(name for name in tensors if name not in own)
    return LoadReport(tuple(loaded), ignored, tuple(missed), tuple(resampled))


def _unwrap(state: Mapping[str, Any]) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    for prefix in _PREFIXES:
        if tensors and sum(name.startswith(prefix) for name in tensors) > len(tensors) / 2:
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return tensors


def _old_grids(tensors: Mapping[str, Tensor], grid: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Grids of the position embeddings in a file: a square one if that fits, else one of the model's own aspect.

    Embeddings that are neither (DeiT's have a second token) are left out.
    """
    grids = {}
    for name in _POSITIONS:
        if name not in tensors or tensors[name].ndim != 3:
            continue
        patches = tensors[name].shape[1] - 1
        side = math.isqrt(max(patches, 0))
        rows = side if side * side == patches else round(math.sqrt(patches * grid[0] / grid[1]))
        if rows > 0 and patches % rows == 0:
            grids[name] = (rows, patches // rows)
    return grids


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
