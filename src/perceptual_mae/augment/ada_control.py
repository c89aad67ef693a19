"""The probability p of adaptive discriminator augmentation: it follows how much the discriminator overfits.

StyleGAN2-ADA (arXiv 2006.06676, section 3.1) reads that off r, the mean sign of D on real images. A discriminator that
knows the images by heart is sure of every one of them: r = 1; one that guesses has r = 0.
"""

import torch
from torch import Tensor, nn


def signs(scores: Tensor) -> Tensor:
    """`r = mean sign(D(I) - 1/2)`, a scalar in [-1, 1], from scores `(B,)` of real images.

    1/2 lies half-way between the least-squares targets 1 and 0, as the paper's 0 does for the logistic loss.
    """
    return (scores - 0.5).sign().mean()


class AdaController(nn.Module):
    """Moves p by a small step up while r is above its target, down while it is below.

    All of its state is in buffers, hence in checkpoints. They belong on the CPU, where `p` is read without waiting for
    a device: do not move this module.

    Args:
        target: of r.
        images: how many images it takes p to go from 0 to 1.
        every: steps between adjustments.
        p: at the start.
    """

    probability: Tensor
    sign_sum: Tensor
    count: Tensor

    def __init__(self, target: float = 0.6, images: int = 500_000, every: int = 4, p: float = 0.0) -> None:
        super().__init__()
        self.target, self.images, self.every = target, images, every
        self.register_buffer("probability", torch.tensor(p, dtype=torch.float64, device="cpu"))
        self.register_buffer("sign_sum", torch.tensor(0.0, dtype=torch.float64, device="cpu"))
        self.register_buffer("count", torch.tensor(0, dtype=torch.int64, device="cpu"))

    @property
    def p(self) -> float:
        """The probability of each augmentation, in [0, 1]."""
        return float(self.probability)

    def observe(self, sign_sum: float, count: int) -> None:
        """Take note of a step.

        Args:
            sign_sum: of sign(D(I) - 1/2), over its real images on all processes.
            count: of these images.
        """
        self.sign_sum += sign_sum
        self.count += count

    def adjust(self, images_per_step: int) -> None:
        """`p <- clip(p + sign(r - target) * every * images_per_step / images, 0, 1)`, with r since the last adjustment.

        To be called every `every` steps; p stays where nothing was observed.
        """
        r = float(self.sign_sum / self.count)
        direction = (r > self.target) - (r < self.target)  # 0 / 0 is neither above nor below
        self.probability += direction * self.every * images_per_step / self.images
        self.probability.clamp_(0, 1)
        self.sign_sum.zero_()
        self.count.zero_()
