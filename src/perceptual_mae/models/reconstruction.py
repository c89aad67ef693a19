"""What an autoencoder makes of masked images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from perceptual_mae.models.masking import Masking


@dataclass
class Reconstruction:
    """What the autoencoder makes of a batch of masked images.

    Attributes:
        latent: `(B, 1 + n, D)` encoder output for `[CLS]` and the n visible patches: z, what the decoder is given.
        maps: `(B, 1 + n, D)` each, outputs of earlier encoder blocks that the decoder is given too; often none.
        predictions: `(B, N, s * s * C)` each, what the decoder draws of every token at each of its scales, coarse to
            fine; s is the side of a patch at that scale. In the space of `target`.
        target: `(B, N, P * P * C)` what the last of `predictions` should be: the patches of the image, normalised with
            the model's mean and std and, with `norm_pix_loss`, each with its own mean and variance. A constant.
        masking: which patches the encoder saw.
        grid: `(rows, columns)` of patches.
        to_pixels: from tokens in the model's normalised space, at any scale, to images in [0, 1].
        patch_mean, patch_std: `(B, N, 1)`, what patches were normalised with, with `norm_pix_loss`.
    """

    latent: Tensor
    maps: tuple[Tensor, ...]
    predictions: tuple[Tensor, ...]
    target: Tensor
    masking: Masking
    grid: tuple[int, int]
    to_pixels: Callable[[Tensor], Tensor]
    patch_mean: Tensor | None = None
    patch_std: Tensor | None = None

    @property
    def patches(self) -> Tensor:
        """`(B, N, P * P * C)` the prediction at full resolution."""
        return self.predictions[-1]

    @property
    def mask(self) -> Tensor:
        """`(B, N)` bool, True = removed."""
        return self.masking.mask

    @property
    def images(self) -> Tensor:
        """`(B, C, H, W)` the reconstruction in [0, 1] image space, not clamped.

        Made when asked for: the loss of the `mse` row never needs it.
        """
        return self._draw(self.patches)

    @property
    def pyramid(self) -> tuple[Tensor, ...]:
        """The reconstruction at every scale the decoder draws, coarse to fine; the last is `images`."""
        return tuple(self._draw(tokens) for tokens in self.predictions)

    def _draw(self, tokens: Tensor) -> Tensor:
        if self.patch_mean is not None and self.patch_std is not None:
            tokens = tokens * self.patch_std + self.patch_mean
        return self.to_pixels(tokens)

    def drawn(self, predictions: Sequence[Tensor]) -> "Reconstruction":
        """The same images, drawn otherwise."""
        return replace(self, predictions=tuple(predictions))

    def cut(self) -> "Reconstruction":
        """The same values as leaves of a graph of their own, which collect the gradient of what is made of them."""
        return self.drawn([tokens.detach().requires_grad_() for tokens in self.predictions])

    def constant_half(self) -> "Reconstruction":
        """Images 0, 2, 4, ... of the batch, without a graph and in full precision, for another drawing of them.

        `predictions` and `target` are left out.
        """
        half = slice(None, None, 2)

        def constant(tensor: Tensor) -> Tensor:
            return tensor.detach()[half].to(torch.promote_types(tensor.dtype, torch.float32))

        return replace(
            self,
            latent=constant(self.latent),
            maps=tuple(map(constant, self.maps)),
            predictions=(),
            target=self.target.new_empty(0),
            masking=Masking(*(indices[half] for indices in self.masking)),
            patch_mean=None if self.patch_mean is None else self.patch_mean[half],
            patch_std=None if self.patch_std is None else self.patch_std[half],
        )
