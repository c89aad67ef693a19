"""Training views of an image with its mask: scale, crop, flip and colours, after mmsegmentation's recipe for ADE20K.

Where it differs: an image is scaled from its own size, not from 512 pixels; brightness is a factor, not a sum; a crop
may be of one class alone.

All random numbers come from PyTorch's global generator, which the caller seeds for every image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

IGNORED = 255
"""The class of pixels that do not count."""
_COLOURS = v2.Compose(
    [
        v2.RandomApply([v2.ColorJitter(brightness=32 / 255)], p=0.5),
        v2.RandomApply([v2.ColorJitter(contrast=0.5)], p=0.5),
        v2.RandomApply([v2.ColorJitter(saturation=0.5)], p=0.5),
        v2.RandomApply([v2.ColorJitter(hue=18 / 180)], p=0.5),
    ]
)


@dataclass(frozen=True)
class SegmentationView:
    """Makes one view of an image and its mask.

    Attributes:
        size: `(height, width)` of the view in pixels.
        fill: colour of what lies beyond the image, a value of 0..255 for each channel; such pixels do not count.
        scale: least and greatest factor that the image is enlarged by, uniform between.
    """

    size: tuple[int, int]
    fill: Sequence[int]
    scale: tuple[float, float] = (0.5, 2.0)

    def __call__(self, image: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """`(C, H, W)` uint8 and `(H, W)` int64 to the same of `size`.

        What is cut out is scaled, which shows the same as to cut from the scaled image and never holds one that is
        large. The image is resized bilinearly with antialiasing, the mask by its nearest pixels.
        """
        factor = float(torch.empty(1).uniform_(*self.scale))
        # As many pixels of the image as the view shows; fewer where the image ends, and then less is to be filled.
        cut = [min(have, max(1, round(want / factor))) for have, want in zip(classes.shape, self.size, strict=True)]
        shown = [
            min(want, max(1, round(side * factor))) if side == have else want
            for side, have, want in zip(cut, classes.shape, self.size, strict=True)
        ]
        top, left = (int(torch.randint(have - side + 1, ())) for have, side in zip(classes.shape, cut, strict=True))
        image = F.resized_crop(image, top, left, *cut, shown, F.InterpolationMode.BILINEAR, antialias=True)
        classes = F.resized_crop(classes[None], top, left, *cut, shown, F.InterpolationMode.NEAREST_EXACT)[0]
        if torch.rand(()) < 0.5:
            image, classes = image.flip(-1), classes.flip(-1)
        if len(image) == 3:
            image = _COLOURS(image)
        return self._filled(image, classes)

    def _filled(self, image: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Both in the upper left corner of a view of `size`."""
        height, width = classes.shape
        colours = torch.tensor(self.fill, dtype=image.dtype).reshape(-1, 1, 1)
        view, labels = colours.repeat(1, *self.size), torch.full(self.size, IGNORED, dtype=classes.dtype)
        view[:, :height, :width], labels[:height, :width] = image, classes
        return view, labels
