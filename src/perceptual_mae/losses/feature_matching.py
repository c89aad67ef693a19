"""Feature matching (eq. 3 of the paper): reconstructions should look like the images to a loss network."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from perceptual_mae.losses.precision import full
from perceptual_mae.losses.term import Judged, Seen
from perceptual_mae.models import Reconstruction


@dataclass(frozen=True)
class FeatureMatching:
    """`delta_f * sum_j mean|phi_j(G) - phi_j(I)| + delta_s * sum_j mean|Gram(phi_j(G)) - Gram(phi_j(I))|` (eq. 3).

    phi_j is layer j of the loss network: what is where in the first sum, and in the second which features go together,
    wherever they are (the style of Gatys et al., arXiv 1508.06576). What the network sees in the images is a constant;
    the gradient reaches the generator through what it sees in the reconstructions.

    Attributes:
        delta_f: weight of the features.
        delta_s: weight of their Gram matrices.
    """

    delta_f: float = 0.05
    delta_s: float = 40.0

    def __call__(self, reconstruction: Reconstruction, images: Tensor, seen: Seen | None = None) -> Judged:
        """Judge by `seen` alone, the loss network's view of reconstruction and images.

        Returns:
            the loss, and the mean of every layer without its weight: `features/1`, `gram/1`, `features/2`, ...

        Raises:
            ValueError: there is no loss network.
        """
        if seen is None:
            raise ValueError("feature matching takes a loss network")
        features, grams = [], []
        for fake, real in zip(seen.fake.features, seen.real.features, strict=True):
            constant = real.detach()
            features.append((full(fake) - full(constant)).abs().mean())
            grams.append((gram(fake) - gram(constant)).abs().mean())
        loss = self.delta_f * torch.stack(features).sum() + self.delta_s * torch.stack(grams).sum()
        parts: dict[str, Tensor] = {}
        for layer, (feature, style) in enumerate(zip(features, grams, strict=True), start=1):
            parts |= {f"features/{layer}": feature.detach(), f"gram/{layer}": style.detach()}
        return loss, parts


def gram(features: Tensor) -> Tensor:
    """Gram matrices `f f^T / (C H W)` of feature maps `(B, C, H, W)`: `(B, C, C)`, in float32 or better."""
    flat = full(features).flatten(2)
    # Autocast would take the product in half precision.
    with torch.autocast(flat.device.type, enabled=False):
        return flat @ flat.transpose(1, 2) / math.prod(flat.shape[1:])
