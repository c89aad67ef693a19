"""Where the project's settings leave the paper's, a row each. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Recipe:
    """How fast the generator learns, and how hard a term may pull at its reconstruction.

    A pull is the norm of a term's gradient, as a multiple of that of the pixel terms.

    Attributes:
        lr: peak learning rate with 256 images in a step.
        batch_power: it grows with the batch to this power: 1 in proportion, 1/2 with the square root.
        adversarial: the most that the adversarial term pulls.
        discriminator_features: the most that feature matching in a discriminator does.
        network_features: the most that feature matching in a fixed network does.
        lr_of: peak learning rates of the sizes that take another.
    """

    lr: float
    batch_power: float
    adversarial: float
    discriminator_features: float
    network_features: float
    lr_of: Mapping[str, float] = field(default_factory=dict)

    def learning_rate(self, model: str, batch_size: int) -> float:
        """The peak learning rate of a model of this size, with so many images in a step."""
        return self.lr_of.get(model, self.lr) * (batch_size / 256) ** self.batch_power


RECIPES = {
    # What images of 64 pixels showed (docs/results.md, docs/methods.md): beside a discriminator that pulls as hard as
    # it can, nothing is learnt; a network that somebody trained teaches most when nothing holds it. MAE found its rate
    # with 4,096 images in a step; to fewer it is carried over by the square root, which Adam asks for (arXiv
    # 2205.10287): in proportion, a small batch hardly learns. `micro` is no size of MAE's, and takes more.
    "default": Recipe(
        lr=6e-4,
        lr_of={"micro": 1.5e-3},
        batch_power=0.5,
        adversarial=0.1,
        discriminator_features=0.3,
        network_features=math.inf,
    ),
    # Eq. 1 to the letter: terms are added, however hard each of them pulls. The rate is in proportion (section 4).
    "paper": Recipe(
        lr=1.5e-4, batch_power=1.0, adversarial=math.inf, discriminator_features=math.inf, network_features=math.inf
    ),
}
