"""Perceptual path length: equal steps of the latent z should change what the discriminator sees by equal amounts.

StyleGAN2's path length regularisation (arXiv 1912.04958, section 3.2), with z the tokens that the encoder hands to the
decoder, and the discriminator's feature maps in place of pixels (section 3.3 of the paper). The length is the Frobenius
norm of J, the Jacobian with respect to z of all feature maps of an image together, each divided by the root of its
number of elements N_j = C_j H_j W_j, so that large maps count no more than small ones.

Two estimators, whose mean squares are |J|^2 both: |J v| for a random direction v, by a finite difference, and |J^T y|
for random features y, which is exact for that y and needs second derivatives. Where images depend on each other
(minibatch standard deviation), J has a block for each pair of them: the first sums over all that moves the features of
an image, the second over all that its z moves, and only the totals of a batch agree.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from perceptual_mae.losses.precision import full

Features = Callable[[Tensor], Sequence[Tensor]]
"""From z `(B, n, D)` to the discriminator's feature maps `(B, C_j, H_j, W_j)` of what is decoded from it."""
EPSILON = 0.05
"""How far apart two points of a finite difference lie, z having elements of order 1 (it comes from a LayerNorm).

Largest error of |J v| of an image, measured on small MSG-MAEs, new and trained, with either kind of discriminator: 1 %
in float32, nearly all of it curvature, and 2.7 % (0.4 % in the mean) when convolutions round to TF32, as they do on
CUDA unless told otherwise; where products of matrices do so too, it grows from 0.6 to 0.9 % (`tiny`, new, both kinds of
rounding imitated). At 0.01 these are 0.2 % and 42 %, at 0.2 3.3 % both. One-sided, up to 9 %.
"""


def finite_difference_lengths(features: Features, z: Tensor, direction: Tensor, epsilon: float = EPSILON) -> Tensor:
    """|J v| along a direction v, by a central difference: `|f(z + eps/2 v) - f(z - eps/2 v)| / eps`.

    Two plain forward passes: works with fused attention and compiled regions.

    Args:
        features: what is differentiated; called twice, without autocast.
        z: `(B, n, D)`, a constant.
        direction: v, `(B, n, D)`, every element N(0, 1).
        epsilon: distance of the two points, in units of v.

    Returns:
        `(B,)` in float32 (float64 for such z), with a graph to the weights behind `features`.
    """
    with torch.autocast(z.device.type, enabled=False):
        centre, half_step = full(z).detach(), epsilon / 2 * direction
        ahead, behind = features(centre + half_step), features(centre - half_step)
        changes = [_norms(full(a) - full(b)) / math.sqrt(_size(a)) for a, b in zip(ahead, behind, strict=True)]
        return torch.linalg.vector_norm(torch.stack(changes), dim=0) / epsilon


def exact_lengths(features: Features, z: Tensor, normal_like: Callable[[Tensor], Tensor]) -> Tensor:
    """|J^T y| for random features y, every element N(0, 1), by back-propagation (StyleGAN2's form).

    Args:
        features: what is differentiated; called once, without autocast and without fused attention, which has no second
            derivative. It must not run compiled regions, which have none either.
        z: `(B, n, D)`, a constant.
        normal_like: draws y: from a tensor to one of its shape, type and device, every element N(0, 1).

    Returns:
        `(B,)` in float32 (float64 for such z), with a graph to the weights behind `features`.
    """
    with torch.autocast(z.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        leaf = full(z).detach().requires_grad_()
        product = leaf.new_zeros(())
        for maps in map(full, features(leaf)):
            product = product + (maps * normal_like(maps.detach())).sum() / math.sqrt(_size(maps))
        (gradient,) = torch.autograd.grad(product, leaf, create_graph=True)
        return _norms(gradient)


class PathLength(nn.Module):
    """The running mean a of path lengths, and what a length is penalised for keeping off it.

    Attributes:
        mean: a, a scalar in float32; 0 before the first lengths, as in StyleGAN2.

    Args:
        decay: how fast a follows.
    """

    mean: Tensor

    def __init__(self, decay: float = 0.01) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))

    def penalty(self, lengths: Tensor, mean_length: Tensor | None = None, parts: int = 1) -> Tensor:
        """`mean((length - a)^2)`, after a has moved towards the mean of the lengths: `a += decay * (mean - a)`.

        Args:
            lengths: `(B,)`.
            mean_length: their mean over all processes, a scalar; default: the mean of `lengths`.
            parts: in which a step's lengths come; after all of them a has moved as far as in one.

        Returns:
            a scalar, without its weight; a is a constant to its gradient.
        """
        current = lengths.mean() if mean_length is None else mean_length
        self.mean.lerp_(current.detach().to(self.mean), 1 - (1 - self.decay) ** (1 / parts))
        return (lengths - self.mean).square().mean()


def _norms(batch: Tensor) -> Tensor:
    """`(B,)` Euclidean norms of the elements of a batch; their gradient is 0, and not NaN, where they are 0."""
    return torch.linalg.vector_norm(batch.flatten(1), dim=1)


def _size(maps: Tensor) -> int:
    """Elements of one image's maps: N_j = C_j H_j W_j."""
    return math.prod(maps.shape[1:])
