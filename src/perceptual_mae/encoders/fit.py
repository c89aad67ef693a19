"""Putting the tensors of a file into a network: all of it fits, or nothing is loaded."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Side = int | str | tuple[int, int]
"""A size as users give it: one side in pixels, `(height, width)`, or `"HEIGHTxWIDTH"`."""
_COUNTERS = "num_batches_tracked"
"""Counts for nothing in eval mode, and not all files have it."""


class SizeError(ValueError):
    """Images of a size that a network does not take; it may take another."""


@dataclass(frozen=True)
class Fit:
    """Which tensors went where.

    Attributes:
        matched: tensors of the network that the file filled.
        total: tensors that the network has.
        ignored: names of the file that the network has no place for.
        notes: what else there is to say.
    """

    matched: int
    total: int
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.matched} of {self.total} tensors matched"]
        if self.ignored:
            shown = ", ".join(self.ignored[:3]) + (", ..." if len(self.ignored) > 3 else "")
            parts.append(f"{len(self.ignored)} of the file ignored ({shown})")
        return "; ".join([*parts, *self.notes])


def fit(network: nn.Module, tensors: Mapping[str, Tensor], heads: Collection[str] = ()) -> Fit:
    """Load tensors into a network by name, in place, in the network's precision.

    Names under a part that the network does not have (a decoder, a classifier) are ignored, and so are `heads`; other
    names within its parts are of a larger network, in which its own weights would mean something else.

    Raises:
        ValueError: a tensor of the network is missing or of another shape, or the file has more of one of its parts;
            then the network is as it was.
    """
    own = network.state_dict()
    needed = [name for name in own if not name.endswith(_COUNTERS)]
    fitting = [name for name in needed if name in tensors and tensors[name].shape == own[name].shape]
    if len(fitting) < len(needed):
        first = next(name for name in needed if name not in set(fitting))
        shapes = (
            f"{shape(tensors[first])} in the file and {shape(own[first])} in the network" if first in tensors else ""
        )
        raise ValueError(f"{len(fitting)} of {len(needed)} tensors match; {first} is {shapes or 'missing'}")
    parts = {name.split(".")[0] for name in own}
    others = [name for name in tensors if name not in own]
    if strangers := [name for name in others if name.split(".")[0] in parts and name not in heads]:
        raise ValueError(
            f"{len(fitting)} of {len(needed)} tensors match; "
            f"{len(strangers)} of the file are of no part of the network, such as {strangers[0]}"
        )
    loaded = {name: tensors[name].to(own[name].dtype) for name in own if name in tensors}
    network.load_state_dict(loaded, strict=False, assign=True)
    return Fit(len(fitting), len(needed), tuple(others))


def shape(tensor: Tensor) -> str:
    """For people."""
    return " x ".join(map(str, tensor.shape)) or "a scalar"


def pair(size: Side) -> tuple[int, int]:
    """`(height, width)` in pixels.

    Raises:
        SizeError: it is no size.
    """
    text = "x".join(map(str, size)) if isinstance(size, Sequence) and not isinstance(size, str) else str(size)
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not match:
        raise SizeError("give one side in pixels such as 224, or HEIGHTxWIDTH such as 192x256")
    return int(match[1]), int(match[2] or match[1])


def check_multiple(size: tuple[int, int], patch: tuple[int, int]) -> None:
    """Whether a network that cuts images into patches sees the whole of them.

    Raises:
        SizeError: the rest at the edges would not be looked at.
    """
    if size[0] % patch[0] or size[1] % patch[1]:
        side = str(patch[0]) if patch[0] == patch[1] else f"{patch[0]} x {patch[1]}"
        raise SizeError(f"{words(size)} is not a multiple of its patch size, {side}")


def words(size: tuple[int, int]) -> str:
    """`224 x 224`."""
    return f"{size[0]} x {size[1]}"


def no_random_numbers() -> Any:
    """Within, weights are drawn that are replaced, or from a seed of their own: the caller's generator stays put."""
    return torch.random.fork_rng(devices=[])
