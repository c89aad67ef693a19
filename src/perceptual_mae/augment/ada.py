"""Adaptive discriminator augmentation: what happens to an image before D sees it (ADA, arXiv 2006.06676, appendix B).

Thirteen operations, each executed with probability p, come down to ONE affine resampling and ONE affine map of the
colours an image. In three steps, so that real and generated images can share them at every scale:

    numbers = draw_ada(batch, generator)              # raw random numbers, whatever p is
    change = transforms(numbers, p, size, channels)   # what they come to at p
    augment(real, change), augment(fake, change)      # both pyramids, alike and differentiably

"Executed" is the paper's word: a flip that is executed flips every second image, a turn leaves every fourth upright.
So the upright, unchanged image stays the most frequent one for every p < 1, and the generator can know it by that: the
augmentations do not leak into what it draws (section 2.2 of the paper).

Unlike the paper's, resampling is bilinear, without wavelet up- and down-sampling around it. What lies outside of an
image is its reflection about the border; a quarter turn of an image that is not square is filled up so as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Operation(IntEnum):
    """What may happen to an image, in this order."""

    FLIP = 0
    """Left to right."""
    TURN = 1
    """By a number of quarter turns."""
    SHIFT = 2
    """Translation by whole pixels."""
    SCALE = 3
    ROTATION = 4
    STRETCH = 5
    """Anisotropic scale: wider by as much as less high."""
    SECOND_ROTATION = 6
    MOVE = 7
    """Translation by fractions of a pixel."""
    BRIGHTNESS = 8
    CONTRAST = 9
    LUMA_FLIP = 10
    """Light to dark; hues stay."""
    HUE = 11
    SATURATION = 12


_UNIFORM, _NORMAL = 8, 7
ADA_NUMBERS = len(Operation) + _UNIFORM + _NORMAL
"""How many random numbers one image needs."""


def draw_ada(batch: int, generator: torch.Generator | None) -> Tensor:
    """Raw random numbers for `batch` images: `(batch, ADA_NUMBERS)` float32 on the CPU, whatever p is.

    The columns are, in order:
     - 13 uniform in [0, 1), one an `Operation`: it is executed where this is below its probability;
     - 8 uniform in [0, 1): flip, turn, shift along x and y, rotation, second rotation, luma flip, hue;
     - 7 standard normal: scale, stretch, move along x and y, brightness, contrast, saturation.

    As the numbers do not depend on p, neither do the operations' strengths: with rising p, more of them are executed.
    """
    uniform = torch.rand(batch, len(Operation) + _UNIFORM, generator=generator)
    return torch.cat([uniform, torch.randn(batch, _NORMAL, generator=generator)], dim=1)


class Parameters(NamedTuple):
    """What is done to each image: `(B,)` float64 each, and 0 where an operation is not executed.

    Attributes:
        flip: 1: left to right.
        turn: quarter turns counter-clockwise, 0 to 3.
        shift_x, shift_y: to the right and down, in [-0.125, 0.125] of the image's width and height.
        scale: binary logarithm of the factor, N(0, 0.2).
        rotation: radians counter-clockwise, in [-pi, pi].
        stretch: binary logarithm of the factor along x, N(0, 0.2); along y it is the inverse.
        second_rotation: after stretching; as `rotation`.
        move_x, move_y: N(0, 0.125) of the image's width and height, not rounded.
        brightness: N(0, 0.2), for values in [-1, 1].
        contrast: binary logarithm of the factor, N(0, 0.5).
        luma_flip: 1: light to dark.
        hue: radians about the grey axis, in [-pi, pi].
        saturation: binary logarithm of the factor, N(0, 1).
    """

    flip: Tensor
    turn: Tensor
    shift_x: Tensor
    shift_y: Tensor
    scale: Tensor
    rotation: Tensor
    stretch: Tensor
    second_rotation: Tensor
    move_x: Tensor
    move_y: Tensor
    brightness: Tensor
    contrast: Tensor
    luma_flip: Tensor
    hue: Tensor
    saturation: Tensor


def parameters(draw: Tensor, p: float) -> Parameters:
    """What raw numbers `draw: (B, ADA_NUMBERS)` come to at p in [0, 1]."""
    gates, uniform, normal = draw.double().split([len(Operation), _UNIFORM, _NORMAL], dim=1)
    flip, turn, shift_x, shift_y, rotation, second_rotation, luma_flip, hue = uniform.unbind(dim=1)
    scale, stretch, move_x, move_y, brightness, contrast, saturation = normal.unbind(dim=1)
    p_rotation = 1 - math.sqrt(1 - p)  # each of two, so that an image is rotated at all with probability p

    def when(operation: Operation, value: Tensor, probability: float = p) -> Tensor:
        return torch.where(gates[:, operation] < probability, value, 0.0)

    return Parameters(
        flip=when(Operation.FLIP, (2 * flip).floor()),
        turn=when(Operation.TURN, (4 * turn).floor()),
        shift_x=when(Operation.SHIFT, 0.125 * (2 * shift_x - 1)),
        shift_y=when(Operation.SHIFT, 0.125 * (2 * shift_y - 1)),
        scale=when(Operation.SCALE, 0.2 * scale),
        rotation=when(Operation.ROTATION, math.pi * (2 * rotation - 1), p_rotation),
        stretch=when(Operation.STRETCH, 0.2 * stretch),
        second_rotation=when(Operation.SECOND_ROTATION, math.pi * (2 * second_rotation - 1), p_rotation),
        move_x=when(Operation.MOVE, 0.125 * move_x),
        move_y=when(Operation.MOVE, 0.125 * move_y),
        brightness=when(Operation.BRIGHTNESS, 0.2 * brightness),
        contrast=when(Operation.CONTRAST, 0.5 * contrast),
        luma_flip=when(Operation.LUMA_FLIP, (2 * luma_flip).floor()),
        hue=when(Operation.HUE, math.pi * (2 * hue - 1)),
        saturation=when(Operation.SATURATION, saturation),
    )


class Change(NamedTuple):
    """An affine map of k numbers for each image.

    Attributes:
        maps: `(B, k, k + 1)` float64: the linear part, and what is added.
        affected: `(B,)` bool: where the map is not the identity, exactly.
    """

    maps: Tensor
    affected: Tensor


@dataclass(frozen=True)
class Transforms:
    """What happens to the images of a batch, at every scale. None: nothing happens to any image.

    Attributes:
        channels: of the images that it is for.
        geometry: `(x, y)` of a pixel of the result to those of the point of the image that it shows, both in [-1, 1]
            from border to border, as for `F.grid_sample` without aligned corners.
        colour: of three channels, `(R, G, B)` to `(R, G, B)`, in [0, 1]; of any other number, each channel by itself.
    """

    channels: int
    geometry: Change | None = None
    colour: Change | None = None


def transforms(draw: Tensor, p: float, size: tuple[int, int], channels: int) -> Transforms:
    """What raw numbers come to.

    Args:
        draw: `(B, ADA_NUMBERS)`, see `draw_ada`, on the device of the images.
        p: probability of each operation, in [0, 1]; 0: nothing happens.
        size: height and width of the images at their finest scale, in whose whole pixels `Operation.SHIFT` is.
        channels: of the images. Only three of them have a hue: others change in brightness and contrast alone.

    Raises:
        ValueError: p is outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1], not {p}")
    if p == 0:
        return Transforms(channels)
    chosen = parameters(draw, p)
    return Transforms(channels, _geometry(chosen, *size), _colour(chosen, channels))


