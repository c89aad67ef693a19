"""An encoder as a network that learns: images in [0, 1] to maps of features, for heads that detect and segment."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from perceptual_mae.models.architecture import Architecture
from perceptual_mae.models.encoder import Encoder

_AFTER_MAPS = ("fc_norm", "attn_pool", "head")
"""Parts of timm's networks that see the pooled tokens alone."""


class Backbone(nn.Module):
    """A plain Vision Transformer that learns, with the pixels that it takes.

    Args:
        architecture: of a Vision Transformer of timm's; its weights are drawn from PyTorch's generator.
        image_size: `(height, width)` in pixels of the images.
        mean, std: per channel, of images in [0, 1].
        drop_path: share of residual branches that are dropped in the last block, rising linearly from 0 in the first
            (stochastic depth, arXiv 1603.09382).

    Attributes:
        network: timm's Vision Transformer.
        grid: `(h, w)` patches of an image.
        embed_dim: width D of a token.
        depth: blocks.
        patch_size: side of a patch in pixels.

    Raises:
        ValueError: the network has no blocks whose outputs are maps.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        architecture: Architecture,
        image_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.architecture, self.image_size, self.in_channels = architecture, image_size, len(mean)
        self.network: Any = architecture.build(drop_path_rate=drop_path)
        if not hasattr(self.network, "blocks") or not hasattr(self.network, "patch_embed"):
            raise ValueError(f"{architecture.name} is no Vision Transformer: it has no blocks whose outputs are maps")
        # What comes after the maps never has a gradient, and processes that train together wait for each other's.
        for name in _AFTER_MAPS:
            if isinstance(getattr(self.network, name, None), nn.Module):
                setattr(self.network, name, nn.Identity())
        self.embed_dim, self.depth = int(self.network.embed_dim), len(self.network.blocks)
        self.grid: tuple[int, int] = self.network.patch_embed.grid_size
        self.patch_size = image_size[0] // self.grid[0]
        self.register_buffer("mean", torch.tensor(list(mean)).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).reshape(1, -1, 1, 1))

    @classmethod
    def of(cls, encoder: Encoder, **arguments: Any) -> Self:
        """One with the weights of an encoder, which stays as it was.

        Raises:
            ValueError: the encoder is no Vision Transformer.
        """
        if encoder.architecture is None or not encoder.depth:
            raise ValueError(f"{encoder.name} is no Vision Transformer: it has no blocks whose outputs are maps")
        mean, std = encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()
        backbone = cls(encoder.architecture, encoder.image_size, mean, std, **arguments)
        backbone.take(encoder.network.state_dict())
        return backbone

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights of a Vision Transformer of this architecture."""
        self.network.load_state_dict(
            {name: value for name, value in tensors.items() if name.split(".")[0] not in _AFTER_MAPS}
        )

    def forward(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Outputs of some blocks as maps.

        Args:
            images: `(B, C, H, W)` in [0, 1], of `image_size`.
            blocks: which, counted from 0, rising. That of the last block has passed the final norm, where the network
                has one before it pools.

        Returns:
            `(B, D, h, w)` for each.
        """
        final, maps = self.network.forward_intermediates(
            (images - self.mean) / self.std, indices=list(blocks), output_fmt="NCHW"
        )
        if blocks[-1] == self.depth - 1:
            patches = final[:, getattr(self.network, "num_prefix_tokens", 0) :]
            maps = [*maps[:-1], patches.mT.unflatten(2, self.grid)]
        return [one.contiguous() for one in maps]

    def several(self, count: int, what: str) -> tuple[int, ...]:
        """The blocks of `evenly`, all of them different.

        Raises:
            ValueError: the network has fewer; the message says `what` needs them.
        """
        blocks = self.evenly(count)
        if len(set(blocks)) < count:
            raise ValueError(f"{what} needs {count} blocks, the network has {self.depth}")
        return blocks

    def evenly(self, count: int = 4) -> tuple[int, ...]:
        """`count` blocks at equal distances, the last one among them; of 12 blocks 2, 5, 8 and 11."""
        return tuple(max(0, round(self.depth * (i + 1) / count) - 1) for i in range(count))
