"""Images to sequences of patches and back."""

from torch import Tensor


def patchify(images: Tensor, patch: int) -> Tensor:
    """`(B, C, H, W)` to `(B, N, patch * patch * C)`, row by row, each patch as (row, column, channel).

    That order is the one of public MAE checkpoints' `decoder_pred`.
    """
    B, C, H, W = images.shape
    grid = images.reshape(B, C, H // patch, patch, W // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(B, (H // patch) * (W // patch), patch * patch * C)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """`(B, N, patch * patch * C)` back to `(B, C, H, W)`; the inverse of `patchify`."""
    B, N, pixels = patches.shape
    rows, columns = grid
    if rows * columns != N:
        raise ValueError(f"a grid of {rows} x {columns} has {rows * columns} patches, not {N}")
    image = patches.reshape(B, rows, columns, patch, patch, pixels // patch**2)
    return image.permute(0, 5, 1, 3, 2, 4).reshape(B, -1, rows * patch, columns * patch)


def mask_to_pixels(mask: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """A patch mask `(B, N)` as a pixel mask `(B, 1, H, W)` of the same type."""
    image = mask.reshape(-1, 1, *grid)
    return image.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)