def augment(pyramid: Sequence[Tensor], change: Transforms) -> tuple[Tensor, ...]:
    """Images at every scale, changed alike.

    Args:
        pyramid: `(B, C, h, w)` each, in [0, 1].
        change: what happens to them.

    Returns:
        the images, in their own dtypes and not clamped. Differentiable, also twice where `twice_differentiable`.
        Images that nothing happens to keep every bit; where nothing happens to any, these are the tensors given.

    Raises:
        ValueError: the images do not have the channels that the change is for.
    """
    return tuple(_augmented(images, change) for images in pyramid)


def twice_differentiable(device: torch.device) -> bool:
    """Whether this PyTorch has second derivatives of resampling on a device; versions before it had them raise."""
    images = torch.zeros(1, 1, 2, 2, device=device, requires_grad=True)
    weight = torch.ones(1, 1, 2, 2, device=device, requires_grad=True)
    resampled = _resampled(images, torch.eye(2, 3, device=device)[None])
    try:
        (first,) = torch.autograd.grad(resampled, images, weight, create_graph=True)
        torch.autograd.grad(first.sum(), weight)
    except RuntimeError:
        return False
    return True


def _augmented(images: Tensor, change: Transforms) -> Tensor:
    if images.shape[1] != change.channels:
        raise ValueError(f"images of {images.shape[1]} channels cannot be changed as ones of {change.channels}")
    if change.geometry is None and change.colour is None:
        return images
    # bf16 has fewer than three digits: too few for a coordinate.
    with torch.autocast(images.device.type, enabled=False):
        result = images if images.dtype == torch.float64 else images.float()
        for of, apply in ((change.geometry, _resampled), (change.colour, _recoloured)):
            if of is not None:
                changed = apply(result, of.maps.to(result.dtype))
                result = torch.where(of.affected[:, None, None, None], changed, result)
    return result.to(images.dtype)


