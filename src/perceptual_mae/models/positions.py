"""Fixed 2-D sine-cosine position embeddings (MAE, arXiv 2111.06377, appendix A; after Vaswani et al. 2017)."""

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor


def sincos_2d(dim: int, grid: tuple[int, int]) -> Tensor:
    """Position embedding of a `[CLS]` token (zeros) and of every patch of a grid.

    The first half of the channels encodes the column, the second half the row, each as sines then cosines of
    `position / 10000^(2 i / (dim / 2))`, computed in float64: the layout of public MAE checkpoints.

    Args:
        dim: embedding width, a multiple of 4.
        grid: `(rows, columns)`.

    Returns:
        `(1, 1 + rows * columns, dim)` float32.

    Raises:
        ValueError: `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"a 2-D sine-cosine embedding needs a width that is a multiple of 4, not {dim}")
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    frequencies = 10000 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))

    def encode(position: Tensor) -> Tensor:
        angles = position.flatten()[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    patches = torch.cat([encode(columns), encode(rows)], dim=1)
    return torch.cat([patches.new_zeros(1, dim), patches]).float()[None]


def is_sincos(embedding: Tensor, grid: tuple[int, int], old_grid: tuple[int, int] | None = None) -> bool:
    """Whether a position embedding of a grid is `sincos_2d`, up to the precision of half floats.

    Args:
        embedding: of any shape; one of other positions or widths is not.
        grid: `(rows, columns)`.
        old_grid: what it was resampled from; None: from none.
    """
    dim = embedding.shape[-1]
    if dim % 4 or embedding.shape != (1, 1 + grid[0] * grid[1], dim):
        return False
    old = old_grid or grid
    return torch.allclose(embedding.float().cpu(), resample(sincos_2d(dim, old), grid, old), atol=1e-3)


def resample(embedding: Tensor, grid: tuple[int, int], old_grid: tuple[int, int] | None = None) -> Tensor:
    """A position embedding `(1, 1 + n, D)` of another grid, resampled (bicubic) to `grid`; `[CLS]` stays as it is."""
    old = list(old_grid) if old_grid else None
    return resample_abs_pos_embed(embedding, list(grid), old_size=old, num_prefix_tokens=1)
