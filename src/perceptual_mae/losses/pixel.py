"""Pixel losses: how far the reconstruction is from the image, pixel by pixel."""

from torch import Tensor

from perceptual_mae.losses.precision import full
from perceptual_mae.losses.term import Judged, Seen
from perceptual_mae.models import Reconstruction


def masked_mse(reconstruction: Reconstruction, images: Tensor, seen: Seen | None = None) -> Judged:
    """Mean squared error over removed patches only (MAE, arXiv 2111.06377, section 3; the `mse` row of Table 2).

    In the model's normalised space; on per-patch normalised pixels if the model predicts those.

    Returns:
        the loss, and no parts: the term has only one.
    """
    error = (full(reconstruction.patches) - reconstruction.target).square().mean(dim=-1)
    mask = reconstruction.mask
    return (error * mask).sum() / mask.sum().clamp(min=1), {}


def l1(reconstruction: Reconstruction, images: Tensor, seen: Seen | None = None) -> Judged:
    """Mean absolute error over all pixels of the image, in [0, 1] image space (eq. 1 of the paper, its first term).

    Returns:
        the loss, and no parts: the term has only one.
    """
    return (full(reconstruction.images) - images).abs().mean(), {}
