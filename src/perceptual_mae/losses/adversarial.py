"""The game of generator and discriminator (eq. 4 to 6 of the paper), with the least squares of LS-GAN.

Least Squares Generative Adversarial Networks, arXiv 1611.04076, eq. 9: the discriminator's raw scores, without a
sigmoid, are drawn to 1 for images and to 0 for reconstructions; the generator draws them to 1. Both halves of the
discriminator's loss have the factor 1/2, as there (the paper prints it on the first only).
"""

from torch import Tensor

from perceptual_mae.losses.precision import full
from perceptual_mae.losses.term import Judged, Seen
from perceptual_mae.models import Reconstruction
from perceptual_mae.models.judgement import Judgement


def adversarial(reconstruction: Reconstruction, images: Tensor, seen: Seen | None = None) -> Judged:
    """`1/2 mean((D(G) - 1)^2)`: the reconstruction should pass for an image. The generator's side of the game.

    Returns:
        the loss, and no parts: the term has only one.

    Raises:
        ValueError: no discriminator has seen the reconstruction.
    """
    if seen is None:
        raise ValueError("the adversarial loss takes a discriminator")
    return _distance(seen.fake, target=1), {}


def discriminator_loss(seen: Seen) -> Judged:
    """`1/2 mean((D(I) - 1)^2) + 1/2 mean(D(G)^2)`: images should be told from reconstructions. The other side.

    Nothing is cut off here: a gradient that must not reach the generator is kept from it by the caller.

    Returns:
        the loss, and its two halves: `real` and `fake`.

    Raises:
        ValueError: the network that has seen them gives no scores.
    """
    real, fake = _distance(seen.real, target=1), _distance(seen.fake, target=0)
    return real + fake, {"real": real.detach(), "fake": fake.detach()}


def _distance(judgement: Judgement, target: float) -> Tensor:
    """Half the mean square of what the scores lack of a target: the mean of squares, not the square of the mean."""
    if judgement.scores is None:
        raise ValueError("a network without scores is no discriminator")
    return (full(judgement.scores) - target).square().mean() / 2
