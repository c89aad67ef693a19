"""Loading weights by name, and saying what matched: silence has cost people weeks."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from perceptual_mae.errors import PmaeError
from perceptual_mae.models.positions import resample

if TYPE_CHECKING:
    from perceptual_mae.models.mae import MaskedAutoencoder

_WRAPPERS = ("state_dict_ema", "model_ema", "model", "state_dict", "module", "model_state_dict")
_PREFIXES = ("model.", "module.", "_orig_mod.")
_PATCHES = "patch_embed.proj.weight"
"""Every Vision Transformer under timm's names has it, whatever stands before."""
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


@dataclass(frozen=True)
class Unwrapped:
    """A network's tensors out of a checkpoint.

    Attributes:
        tensors: by the network's own names.
        prefix: what stood before them: wrapping dicts and the beginning of the names, such as `teacher.backbone.`.
        others: names beside the network's in the same dict.
    """

    tensors: dict[str, Tensor]
    prefix: str
    others: tuple[str, ...]


def load_mae_names(model: "MaskedAutoencoder", state: Mapping[str, Any]) -> LoadReport:
    """Load a state dict with the names of public MAE checkpoints into `model`, in place.

    Accepted: a full model or an encoder alone (also as timm names it); names under a common prefix such as `model.`;
    the dict that a checkpoint wraps around its state dict. The model is not touched unless the load succeeds.

    Raises:
        PmaeError: fewer than half of the encoder's tensors match: such a file is of another model.
    """
    found = unwrap(state)
    tensors = found.tensors
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
    ignored = tuple(name for name in tensors if name not in own) + found.others
    return LoadReport(tuple(loaded), ignored, tuple(missed), tuple(resampled))


def unwrap(state: Mapping[str, Any]) -> Unwrapped:
    """Find the network in what a checkpoint holds, and take off what its names have in common.

    A Vision Transformer is found wherever it is, such as below `teacher` and `module.backbone.` in files of DINO or
    below `module.base_encoder.` in those of MoCo v3. Of several the averaged one (teacher, EMA) is taken, and the one
    that was evaluated before its momentum copy; see `_rank`. Of other networks, common wrappers are taken off.
    """
    places = sorted(_transformers(state), key=lambda place: (_rank(place[0]), len(place[0])))
    if places:
        path, prefix, tensors = places[0]
    else:
        wrapper = next((name for name in _WRAPPERS if isinstance(state.get(name), Mapping)), None)
        tensors, prefix = _tensors(state if wrapper is None else state[wrapper]), ""
        while found := [
            one
            for one in _PREFIXES
            if tensors and sum(name.startswith(prefix + one) for name in tensors) > len(tensors) / 2
        ]:
            prefix += found[0]
        path = prefix if wrapper is None else f"{wrapper}.{prefix}"
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return Unwrapped(own, path, tuple(name for name in tensors if not name.startswith(prefix)))


def _transformers(
    state: Mapping[Any, Any], path: str = "", depth: int = 3
) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """Where Vision Transformers are, so many dicts deep: the whole path, its part in the names, and the tensors."""
    tensors = _tensors(state)
    for name in tensors:
        if name == _PATCHES or name.endswith(f".{_PATCHES}"):
            prefix = name.removesuffix(_PATCHES)
            yield path + prefix, prefix, tensors
    for name, value in state.items():
        if depth and isinstance(value, Mapping) and isinstance(name, str):
            yield from _transformers(value, f"{path}{name}.", depth - 1)


def _rank(path: str) -> int:
    """Which of several networks in a file is the one to take: the lowest."""
    words = set(re.split(r"[._]", path))
    return 0 if words & {"teacher", "ema"} else 2 if words & {"student", "momentum"} else 1


def _tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Those that have numbers, and the same layout as those of a network: no sparse, quantised or meta ones."""
    return {
        str(name): value
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_quantized)
    }


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
