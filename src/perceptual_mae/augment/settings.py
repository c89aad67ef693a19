"""Settings of augmentations. Imports no torch: the command line is made from them."""

from dataclasses import dataclass

from perceptual_mae.errors import UsageError


@dataclass(frozen=True)
class CropConfig:
    """Augmentation: a random part of each image, resized (bicubic), perhaps mirrored.

    Attributes:
        scale: least and greatest share of the image's area.
        ratio: least and greatest aspect (width over height) of the part, relative to the aspect of the images.
        flip: probability of a horizontal flip.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UsageError(f"--crop.scale {list(self.scale)}: give the least and the greatest share, in (0, 1]")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UsageError(f"--crop.ratio {list(self.ratio)}: give the least and the greatest, both above 0")
        if not 0 <= self.flip <= 1:
            raise UsageError(f"--crop.flip {self.flip}: give a probability in [0, 1]")
