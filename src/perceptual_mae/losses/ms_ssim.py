"""Multi-scale structural similarity and L1 (eq. 2 of the paper): the loss of the `ms-ssim` row of Table 2."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptual_mae.losses.precision import full
from perceptual_mae.losses.term import Judged, Seen
from perceptual_mae.models import Reconstruction

C1, C2 = 0.01**2, 0.03**2
"""The constants of SSIM for values in [0, 1]."""
WINDOW = 3
"""Side of SSIM's window, in pixels; all of them weigh the same."""
SCALES = 4
"""Scales that are compared, each half the side of the one before."""


@dataclass(frozen=True)
class MsSsimL1:
    """`alpha * mean over scales of mean((1 - SSIM) / 2) + (1 - alpha) * L1` (eq. 2 of the paper).

    Scales are made by 2 x 2 average pooling (the last row or column of an odd side is not seen by coarser ones), those
    smaller than SSIM's window are left out of the mean, and L1 is taken at full resolution.

    Attributes:
        alpha: weight of the structural part, in [0, 1].
    """

    alpha: float = 0.85

    def __call__(self, reconstruction: Reconstruction, images: Tensor, seen: Seen | None = None) -> Judged:
        """Judge a reconstruction of `images`, `(B, C, H, W)` in [0, 1].

        Returns:
            the loss, and its two parts without their weights: `ssim`, the mean of (1 - SSIM) / 2, and `l1`.

        Raises:
            ValueError: the images are smaller than SSIM's window.
        """
        x, y = full(reconstruction.images), full(images)
        l1 = (x - y).abs().mean()
        scales = [(1 - ssim(x, y).mean()) / 2]
        while len(scales) < SCALES and min(x.shape[-2:]) >= 2 * WINDOW:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            scales.append((1 - ssim(x, y).mean()) / 2)
        dissimilarity = torch.stack(scales).mean()
        loss = self.alpha * dissimilarity + (1 - self.alpha) * l1
        return loss, {"ssim": dissimilarity.detach(), "l1": l1.detach()}


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of two images around every pixel (Wang et al. 2004, IEEE TIP 13(4), eq. 13).

    In a 3 x 3 uniform window, moments divided by 9, images reflected at their edges.

    SSIM is a function of the moments of the sum s = x + y and of the difference d = x - y alone:
    `4 mu_x mu_y = mu_s^2 - mu_d^2`, `2 (mu_x^2 + mu_y^2) = mu_s^2 + mu_d^2`, and likewise (co)variances. That takes
    four windowed means instead of five, and 1 - SSIM between images that are nearly equal is made of d, which is small,
    and not of the difference of two large numbers.

    Args:
        x, y: `(B, C, H, W)` in [0, 1], float32 or float64.

    Returns:
        `(B, C, H, W)` in [-1, 1], 1 where the images are equal.

    Raises:
        ValueError: the images are smaller than the window.
    """
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(f"images of {x.shape[-2]} x {x.shape[-1]} are smaller than SSIM's window of {WINDOW}")
    x, y = (F.pad(image, (1, 1, 1, 1), mode="reflect") for image in (x, y))
    # s is moved to [-1, 1], where E[s^2] - E[s]^2 loses fewest digits.
    mean_s, variance_s = _moments(x + y - 1)
    mean_d, variance_d = _moments(x - y)
    luminance, luminance_d = (mean_s + 1).square() + 2 * C1, mean_d.square()
    structure = variance_s + 2 * C2
    above = (luminance - luminance_d) * (structure - variance_d)
    below = (luminance + luminance_d) * (structure + variance_d)
    return above / below


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance in every window; the variance may be negative by what rounding leaves of it."""
    mean = F.avg_pool2d(image, WINDOW, stride=1)
    return mean, torch.addcmul(F.avg_pool2d(image.square(), WINDOW, stride=1), mean, mean, value=-1)
