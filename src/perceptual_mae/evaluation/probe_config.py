"""Settings of the linear probes. Imports no torch: the command line is made from them."""

from dataclasses import dataclass, field

from perceptual_mae.augment.settings import CropConfig
from perceptual_mae.errors import UsageError


@dataclass(frozen=True)
class LinearProbeConfig:
    """The `cached` protocol: one linear layer on features that are computed once.

    Attributes:
        learning_rates: tried side by side; the best on the held-out part is taken.
        epochs: passes over the features.
        batch_size: features a step.
        momentum: of SGD.
        held_out: share of the training images that chooses the learning rate, above 0 and up to a half.
        seed: of the held-out part and of the order.
    """

    learning_rates: tuple[float, ...] = tuple(10 ** (exponent / 3 - 4) for exponent in range(13))
    epochs: int = 20
    batch_size: int = 256
    momentum: float = 0.9
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise UsageError(f"learning rates {list(self.learning_rates)}: give one or more, all above 0")
        if not 0 < self.held_out <= 0.5:
            raise UsageError(f"held-out share {self.held_out}: must lie between 0 (excluded) and 0.5")
        _positive(self.epochs, self.batch_size)


@dataclass(frozen=True)
class MaeProbeConfig:
    """The `mae` protocol: MAE's linear probing (arXiv 2111.06377, appendix A.1), through the frozen network each epoch.

    Attributes:
        epochs: passes over the images.
        warmup_epochs: of these, epochs in which the learning rate rises to its peak.
        base_lr: peak learning rate for a batch of 256; it grows with the batch.
        batch_size: images a step.
        momentum: of LARS.
        crop: random parts of the images; the scale is torchvision's own, as in MAE.
        seed: of the first weights, the order and the crops.
    """

    epochs: int = 90
    warmup_epochs: int = 10
    base_lr: float = 0.1
    batch_size: int = 256
    momentum: float = 0.9
    crop: CropConfig = field(default_factory=lambda: CropConfig(scale=(0.08, 1.0)))
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self.epochs, self.batch_size)

    @property
    def lr(self) -> float:
        """The peak learning rate."""
        return self.base_lr * self.batch_size / 256


def _positive(epochs: int, batch_size: int) -> None:
    if epochs < 1:
        raise UsageError(f"{epochs} epochs: give 1 or more")
    if batch_size < 1:
        raise UsageError(f"batch size is {batch_size}: give 1 or more")
