"""What the terms of a loss look through: a discriminator that learns (`opponent.py`), or a network that is fixed."""

from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator

from perceptual_mae.losses.term import Seen
from perceptual_mae.models import Reconstruction
from perceptual_mae.models.fixed_network import FixedNetwork
from perceptual_mae.pretraining.player import MicroBatch


class Lens(Protocol):
    """Looks at images and their reconstructions through a loss network."""

    def look(self, reconstruction: Reconstruction, batch: MicroBatch) -> Seen:
        """What the network makes of a batch and of its reconstruction."""
        ...


@dataclass
class FixedLens:
    """A fixed loss network.

    Attributes:
        accelerator: precision and processes.
        network: on the device.
    """

    accelerator: Accelerator
    network: FixedNetwork

    def look(self, reconstruction: Reconstruction, batch: MicroBatch) -> Seen:
        """Features of the images, as constants, and of the reconstruction; the first images set their scale."""
        images = (batch.images,)
        with self.accelerator.autocast():
            with torch.no_grad():
                if not self.network.calibrated:
                    self.network.calibrate(self.accelerator.reduce(self.network.measure(images), "mean"))
                real = self.network.judge(images)
            return Seen(real, self.network.judge(reconstruction.pyramid))
