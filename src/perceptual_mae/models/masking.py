"""Random masking: which patches of each image the encoder sees."""

from typing import NamedTuple

import torch
from torch import Tensor


class Masking(NamedTuple):
    """A random partition of the N patches of every image into kept and removed ones.

    Attributes:
        keep: `(B, n)` int64, indices of the kept patches, in order of rising noise.
        restore: `(B, N)` int64, place of patch i in the sequence "kept patches, then removed ones".
        mask: `(B, N)` bool, True = removed.
    """

    keep: Tensor
    restore: Tensor
    mask: Tensor


def kept_patches(patches: int, mask_ratio: float) -> int:
    """How many of `patches` patches the encoder sees: `int(patches * (1 - mask_ratio))`, at least one."""
    return max(1, int(patches * (1 - mask_ratio)))


def mask_from_noise(noise: Tensor, mask_ratio: float) -> Masking:
    """Keep the patches with the lowest noise (MAE, arXiv 2111.06377).

    Args:
        noise: `(B, N)`, any real numbers; ties are broken by position.
        mask_ratio: share of patches removed, in [0, 1); see `kept_patches`.

    Raises:
        ValueError: the ratio is outside [0, 1).
    """
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio must lie in [0, 1), not {mask_ratio}")
    shuffle = noise.argsort(dim=1, stable=True)
    restore = shuffle.argsort(dim=1)
    kept = kept_patches(noise.shape[1], mask_ratio)
    return Masking(keep=shuffle[:, :kept], restore=restore, mask=restore >= kept)


def draw_noise(batch: int, patches: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Uniform noise `(batch, patches)`, drawn where the generator is: a CPU seed means the same on every device."""
    source = generator.device if generator is not None else device
    return torch.rand(batch, patches, generator=generator, device=source).to(device)
