"""How good reconstructions are: the columns of the paper's Table 1 (L1, PSNR, SSIM, IS, FID)."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from perceptual_mae.data import Batch
from perceptual_mae.errors import PmaeError
from perceptual_mae.evaluation.fidelity import ORIGINALS, Extractor, Fidelity
from perceptual_mae.evaluation.reconstruction import reconstructions
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.models.patches import mask_to_pixels

LARGEST_PSNR = 100.0
"""dB that an image drawn without an error counts as: the true value is infinite, and so would be the mean."""
PLANES = 16
"""Channels that SSIM's convolution is given at once."""
VERSIONS = ("output", "pasted")


@torch.inference_mode()
def measure_reconstructions(
    model: MaskedAutoencoder,
    batches: Iterable[Batch],
    *,
    mask_ratio: float,
    seed: int = 0,
    extractors: Sequence[Extractor] = (),
) -> dict[str, Any]:
    """Reconstruct masked images and measure how far they are from the originals, clamped to [0, 1].

    Args:
        model: left as it was.
        batches: the images; only one batch of them is held at a time.
        mask_ratio: share of patches removed, in [0, 1).
        seed: of the masks, which are the same for all models with the same grid of patches and for all batch sizes.
        extractors: networks whose features the images are compared in; see `fidelity`.

    Returns:
        `images`, `mask_ratio` and `seed`, and means over images of what `pixel_metrics` gives: `output` of the model's
        output as it is, `pasted` of the same with the visible patches of the originals pasted back, `removed` of the
        removed pixels alone (`l1` and `psnr`; empty where none was removed). `output` and `pasted` hold a distance from
        the originals for each extractor: `fid` for Inception, else `fd-<name>`. A classifier adds its `is` and
        `is_std`, also to `originals`, for comparison. `notes`: what a reader should know, a sentence each. Everything
        is ready for JSON. Empty without images.

    Raises:
        PmaeError: the model draws numbers that are not finite.
    """
    sums: dict[str, dict[str, float]] = {"output": {}, "pasted": {}, "removed": {}}
    colour = model.in_channels in (1, 3)
    judges = [Fidelity(extractor, VERSIONS) for extractor in extractors if colour]
    seen = 0
    for originals, result in reconstructions(model, batches, mask_ratio, seed):
        output = result.images.float()
        if not output.isfinite().all():
            raise PmaeError(
                "the reconstructions are not finite numbers: training has diverged; measure an earlier step"
            )
        output = output.clamp(0, 1)
        removed = mask_to_pixels(result.mask, model.grid, model.patch_size).expand_as(originals)
        pictures = {ORIGINALS: originals, "output": output, "pasted": torch.where(removed, output, originals)}
        for version in VERSIONS:
            _add(sums[version], pixel_metrics(pictures[version], originals))
        if removed.any():  # of every image equally many
            B = len(originals)
            _add(sums["removed"], errors(output[removed].reshape(B, -1), originals[removed].reshape(B, -1)))
        for judge in judges:
            judge.update(pictures)
        seen += len(originals)
    if not seen:
        return {}
    found: dict[str, Any] = {"images": seen, "mask_ratio": mask_ratio, "seed": seed}
    found |= {version: {name: total / seen for name, total in parts.items()} for version, parts in sums.items()}
    for judge in judges:
        for version, numbers in judge.results().items():
            if numbers:
                found[version] = found.get(version, {}) | numbers
    found["notes"] = [note for judge in judges for note in judge.notes()]
    if extractors and not colour:
        names = ", ".join(extractor.name for extractor in extractors)
        found["notes"].append(f"distances by {names}: left out, images have {model.in_channels} channels, not 1 or 3")
    return found


def pixel_metrics(images: Tensor, originals: Tensor) -> dict[str, Tensor]:
    """Errors of images, a number for each.

    Args:
        images, originals: `(B, C, H, W)` in [0, 1], at least 6 pixels a side.

    Returns:
        `(B,)` each: `l1`, `psnr` as in `errors`, and `ssim`.
    """
    return errors(images, originals) | {"ssim": ssim(images, originals)}


def errors(values: Tensor, originals: Tensor) -> dict[str, Tensor]:
    """Errors of images or of some of their pixels, `(B, ...)` in [0, 1].

    Returns:
        `(B,)` each: `l1`, the mean absolute error, and `psnr`, `10 log10(1 / mean squared error)` in dB, at most
        `LARGEST_PSNR`. A PSNR of a set is the mean of its images' PSNRs, which is larger than that of the set's mean
        squared error.
    """
    values, originals = values.flatten(1), originals.flatten(1)
    psnr = peak_signal_noise_ratio(values, originals, data_range=1.0, dim=1, reduction="none")
    return {"l1": (values - originals).abs().mean(dim=1), "psnr": psnr.clamp(max=LARGEST_PSNR)}


def ssim(images: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), the mean over channels and pixels: 1 for equal images.

    torchmetrics' with its defaults: a Gaussian window of 11 x 11 pixels, sigma 1.5, images reflected at their edges.
    Wang's own code (and scikit-image) leaves out 5 pixels at the edges, where there is no whole window.

    Args:
        images, originals: `(B, C, H, W)` in [0, 1], at least 6 pixels a side.

    Returns:
        `(B,)` in [-1, 1]; of float32 images right to 1e-4.
    """
    B, C, H, W = images.shape

    # The window slides over each channel by itself. On a CPU that takes eight times as long on images of 3 channels as
    # on the same channels in groups of 16, so whose channel it is is forgotten for a moment.
    def grouped(pictures: Tensor) -> Tensor:
        planes = pictures.reshape(B * C, H, W)
        return F.pad(planes, (0, 0, 0, 0, 0, -len(planes) % PLANES)).reshape(-1, PLANES, H, W)

    _, similarity = structural_similarity_index_measure(
        grouped(images), grouped(originals), data_range=1.0, reduction="none", return_full_image=True
    )
    return similarity.reshape(-1, H, W)[: B * C].reshape(B, -1).mean(dim=1)


def _add(sums: dict[str, float], values: dict[str, Tensor]) -> None:
    for name, each in values.items():
        sums[name] = sums.get(name, 0.0) + float(each.cpu().double().sum())
