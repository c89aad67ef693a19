"""R1: a discriminator that is flat around real images lets the game converge (Mescheder et al., arXiv 1801.04406)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from perceptual_mae.losses.precision import full
from perceptual_mae.models.judgement import Judgement

Judge = Callable[[Sequence[Tensor]], Judgement]
"""A discriminator's look at a pyramid of images, one that can be differentiated twice: no compiled region."""


def r1_penalty(judge: Judge, pyramid: Sequence[Tensor]) -> Tensor:
    """`1/2 * mean over images of |grad_x D(x)|^2`, x being all scales of an image together (arXiv 1801.04406, eq. 9).

    The factor gamma and that of lazy regularisation are the caller's. What is differentiated is the sum of the batch's
    scores, as in StyleGAN2: with minibatch standard deviation, where the score of an image depends a little on the
    others of its group, their share is in the gradient.

    Args:
        judge: the discriminator; called once, without autocast.
        pyramid: `(B, C, h, w)` each, real images at every scale as the discriminator receives them; constants. Scales
            that it does not look at count for nothing.

    Returns:
        a scalar in float32 (float64 for such images), with a graph to the discriminator's weights.

    Raises:
        ValueError: the network gives no scores.
    """
    with torch.autocast(pyramid[0].device.type, enabled=False):
        leaves = [full(scale).detach().requires_grad_() for scale in pyramid]
        scores = judge(leaves).scores
        if scores is None:
            raise ValueError("a network without scores is no discriminator")
        gradients = torch.autograd.grad(scores.sum(), leaves, create_graph=True, materialize_grads=True)
        squares = [gradient.square().flatten(1).sum(dim=1) for gradient in gradients]
        return torch.stack(squares).sum(dim=0).mean() / 2
