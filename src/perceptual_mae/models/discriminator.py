"""The discriminators of the paper (section 3): one network, of one scale or of several, of two kinds of layers."""

from collections.abc import Sequence
from itertools import zip_longest
from math import sqrt
from typing import Literal

import torch
from torch import Tensor, nn

from perceptual_mae.models.discriminator_layers import LAYERS, Layers, activate, minibatch_std
from perceptual_mae.models.judgement import Judgement

Size = tuple[int, int]
SMALLEST = 32
"""Side in pixels of the smallest images: smaller ones leave too few resolutions to compare."""
COARSEST = 4
"""Side of the maps that are not halved any more."""


class Discriminator(nn.Module):
    """Tells images from reconstructions; its blocks' outputs are what feature matching compares.

    An image enters by a 1x1 convolution; a block a resolution halves it, down to 4 pixels; the head gives the score.
    With several scales, as in MSG-GAN (arXiv 1903.06048), the image of each coarser scale enters where the maps have
    come down to its size, and is concatenated with them. There is no BatchNorm: an image is judged by itself or, with
    `minibatch_std`, in a group of up to four consecutive ones, on which its score depends and none of its features.

    Args:
        scales: `(height, width)` of the images that it looks at, coarse to fine, each half of the next: one for LS-GAN,
            several for MSG-GAN.
        in_channels: channels of the images, any number from 1.
        layers: `plain`, or `stylegan2` for residual blocks with equalised learning rate and blurred halving.
        channel_base: c in the channels `c / r` at resolution r.
        channel_max: most channels at any resolution.
        minibatch_std: the head sees how much images of a group differ.

    Raises:
        ValueError: images smaller than 32 pixels, or scales that are not halves.
    """

    def __init__(
        self,
        scales: Sequence[Size],
        in_channels: int = 3,
        layers: Literal["plain", "stylegan2"] = "plain",
        channel_base: int = 4096,
        channel_max: int = 512,
        minibatch_std: bool = False,
    ) -> None:
        super().__init__()
        self.scales = tuple((height, width) for height, width in scales)
        self.in_channels = in_channels
        kind, sizes = LAYERS[layers], resolutions(self.scales)
        widths = [channels(size, channel_base, channel_max) for size in sizes]
        # The finest image is all there is at its resolution; a coarser one joins maps with an eighth of their width.
        entries = [widths[0], *(_rounded(width / 8) for width in widths[1 : len(scales)])]
        inputs = [maps + entry for maps, entry in zip_longest([0, *widths[1:]], entries, fillvalue=0)]

        # Fine to coarse, as the maps come down.
        self.from_image = nn.ModuleList(kind.conv(in_channels, entry, 1) for entry in entries)
        self.blocks = nn.ModuleList(map(kind.block, inputs, widths, widths[1:]))
        self.head = Head(kind, inputs[-1], widths[-1], sizes[-1], minibatch_std)

    def forward(self, *pyramids: Sequence[Tensor]) -> tuple[Judgement, ...]:
        """Judge several batches, each by itself: one call, so that DistributedDataParallel sees one forward pass."""
        return tuple(self.judge(pyramid) for pyramid in pyramids)

    def judge(self, pyramid: Sequence[Tensor]) -> Judgement:
        """Look at a batch of images.

        Args:
            pyramid: `(B, C, h, w)` in [0, 1] each, coarse to fine; coarser scales than it takes are left out.

        Returns:
            features, fine to coarse: the output of each block, before another image joins it. Scores `(B,)`.

        Raises:
            ValueError: images that are not of its scales or channels.
        """
        images = self._of_its_scales(pyramid)
        maps, features = self._enter(0, images[0]), []
        for resolution, block in enumerate(self.blocks, start=1):
            maps = block(maps)
            features.append(maps)
            if resolution < len(images):
                maps = torch.cat([maps, self._enter(resolution, images[resolution])], dim=1)
        return Judgement(tuple(features), self.head(maps))

    def _enter(self, resolution: int, images: Tensor) -> Tensor:
        # Convolutions of few channels and many pixels are up to twice as fast with channels last; the maps follow suit.
        # Not `contiguous`, which leaves images of one channel as they are.
        centred = (2 * images - 1).to(memory_format=torch.channels_last)
        return activate(self.from_image[resolution](centred))

    def _of_its_scales(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """The images it looks at, fine to coarse."""
        images = list(pyramid[-len(self.scales) :])
        expected = [(self.in_channels, *size) for size in self.scales]
        given = [tuple(image.shape[1:]) for image in images]
        if given != expected:
            raise ValueError(f"the discriminator takes images (C, H, W) of {_words(expected)}, not {_words(given)}")
        return images[::-1]


class Head(nn.Module):
    """From maps at the coarsest resolution to a raw score: a 3x3 convolution and two linear layers.

    Args:
        kind: of its layers.
        inputs: channels of the maps.
        width: channels inside.
        size: `(height, width)` of the maps.
        minibatch_std: one map more tells how much the images of a group differ.
    """

    def __init__(self, kind: Layers, inputs: int, width: int, size: Size, minibatch_std: bool) -> None:
        super().__init__()
        self.minibatch_std = minibatch_std
        self.conv = kind.conv(inputs + minibatch_std, width, 3)
        self.hidden = kind.linear(width * size[0] * size[1], width)
        self.score = kind.linear(width, 1, gain=1.0)

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, inputs, H, W)` to `(B,)`."""
        if self.minibatch_std:
            maps = torch.cat([maps, minibatch_std(maps)], dim=1)
        maps = activate(self.conv(maps))
        return self.score(activate(self.hidden(maps.flatten(1)))).squeeze(1)


def resolutions(scales: Sequence[Size]) -> list[Size]:
    """Sizes of a discriminator's maps, fine to coarse: halves, rounded up, to a side of 4 and past the coarsest scale.

    Args:
        scales: `(height, width)`, coarse to fine.

    Raises:
        ValueError: images smaller than 32 pixels, or scales that are not halves.
    """
    height, width = scales[-1]
    if min(height, width) < SMALLEST:
        raise ValueError(f"a discriminator needs images of at least {SMALLEST} pixels a side, not {height} x {width}")
    sizes = [(height, width)]
    while min(sizes[-1]) > COARSEST or len(sizes) < len(scales):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    halves = sizes[: len(scales)][::-1]
    if list(scales) != halves:
        raise ValueError(f"scales {_words(scales)} are not the halves {_words(halves)}")
    return sizes


def channels(size: Size, base: int, largest: int) -> int:
    """Channels at a resolution: `min(base / r, largest)`, rounded down (StyleGAN2-ADA, arXiv 2006.06676).

    r is the side of a square of as many pixels: images of any shape cost the same for a pixel.
    """
    return _rounded(min(base / sqrt(size[0] * size[1]), largest))


def _rounded(width: float) -> int:
    """Down to whole sixteens, or to 8: what vector units compute at a time."""
    return max(8, int(width) // 16 * 16)


def _words(sizes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(" x ".join(map(str, size)) for size in sizes) or "none"
