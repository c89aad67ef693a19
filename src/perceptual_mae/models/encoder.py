"""A trained encoder as everything that measures or uses it sees it: images in [0, 1] to tokens."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual_mae.models.architecture import Architecture


class Encoder(nn.Module):
    """A network of timm's with the pixels that it takes, always in eval mode and without gradients on its weights.

    Args:
        network: a timm model; anything with `forward_features` that gives tokens or a map.
        name: what to call it in tables.
        image_size: `(height, width)` in pixels of the images that it takes.
        mean, std: per channel, of images in [0, 1].
        architecture: how to build such a network again; None: it has nothing to build.
        fixed_positions: its position embedding is MAE's of sines and cosines, perhaps resampled, which nobody learns.

    Attributes:
        in_channels: channels of the images.
        embed_dim: width D of a token.
        patch_size: pixels of a side that a token stands for.
        grid: `(rows, columns)` of the patch tokens, N of them.
        depth: transformer blocks, all on the same tokens; 0 for a network that has none.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: Any,
        name: str,
        image_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        architecture: Architecture | None = None,
        fixed_positions: bool = False,
    ) -> None:
        super().__init__()
        self.architecture, self.fixed_positions = architecture, fixed_positions
        self.network: Any = network.requires_grad_(False)
        self.name, self.image_size, self.in_channels = name, image_size, len(mean)
        self.register_buffer("mean", torch.tensor(list(mean)).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).reshape(1, -1, 1, 1))
        self.depth = len(self.network.blocks) if _has_token_blocks(self.network) else 0
        # The layout that convolutions like: on a CPU an EfficientNet is 1.6 times as fast.
        self.layout = torch.contiguous_format if self.depth else torch.channels_last
        self.network.to(memory_format=self.layout)
        self.eval()
        self.grid, self.embed_dim = self._shape()
        self.patch_size = image_size[0] // self.grid[0]

    def train(self, mode: bool = True) -> "Encoder":
        """Stays in eval mode: a frozen network has no dropout and moves no running mean."""
        return super().train(False)

    def forward(self, images: Tensor, block: int | None = None) -> Tensor:
        """Tokens of whole images, `[CLS]` first.

        Args:
            images: `(B, C, H, W)` in [0, 1], of `image_size`.
            block: the output of this transformer block, counted from 0 or, negative, from the end, without the final
                norm; None: the output of the network.

        Returns:
            `(B, 1 + N, D)`. Of a network without a class token the first is the mean of the others, which is what its
            own classifier sees. Register tokens are left out.

        Raises:
            ValueError: images of another shape, or a block that the network does not have.
        """
        expected = (self.in_channels, *self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"{self.name} takes images (B, {', '.join(map(str, expected))}), not {tuple(images.shape)}"
            )
        pixels = ((images - self.mean) / self.std).contiguous(memory_format=self.layout)
        if block is None:
            return self._with_cls(self._flat(self.network.forward_features(pixels)))
        index = self.block_index(block)
        _, (found,) = self.network.forward_intermediates(
            pixels, indices=[index], return_prefix_tokens=True, output_fmt="NLC", stop_early=True
        )
        # timm gives a pair only where there is something before the patches.
        patches, prefix = found if isinstance(found, tuple) else (found, found[:, :0])
        return self._with_cls(torch.cat([prefix, patches], dim=1))

    @property
    def parameter_count(self) -> int:
        """Parameters of the network as training counts them: fixed positions are computed and not learnt."""
        count = sum(parameter.numel() for parameter in self.network.parameters())
        return count - self.network.pos_embed.numel() if self.fixed_positions else count

    def block_index(self, block: int) -> int:
        """A block counted from 0, whichever way it was counted.

        Raises:
            ValueError: there is no such block.
        """
        if not self.depth:
            raise ValueError(f"{self.name} is no Vision Transformer: it has no blocks to look into")
        if not -self.depth <= block < self.depth:
            raise ValueError(f"{self.name} has blocks 0 to {self.depth - 1}, or -1 to -{self.depth} from the end")
        return block % self.depth

    # -- the many shapes of timm's features ----------------------------------------------------------------------------

    def _flat(self, features: Tensor) -> Tensor:
        """Tokens as they come, or a map with its channels first or last: `(B, T, D)`."""
        if features.ndim == 4:
            return features.flatten(1, 2) if self._channels_last else features.flatten(2).mT
        return features

    @property
    def _channels_last(self) -> bool:
        """Whether the network gives its map as `(B, H, W, C)`."""
        return str(getattr(self.network, "output_fmt", "NCHW")).endswith("NHWC")

    def _with_cls(self, tokens: Tensor) -> Tensor:
        """`(B, T, D)`, prefix tokens first, to `[CLS]` and patches."""
        prefix = getattr(self.network, "num_prefix_tokens", 0)
        patches = tokens[:, prefix:]
        has_cls = prefix and getattr(self.network, "cls_token", None) is not None
        first = tokens[:, :1] if has_cls else patches.mean(dim=1, keepdim=True)
        return torch.cat([first, patches], dim=1)

    @torch.no_grad()
    def _shape(self) -> tuple[tuple[int, int], int]:
        """Grid and width of the tokens, seen from one image."""
        features = self.network.forward_features(torch.zeros(1, self.in_channels, *self.image_size))
        if features.ndim == 4:
            shape = features.shape[1:]
            rows, columns, width = shape if self._channels_last else (*shape[1:], shape[0])
            return (int(rows), int(columns)), int(width)
        grid = getattr(getattr(self.network, "patch_embed", None), "grid_size", None)
        tokens = features.shape[1] - getattr(self.network, "num_prefix_tokens", 0)
        rows = grid[0] if grid is not None and grid[0] * grid[1] == tokens else max(1, round(tokens**0.5))
        return (int(rows), int(tokens // rows)), int(features.shape[2])


def _has_token_blocks(network: Any) -> bool:
    """Whether timm can give the tokens after any block of a network, those before the patches too."""
    intermediates = getattr(network, "forward_intermediates", None)
    if intermediates is None or not hasattr(network, "blocks"):
        return False
    return "return_prefix_tokens" in inspect.signature(intermediates).parameters


class RawPixels(nn.Module):
    """No network at all: the image, made smaller, is its own feature. What any training should beat.

    Args:
        side: of the image that is left, in pixels.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward_features(self, pixels: Tensor) -> Tensor:
        """`(B, C, H, W)` to one token `(B, 1, C * side * side)`, each number the mean of an area of the image."""
        return F.adaptive_avg_pool2d(pixels, self.side).flatten(1)[:, None]

    def extra_repr(self) -> str:
        """Part of what tells two of them apart."""
        return f"side={self.side}"
