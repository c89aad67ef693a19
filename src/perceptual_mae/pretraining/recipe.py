"""Where the project's settings leave the paper's, a row each. Imports no torch."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How hard a term may pull at the reconstruction: norm of its gradient, as a multiple of the pixel terms'.

    Attributes:
        adversarial: the adversarial term.
        discriminator_features: feature matching in a discriminator.
        network_features: feature matching in a fixed network.
    """

    adversarial: float
    discriminator_features: float
    network_features: float


RECIPES = {
    # What images of 64 pixels showed (docs/results.md, docs/methods.md): beside a discriminator that pulls as hard as
    # it can, nothing is learnt; a network that somebody trained teaches most when nothing holds it.
    "default": Recipe(adversarial=0.1, discriminator_features=0.3, network_features=math.inf),
    # Eq. 1 to the letter: terms are added, however hard each of them pulls.
    "paper": Recipe(adversarial=math.inf, discriminator_features=math.inf, network_features=math.inf),
}
