"""Pixel losses: how far the reconstruction is from the image, pixel by pixel."""

from torch import Tensor

from perceptual_mae.losses.term import Judged
from perceptual_mae.models import Reconstruction


def masked_mse(reconstruction: Reconstruction, images: Tensor) -> Judged:
    """Mean squared error over removed patches only (MAE, arXiv 2111.06377, section 3; the `mse` row of Table 2).

    In the model's normalised space; on per-patch normalised pixels if the model predicts those.

    Returns:
        the loss, and no parts: the term has only one.
    """
    error = (reconstruction.patches.float() - reconstruction.target).square().mean(dim=-1)
    mask = reconstruction.mask
    return (error * mask).sum() / mask.sum().clamp(min=1), {}
