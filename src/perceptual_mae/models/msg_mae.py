"""MSG-MAE: a masked autoencoder that draws at every scale and is given earlier maps of its encoder (section 3.3)."""

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from perceptual_mae.models.mae import MaskedAutoencoder, initialise_linear
from perceptual_mae.models.masking import Masking
from perceptual_mae.models.pyramid import patch_sides


class MultiScaleAutoencoder(MaskedAutoencoder):
    """The generator that an adversary can judge at every scale at once (figure 1 of the paper).

    It is a `MaskedAutoencoder` with two additions:

    - RGB heads: after decoder blocks spread over its depth, a norm and a linear draw the image with patches of 1, 2, 4,
      ... pixels; at full resolution it is `decoder_pred`, after the last block.
    - U-Net skips (with `skips`): the output of encoder block `depth - i` joins the tokens after decoder block i.

    Args:
        skips: with skips the model is the paper's MSG-MAE; without them the ablation rows' MAE with RGB heads.
        arguments: as `MaskedAutoencoder` takes them.

    Raises:
        ValueError: sizes that do not fit each other, or a decoder deeper than the encoder.
    """

    def __init__(self, *, skips: bool = True, **arguments: Any) -> None:
        super().__init__(**arguments)
        depth, dim = len(self.decoder_blocks), self.mask_token.shape[-1]
        coarse = patch_sides(self.patch_size)[:-1]
        self.scales = tuple((self.grid[0] * side, self.grid[1] * side) for side in (*coarse, self.patch_size))
        # Of S heads the s-th draws after block ceil(s * depth / S), counted from 1: the last block draws the last.
        self.head_blocks = tuple(ceil(s * depth / len(self.scales)) - 1 for s in range(1, len(self.scales)))
        self.rgb_norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in coarse)
        self.rgb_heads = nn.ModuleList(nn.Linear(dim, side**2 * self.in_channels) for side in coarse)
        if skips:
            if depth > len(self.blocks):
                raise ValueError(f"a decoder of {depth} blocks has no encoder block for each of its skips")
            self.skip_blocks = tuple(len(self.blocks) - i - 1 for i in range(1, depth))
        self.skip_embeds = nn.ModuleList(nn.Linear(self.embed_dim, dim) for _ in self.skip_blocks)
        merges = [nn.Linear(2 * dim, dim) for _ in self.skip_blocks]
        self.skip_merges = nn.ModuleList(merges)
        for new in (self.rgb_heads, self.skip_embeds):
            new.apply(initialise_linear)
        for merge in merges:
            pass_through(merge)

    def decode(self, latent: Tensor, masking: Masking, maps: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """As `MaskedAutoencoder.decode`, at every scale: `(B, N, s * s * C)` with s = 1, 2, 4, ..., P."""
        tokens = self.with_mask_tokens(self.decoder_embed(latent), masking)
        drawn = []
        for i, block in enumerate(self.decoder_blocks):
            tokens = block(tokens)
            for head, at in enumerate(self.head_blocks):
                if at == i:
                    drawn.append(self.rgb_heads[head](self.rgb_norms[head](tokens))[:, 1:])
            if i < len(self.skip_blocks):
                seen = self.with_mask_tokens(self.skip_embeds[i](maps[i]), masking)
                tokens = self.skip_merges[i](torch.cat([tokens, seen], dim=-1))
        return (*drawn, self.decoder_pred(self.decoder_norm(tokens))[:, 1:])


@torch.no_grad()
def pass_through(merge: nn.Linear) -> None:
    """Initialise a linear `(2d -> d)` to return its first half: the decoder begins as one without skips.

    Drawn at random, as other linears are, it would mix up the residual stream after every block.
    """
    merge.weight.zero_()
    merge.weight[:, : len(merge.weight)].fill_diagonal_(1.0)
    merge.bias.zero_()
