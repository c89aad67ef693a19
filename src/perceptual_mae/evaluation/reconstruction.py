"""Reconstructions of whole images under fixed, seeded masks: to look at, and to measure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perceptual_mae.data import Batch, to_float
from perceptual_mae.losses.term import LossTerm
from perceptual_mae.models import MaskedAutoencoder, Reconstruction
from perceptual_mae.models.masking import draw_noise
from perceptual_mae.models.patches import mask_to_pixels
from perceptual_mae.seeds import Stream, generator


@dataclass(frozen=True)
class Look:
    """What a model makes of some images, `(n, C, H, W)` each.

    Attributes:
        originals: the images in [0, 1].
        masks: `(n, 1, H, W)` bool, True = removed.
        reconstructions: the model's output as it is.
    """

    originals: Tensor
    masks: Tensor
    reconstructions: Tensor

    @property
    def pasted(self) -> Tensor:
        """The reconstructions with the visible patches of the originals pasted back."""
        return torch.where(self.masks, self.reconstructions, self.originals)


@torch.inference_mode()
def look(model: MaskedAutoencoder, images: Tensor, mask_ratio: float, seed: int = 0) -> Look:
    """Mask and reconstruct a few images, on the model's device; the result is on the CPU.

    Args:
        model: left as it was.
        images: `(n, C, H, W)` uint8 or in [0, 1].
        mask_ratio: share of patches removed.
        seed: of the masks, which do not depend on the model.
    """
    device = model.mean.device
    images = (to_float(images) if images.dtype == torch.uint8 else images).to(device)
    noise = draw_noise(len(images), model.num_patches, generator(seed, Stream.EVALUATION_MASKS), device)
    reconstruction = model(images, mask_ratio, noise)
    masks = mask_to_pixels(reconstruction.mask, model.grid, model.patch_size)
    return Look(images.cpu(), masks.cpu(), reconstruction.images.float().cpu())


@torch.inference_mode()
def reconstructions(
    model: MaskedAutoencoder, batches: Iterable[Batch], mask_ratio: float, seed: int = 0
) -> Iterator[tuple[Tensor, Reconstruction]]:
    """Mask and reconstruct images batch by batch, on the model's device.

    The masks are drawn image after image: they depend on the seed and on the place of an image among the others, not on
    how batches are cut and not on the model, as long as its grid of patches is the same.

    Yields:
        images `(B, C, H, W)` in [0, 1], and what the model makes of them. Empty batches are left out.
    """
    device, stream = model.mean.device, generator(seed, Stream.EVALUATION_MASKS)
    for batch in batches:
        if len(batch):
            images = to_float(batch.images.to(device))
            yield images, model(images, mask_ratio, draw_noise(len(images), model.num_patches, stream, device))


@torch.inference_mode()
def reconstruction_errors(
    model: MaskedAutoencoder, batches: Iterable[Batch], mask_ratio: float, seed: int = 0
) -> dict[str, float]:
    """How far reconstructions are from the images.

    Returns:
        `mse`: the loss of the `mse` row, over removed patches in the model's normalised space; `l1`: mean absolute
        error of the removed pixels in [0, 1]. Empty without images.
    """
    sums, seen = {"mse": 0.0, "l1": 0.0}, 0
    for images, result in reconstructions(model, batches, mask_ratio, seed):
        hidden = result.mask
        squares = (result.patches.float() - result.target).square().mean(dim=-1)
        share = hidden.float().mean(dim=1).clamp(min=1e-9)  # of removed patches; without any, the errors are 0
        pixels = mask_to_pixels(hidden, model.grid, model.patch_size)
        errors = ((result.images - images).abs() * pixels).mean(dim=(1, 2, 3)) / share
        sums["mse"] += float(((squares * hidden).mean(dim=1) / share).sum())
        sums["l1"] += float(errors.sum())
        seen += len(images)
    return {name: total / seen for name, total in sums.items()} if seen else {}


@torch.inference_mode()
def expected_losses(
    model: MaskedAutoencoder, images: Tensor, losses: Sequence[tuple[str, LossTerm]], mask_ratio: float
) -> dict[str, float]:
    """What each loss is for a model that has learnt nothing but the mean colour: the value that learning starts from.

    Args:
        images: `(n, C, H, W)` uint8, a sample of the data.
        losses: names and terms.
    """
    device = model.mean.device
    floats = to_float(images.to(device))
    noise = draw_noise(len(floats), model.num_patches, generator(0, Stream.EVALUATION_MASKS), device)
    result = model(floats, mask_ratio, noise)
    B, N, pixels = result.target.shape
    colour = result.target.reshape(-1, model.in_channels).mean(dim=0)
    constant = colour.repeat(pixels // model.in_channels).expand(B, N, pixels)
    guess = result.drawn([*result.predictions[:-1], constant])
    return {name: float(loss(guess, floats)[0]) for name, loss in losses}
