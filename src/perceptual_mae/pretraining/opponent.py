"""The discriminator at play: what it sees, what it learns, and how the game stands (section 3.2 and 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from perceptual_mae.augment.ada import Transforms, augment, transforms
from perceptual_mae.augment.ada_control import AdaController, signs
from perceptual_mae.losses.adversarial import discriminator_loss
from perceptual_mae.losses.term import Seen
from perceptual_mae.models import Reconstruction
from perceptual_mae.models.discriminator import Discriminator
from perceptual_mae.models.pyramid import image_pyramid
from perceptual_mae.pretraining.player import MicroBatch, Player
from perceptual_mae.training.schedule import Clock
from perceptual_mae.training.tally import Tally


@dataclass
class Opponent:
    """A discriminator, and what it needs to play against a generator.

    Attributes:
        accelerator: devices, precision and processes.
        player: the discriminator and its optimiser.
        scales: `(height, width)` of the images that it sees, coarse to fine.
        alternating: it learns before the generator does, not from the same look.
        ada: the controller of its augmentation, or None.
    """

    accelerator: Accelerator
    player: Player[Discriminator]
    scales: Sequence[tuple[int, int]]
    alternating: bool = False
    ada: AdaController | None = None

    def look(self, reconstruction: Reconstruction, batch: MicroBatch) -> Seen:
        """One forward pass over images and reconstructions, augmented alike; never mixed in one batch.

        Where players alternate, the discriminator has learnt already, and only the generator learns from this.
        """
        if not self.alternating:
            return self._look(self.player.network, reconstruction, batch)
        # Past `network`, which would wait for a gradient of the weights to bring together.
        with self.player.fixed():
            return self._look(self.player.module, reconstruction, batch)

    def _look(self, network: nn.Module, reconstruction: Reconstruction, batch: MicroBatch) -> Seen:
        change = self.augmentation(batch.augmentation)
        fake = self.augmented(reconstruction.pyramid, change)
        return Seen(*network(self.real(batch.images, change), fake))

    def real(self, images: Tensor, change: Transforms | None) -> Sequence[Tensor]:
        """Images `(b, C, H, W)` as the discriminator receives them."""
        return self.augmented(image_pyramid(images, self.scales), change)

    def learn_alone(self, reconstruction: Reconstruction, batch: MicroBatch, tally: Tally) -> None:
        """`learn` from a look that nobody else takes."""
        self.learn(self._look(self.player.network, reconstruction, batch), tally)

    def learn(self, seen: Seen, tally: Tally) -> None:
        """Collect the gradient of the discriminator's loss (eq. 4)."""
        loss, parts = discriminator_loss(seen)
        # Only weights: the gradient on what it looked at is of no use to anyone.
        (loss / tally.parts).backward(inputs=list(self.player.module.parameters()))
        tally.add({"loss/discriminator": loss})
        tally.add({f"loss/discriminator/{name}": part for name, part in parts.items()})
        tally.add(standing(seen))

    def augmentation(self, numbers: Tensor | None) -> Transforms | None:
        """What random numbers `(b, K)` come to at the present p; None: nothing at all."""
        if self.ada is None or numbers is None or self.ada.p == 0:
            return None
        return transforms(numbers, self.ada.p, self.scales[-1], self.player.module.in_channels)

    def augmented(self, pyramid: Sequence[Tensor], change: Transforms | None) -> Sequence[Tensor]:
        """Every scale of an image with the same augmentation."""
        return pyramid if change is None else augment(pyramid, change)

    def adapt(self, log: dict[str, float], images: int, clock: Clock) -> dict[str, float]:
        """Let p follow how sure the discriminator was in the step that `log` tells of (arXiv 2006.06676, section 3.1).

        Args:
            log: of the step.
            images: that it had, over all processes.
            clock: when it was.

        Returns:
            `ada_p`, the p of that step.
        """
        if self.ada is None:
            return {}
        p = self.ada.p
        self.ada.observe(log["ada_r"] * images, images)
        if clock.step_is_due(self.ada.every):
            self.ada.adjust(images)
        return {"ada_p": p}


@torch.no_grad()
def standing(seen: Seen) -> dict[str, Tensor]:
    """How the game stands: means of D(real) and D(fake), share of right verdicts, and r = mean sign(D(real) - 1/2)."""
    real, fake = seen.real.scores, seen.fake.scores
    assert real is not None
    assert fake is not None
    right = torch.cat([real > 0.5, fake <= 0.5]).float().mean()
    return {"d_real": real.mean(), "d_fake": fake.mean(), "d_accuracy": right, "ada_r": signs(real)}