def _resampled(images: Tensor, maps: Tensor) -> Tensor:
    """Images `(B, C, h, w)` looked up where `maps: (B, 2, 3)` send each pixel."""
    height, width = images.shape[-2:]
    y, x = (
        (torch.arange(side, dtype=images.dtype, device=images.device) * 2 + 1) / side - 1 for side in (height, width)
    )
    # Not by `F.affine_grid`: it multiplies matrices, which takes ten times as long on a CPU, and where TF32 does it, a
    # coordinate has three digits.
    along_x, along_y, offset = maps[:, :, :, None, None].unbind(dim=2)
    grid = along_x * x + along_y * y[:, None] + offset
    return F.grid_sample(images, grid.movedim(1, -1), mode="bilinear", padding_mode="reflection", align_corners=False)


def _recoloured(images: Tensor, maps: Tensor) -> Tensor:
    """Colours of images `(B, C, h, w)` under `maps: (B, 3, 4)`; under `(B, 1, 2)`, each channel by itself."""
    of = maps.shape[1]
    colours = images.reshape(len(images), of, -1)
    return torch.baddbmm(maps[:, :, of:], maps[:, :, :of], colours).reshape(images.shape)


def _geometry(chosen: Parameters, height: int, width: int) -> Change:
    """Operations 1 to 8, in pixels from the centre of the image (x to the right, y down), then in units of its sides.

    What is looked for is where a pixel of the result comes from: `G^-1` of `G = G_8 ... G_2 G_1`, so the inverses
    `G_1^-1 G_2^-1 ...` stand in the order of the operations. With `G^-1 q = L q + t`, a linear operation A makes
    `L A^-1` of L, and a translation by d makes `t - L d` of t.
    """
    one = torch.ones_like(chosen.flip)
    # 1, 0, -1, 0 and 0, 1, 0, -1: cosine and sine of quarter turns, exactly.
    turn = _rotation((chosen.turn - 2).abs() - 1, 1 - (chosen.turn - 1).abs())
    linear = _diagonal(1 - 2 * chosen.flip, one) @ turn
    shift = torch.stack([(chosen.shift_x * width).round(), (chosen.shift_y * height).round()], dim=1)
    offset = -(linear @ shift[:, :, None])
    linear = linear @ _diagonal((-chosen.scale).exp2(), (-chosen.scale).exp2())
    linear = linear @ _rotation(chosen.rotation.cos(), chosen.rotation.sin())
    linear = linear @ _diagonal((-chosen.stretch).exp2(), chosen.stretch.exp2())
    linear = linear @ _rotation(chosen.second_rotation.cos(), chosen.second_rotation.sin())
    move = torch.stack([chosen.move_x * width, chosen.move_y * height], dim=1)
    offset = offset - linear @ move[:, :, None]
    sides = torch.stack([one * width / 2, one * height / 2], dim=1)
    return _change(linear * sides[:, None] / sides[:, :, None], offset / sides[:, :, None])


def _colour(chosen: Parameters, channels: int) -> Change:
    """Operations 9 to 13: `x -> M c (x + b)` for x in [-1, 1], with M about the grey axis v = (1, 1, 1) / sqrt(3).

    Our images are y = (x + 1) / 2 in [0, 1]: with A = c M, `y -> A y + (A (b - 1) + 1) / 2`.
    """
    linear = chosen.contrast.exp2()[:, None, None]
    if channels == 3:
        luma_flip, hue, saturation = (
            value[:, None, None] for value in (chosen.luma_flip, chosen.hue, chosen.saturation.exp2())
        )
        eye = torch.eye(3, dtype=linear.dtype, device=linear.device)
        vv = torch.full_like(eye, 1 / 3)  # v v^T
        cross = (eye.roll(1, dims=0) - eye.roll(1, dims=1)) / math.sqrt(3)  # v x
        flipped = eye - 2 * luma_flip * vv
        turned = hue.cos() * eye + hue.sin() * cross + (1 - hue.cos()) * vv  # Rodrigues' formula
        saturated = saturation * eye + (1 - saturation) * vv
        linear = linear * (saturated @ turned @ flipped)
    brightness = chosen.brightness[:, None, None]
    return _change(linear, (linear.sum(dim=2, keepdim=True) * (brightness - 1) + 1) / 2)


def _change(linear: Tensor, offset: Tensor) -> Change:
    """The map of a linear part `(B, k, k)` and an offset `(B, k, 1)`."""
    maps = torch.cat([linear, offset], dim=2)
    identity = torch.eye(*maps.shape[1:], dtype=maps.dtype, device=maps.device)
    return Change(maps, (maps != identity).flatten(1).any(dim=1))


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    """`(B, 2, 2)` diagonal matrices of `(B,)` entries."""
    return torch.stack([x, y], dim=1).diag_embed()


def _rotation(cos: Tensor, sin: Tensor) -> Tensor:
    """`(B, 2, 2)`: where a pixel comes from when its image is rotated counter-clockwise (y points down)."""
    return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
