"""What discriminators are made of: ordinary layers, and StyleGAN2's (arXiv 1912.04958).

`LAYERS` at the end of the file is the table of the two kinds. In both, weights have a standard deviation of
`gain / sqrt(fan_in)`, so that activations keep their scale through the depth.
"""

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2
"""Of leaky ReLU for negative numbers."""
KAIMING_GAIN = sqrt(2 / (1 + SLOPE**2))
"""Keeps the mean square of numbers that pass through a layer and leaky ReLU (arXiv 1502.01852, eq. 15)."""
STYLEGAN2_GAIN = sqrt(2)
"""StyleGAN2's, a little more: it is exact for ReLU."""


def activate(maps: Tensor) -> Tensor:
    """Leaky ReLU, in the place of its input: the layer before it does not need its output to go backward."""
    return F.leaky_relu(maps, SLOPE, inplace=True)


# -- weights -----------------------------------------------------------------------------------------------------------


class Conv(nn.Conv2d):
    """A convolution of odd kernel that keeps the size (with stride 2: half of it, rounded up). Weights N(0, std)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, gain: float = KAIMING_GAIN, bias: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)
        _draw(self, std=gain / sqrt(self.weight[0].numel()))


class Linear(nn.Linear):
    """A linear layer with weights N(0, std)."""

    def __init__(self, inputs: int, outputs: int, gain: float = KAIMING_GAIN) -> None:
        super().__init__(inputs, outputs)
        _draw(self, std=gain / sqrt(inputs))


class EqualisedConv(Conv):
    """`Conv` with equalised learning rate: weights N(0, 1), scaled whenever they are used (arXiv 1710.10196, 4.1).

    Adam moves every weight by about its learning rate; scaled afterwards, that is the same share of every layer. The
    gain multiplies the bias too: since leaky ReLU is homogeneous, it comes to a gain after the activation, for nothing.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, gain: float = STYLEGAN2_GAIN, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, bias=bias)
        self.gain = gain
        _draw(self, std=1.0)

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H, W)`."""
        return self._conv_forward(maps, *_scaled(self.weight, self.bias, self.gain))


class EqualisedLinear(Linear):
    """`Linear` with equalised learning rate, as `EqualisedConv`."""

    def __init__(self, inputs: int, outputs: int, gain: float = STYLEGAN2_GAIN) -> None:
        super().__init__(inputs, outputs)
        self.gain = gain
        _draw(self, std=1.0)

    def forward(self, numbers: Tensor) -> Tensor:
        """`(B, inputs)` to `(B, outputs)`."""
        return F.linear(numbers, *_scaled(self.weight, self.bias, self.gain))


def _draw(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _scaled(weight: Tensor, bias: Tensor | None, gain: float) -> tuple[Tensor, Tensor | None]:
    return weight * (gain / sqrt(weight[0].numel())), None if bias is None else bias * gain


# -- blocks ------------------------------------------------------------------------------------------------------------


class PlainBlock(nn.Module):
    """Two 3x3 convolutions, the second of stride 2."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = Conv(inputs, width, 3)
        self.conv1 = Conv(width, outputs, 3, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, ceil(H / 2), ceil(W / 2))`."""
        return activate(self.conv1(activate(self.conv0(maps))))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a 1x1 one, blurred where they are halved; their sum is scaled by 1/sqrt(2).

    The scale of the sum is in the gains. Unlike StyleGAN2's, the main path is blurred and halved before its second
    convolution, not blurred before and halved by it: that one looks twice as far, for as many multiplications and
    without a pass at the full size.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = EqualisedConv(inputs, width, 3)
        self.conv1 = EqualisedConv(width, outputs, 3, gain=STYLEGAN2_GAIN * sqrt(0.5))
        self.skip = EqualisedConv(inputs, outputs, 1, gain=sqrt(0.5), bias=False)
        self.halve = BlurHalf()

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, ceil(H / 2), ceil(W / 2))`."""
        main = activate(self.conv1(self.halve(activate(self.conv0(maps)))))
        return main + self.skip(self.halve(maps))


class BlurHalf(nn.Module):
    """Half the size, rounded up, by the filter [1, 3, 3, 1] / 8 in both directions; zeros lie outside.

    Blur and stride in one depthwise convolution: only what is kept is computed. In one dimension, output i is
    `(x[2i - 1] + 3 x[2i] + 3 x[2i + 1] + x[2i + 2]) / 8`.
    """

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("taps", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, C, ceil(H / 2), ceil(W / 2))`."""
        C, H, W = maps.shape[1:]
        if H % 2 or W % 2:
            maps = F.pad(maps, (0, W % 2, 0, H % 2))
        return F.conv2d(maps, self.taps.expand(C, 1, 4, 4), stride=2, padding=1, groups=C)


def minibatch_std(maps: Tensor) -> Tensor:
    """How much images differ from their neighbours in the batch (arXiv 1710.10196, section 3): one more map.

    The standard deviation over a group of consecutive images, averaged over everything else: the same number for the
    whole group. A group is the largest divisor of the batch up to 4.

    Args:
        maps: `(B, C, H, W)`.

    Returns:
        `(B, 1, H, W)`, computed in float32 at least.
    """
    B, C, H, W = maps.shape
    size = next(size for size in (4, 3, 2, 1) if B % size == 0)
    groups = maps.to(torch.promote_types(maps.dtype, torch.float32)).reshape(B // size, size, C, H, W)
    # Inside of the root something more than 0, where its slope is infinite: images may be the same.
    std = (groups.var(dim=1, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return std.to(maps.dtype).repeat_interleave(size).reshape(B, 1, 1, 1).expand(B, 1, H, W)


# -- the table ---------------------------------------------------------------------------------------------------------


class Layers(NamedTuple):
    """A kind of layers.

    Attributes:
        conv: of inputs, outputs and kernel; `gain` where leaky ReLU does not follow.
        linear: of inputs and outputs; likewise.
        block: of inputs, width inside and outputs: from one resolution to the next.
    """

    conv: Callable[..., nn.Module]
    linear: Callable[..., nn.Module]
    block: Callable[[int, int, int], nn.Module]


LAYERS = {
    "plain": Layers(Conv, Linear, PlainBlock),
    "stylegan2": Layers(EqualisedConv, EqualisedLinear, ResidualBlock),
}
