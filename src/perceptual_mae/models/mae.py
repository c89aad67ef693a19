"""The masked autoencoder (He et al., arXiv 2111.06377), the `mse` row of the paper's Table 2."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from perceptual_mae.models.masking import Masking, draw_noise, mask_from_noise
from perceptual_mae.models.patches import patchify, unpatchify
from perceptual_mae.models.positions import sincos_2d
from perceptual_mae.models.reconstruction import Reconstruction
from perceptual_mae.models.sizes import SIZES
from perceptual_mae.models.weights import LoadReport, load_mae_names

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PatchProjection(nn.Module):
    """The weights that make tokens of patches, under the name that checkpoints give them: `patch_embed.proj`."""

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        """`(B, n, P * P * C)`, each patch as (row, column, channel), to tokens `(B, n, D)`.

        The convolution as the matrix product that it is, so that it can be taken of a few patches only.
        """
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches, weight, self.proj.bias)


class MaskedAutoencoder(nn.Module):
    """A Vision Transformer encoder that sees the kept patches, and a small decoder that draws the removed ones.

    Parameter names are those of public MAE checkpoints and, for the encoder, of timm's `VisionTransformer`.

    Args:
        image_size: `(H, W)` or one side, in pixels; multiples of `patch_size`.
        patch_size: side of a patch, in pixels.
        in_channels: channels of the images, any number from 1.
        embed_dim, depth, num_heads: the encoder.
        decoder_embed_dim, decoder_depth, decoder_num_heads: the decoder.
        mlp_ratio: hidden width of the MLPs, relative to the embedding.
        mean, std: per-channel statistics of images in [0, 1]; ImageNet's for three channels, else 0.5 and 0.25.
        norm_pix_loss: the decoder predicts patches normalised each by its own mean and variance (MAE section 3).

    Raises:
        ValueError: sizes that do not fit each other.
    """

    skip_blocks: tuple[int, ...] = ()
    """Encoder blocks whose outputs the decoder is given too, counted from 0."""
    mean: Tensor
    std: Tensor
    pos_embed: Tensor
    decoder_pos_embed: Tensor

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mlp_ratio: float = 4.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        norm_pix_loss: bool = False,
    ) -> None:
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.image_size = (height, width)
        self.patch_size, self.in_channels, self.embed_dim = patch_size, in_channels, embed_dim
        self.norm_pix_loss = norm_pix_loss
        if any(side % patch_size or side < patch_size for side in self.image_size):
            raise ValueError(f"image size {self.image_size} is not a multiple of the patch size {patch_size}")
        self.grid = (self.image_size[0] // patch_size, self.image_size[1] // patch_size)
        self.scales: tuple[tuple[int, int], ...] = (self.image_size,)
        self.num_patches = self.grid[0] * self.grid[1]

        default_mean, default_std = default_pixels(in_channels)
        self.register_buffer("mean", _per_channel(mean or default_mean, in_channels, "mean"))
        self.register_buffer("std", _per_channel(std or default_std, in_channels, "std"))

        block = partial(Block, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.register_buffer("pos_embed", sincos_2d(embed_dim, self.grid))
        self.patch_embed = PatchProjection(in_channels, embed_dim, patch_size)
        self.blocks = nn.ModuleList(block(embed_dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)

        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.register_buffer("decoder_pos_embed", sincos_2d(decoder_embed_dim, self.grid))
        self.decoder_blocks = nn.ModuleList(block(decoder_embed_dim, decoder_num_heads) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_embed_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * in_channels)
        self._initialise()

    @classmethod
    def from_size(cls, size: str, **arguments: Any) -> "MaskedAutoencoder":
        """A model of a named size (`micro`, `tiny`, `small`, `base`, `large`, `huge`); `arguments` override it."""
        if size not in SIZES:
            raise ValueError(f"no model size {size!r}; there are {', '.join(SIZES)}")
        return cls(**(asdict(SIZES[size]) | arguments))

    def _initialise(self) -> None:
        """Initialisation of MAE: Xavier-uniform linears, the patch projection as a linear, tokens N(0, 0.02)."""
        self.apply(initialise_linear)
        projection = self.patch_embed.proj
        nn.init.xavier_uniform_(projection.weight.data.flatten(1))
        nn.init.constant_(projection.bias, 0.0)  # type: ignore[arg-type]
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    # -- the forward pass, in the order of the paper -------------------------------------------------------------------

    def forward(
        self,
        images: Tensor,
        mask_ratio: float = 0.75,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Reconstruction:
        """Mask, encode what is left, and reconstruct everything.

        Args:
            images: `(B, C, H, W)` in [0, 1], of the model's size.
            mask_ratio: share of patches removed, in [0, 1).
            noise: `(B, N)`; the patches with the lowest values are kept. Drawn when not given.
            generator: where the noise is drawn from.
        """
        self._check(images)
        if noise is None:
            noise = draw_noise(len(images), self.num_patches, generator, images.device)
        masking = mask_from_noise(noise, mask_ratio)
        patches = patchify((images - self.mean) / self.std, self.patch_size)
        latent, maps = self.encode_patches(patches, masking.keep)
        predicted = self.decode(latent, masking, maps)
        if not self.norm_pix_loss:
            return Reconstruction(latent, maps, predicted, patches, masking, self.grid, self.to_pixels)
        mean = patches.mean(dim=-1, keepdim=True)
        std = (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        target = (patches - mean) / std
        return Reconstruction(latent, maps, predicted, target, masking, self.grid, self.to_pixels, mean, std)

    def encode(self, images: Tensor) -> Tensor:
        """Features of whole images: `(B, C, H, W)` in [0, 1] to `(B, 1 + N, D)`, `[CLS]` first. Nothing is masked."""
        self._check(images)
        return self.encode_patches(patchify((images - self.mean) / self.std, self.patch_size))[0]

    def encode_patches(self, patches: Tensor, keep: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode normalised patches `(B, N, P * P * C)`, only those at `keep` `(B, n)` if given.

        Returns:
            the latent `(B, 1 + n, D)` after the final LayerNorm, and the outputs of the blocks `self.skip_blocks`, the
            same shape each, in that order.
        """
        positions = self.pos_embed[:, 1:]
        if keep is not None:
            # Select before projecting: removed patches cost nothing at all.
            patches, positions = _take(patches, keep), _take(positions.expand(len(patches), -1, -1), keep)
        tokens = self.patch_embed(patches) + positions
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        tokens = torch.cat([cls.to(tokens.dtype), tokens], dim=1)
        outputs = []
        for block in self.blocks:
            tokens = block(tokens)
            outputs.append(tokens)
        return self.norm(tokens), tuple(outputs[index] for index in self.skip_blocks)

    def decode(self, latent: Tensor, masking: Masking, maps: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """Tokens of the kept patches to a prediction for every patch, at every scale the decoder draws.

        Args:
            latent: `(B, 1 + n, D)`.
            masking: which patches those are.
            maps: outputs of `self.skip_blocks`, `(B, 1 + n, D)` each.

        Returns:
            `(B, N, s * s * C)` each, coarse to fine; this decoder draws the finest only, `s = P`.
        """
        tokens = self.with_mask_tokens(self.decoder_embed(latent), masking)
        for block in self.decoder_blocks:
            tokens = block(tokens)
        return (self.decoder_pred(self.decoder_norm(tokens))[:, 1:],)

    def with_mask_tokens(self, tokens: Tensor, masking: Masking) -> Tensor:
        """Kept tokens `(B, 1 + n, d)` to their places, mask tokens to the others, positions added: `(B, 1 + N, d)`."""
        B, seen, dim = tokens.shape
        removed = self.mask_token.to(tokens.dtype).expand(B, self.num_patches + 1 - seen, dim)
        patches = _take(torch.cat([tokens[:, 1:], removed], dim=1), masking.restore)
        return torch.cat([tokens[:, :1], patches], dim=1) + self.decoder_pos_embed

    def to_pixels(self, patches: Tensor) -> Tensor:
        """Patches in the model's normalised space `(B, N, s * s * C)` to images `(B, C, h, w)` in [0, 1].

        Of any side s: at a coarse scale the images are as much smaller as the patches.
        """
        side = isqrt(patches.shape[-1] // self.in_channels)
        return unpatchify(patches, self.grid, side) * self.std + self.mean

    # -- weights -------------------------------------------------------------------------------------------------------

    def load_mae_state_dict(self, state: Mapping[str, Any]) -> LoadReport:
        """Load weights under public MAE names, of a full model or of an encoder alone.

        Position embeddings of another grid are resampled. See `load_mae_names` for what is accepted and refused.
        """
        return load_mae_names(self, state)

    def encoder_state_dict(self) -> dict[str, Tensor]:
        """The encoder under timm's names: loads into `timm.create_model("vit_...", num_classes=0)` as it is."""
        ours = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(ours)}

    def _check(self, images: Tensor) -> None:
        expected = (self.in_channels, *self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(f"the model takes images (B, {', '.join(map(str, expected))}), not {tuple(images.shape)}")


def initialise_linear(module: nn.Module) -> None:
    """MAE's initialisation of a linear layer: Xavier-uniform weight, no bias; other modules are left alone."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def default_pixels(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel, of images in [0, 1], where nobody says: ImageNet's for three, else 0.5 and 0.25."""
    if channels == len(IMAGENET_MEAN):
        return IMAGENET_MEAN, IMAGENET_STD
    return (0.5,) * channels, (0.25,) * channels


def _per_channel(values: Sequence[float], channels: int, name: str) -> Tensor:
    if len(values) not in (1, channels):
        raise ValueError(f"{name} has {len(values)} values for {channels} channels")
    return torch.tensor(list(values), dtype=torch.float32).expand(channels).reshape(1, channels, 1, 1).clone()


def _take(sequence: Tensor, index: Tensor) -> Tensor:
    """Elements of a sequence `(B, N, D)` at `index` `(B, n)`: `(B, n, D)`."""
    return sequence.gather(1, index[..., None].expand(-1, -1, sequence.shape[-1]))
