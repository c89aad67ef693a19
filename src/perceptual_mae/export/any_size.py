"""An encoder as a graph that takes images of any size: position embeddings are resampled within it.

As timm's `dynamic_img_size` does it, and `open_encoder` with another image size. Interpolation is written as the matrix
product that it is: exporters know matrices, and of the resampling with antialiasing only some.
"""

import torch
from torch import Tensor, nn

from perceptual_mae.models.encoder import Encoder

_A = -0.5
"""Of the cubic with which PyTorch, like Pillow, resamples with antialiasing."""


class AnySize(nn.Module):
    """Images of any size in [0, 1] to tokens.

    Args:
        encoder: of a timm `VisionTransformer` that its sizes describe.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.network = encoder.network
        self.grid = encoder.grid
        self.register_buffer("mean", encoder.mean.clone())
        self.register_buffer("std", encoder.std.clone())

    def forward(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)` in [0, 1], H and W multiples of the patch size P, to `(B, 1 + H / P * W / P, D)`.

        `[CLS]` is first; of a network without one it is the mean of the others. Register tokens are left out.
        """
        network = self.network
        patches = network.patch_embed.proj((images - self.mean) / self.std)
        batch, _, rows, columns = patches.shape
        tokens = patches.flatten(2).mT
        positions, prefix = network.pos_embed, network.num_prefix_tokens
        embedded = 0 if network.no_embed_class else prefix
        tokens = tokens + self.resampled(positions[:, embedded:], rows, columns)
        given = [token for token in (network.cls_token, network.reg_token) if token is not None]
        if given:
            first = torch.cat(given, dim=1)
            if embedded:
                first = first + positions[:, :embedded]
            tokens = torch.cat([first.expand(batch, -1, -1), tokens], dim=1)
        tokens = network.norm(network.blocks(tokens))
        seen = tokens[:, prefix:]
        cls = tokens[:, :1] if network.cls_token is not None else seen.mean(dim=1, keepdim=True)
        return torch.cat([cls, seen], dim=1)

    def resampled(self, positions: Tensor, rows: int, columns: int) -> Tensor:
        """Position embeddings `(1, N, D)` of the grid that was trained, for another one: `(1, rows * columns, D)`."""
        old = positions.reshape(*self.grid, -1).permute(2, 0, 1)
        new = cubic_weights(self.grid[0], rows) @ old @ cubic_weights(self.grid[1], columns).mT
        return new.flatten(1).mT[None]


def cubic_weights(old: int, new: int) -> Tensor:
    """`(new, old)`: what each of `new` samples takes of each of `old` ones.

    Bicubic, antialiased where there are fewer, as `F.interpolate(mode="bicubic", antialias=True)` does along one side;
    the identity where there are as many.
    """
    places = torch.arange(new) + 0.5
    scale = old / torch.ones_like(places).sum()  # a tensor: `new` is not known when the graph is made
    distance = (torch.arange(old) + 0.5 - (places * scale)[:, None]) / scale.clamp(min=1.0)
    weights = _cubic(distance.abs())
    return weights / weights.sum(dim=1, keepdim=True)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel at distances from 0 on."""
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * _A - 4 * _A
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
