"""Maps at several scales out of those of a plain Vision Transformer, which are all of one: what detectors look at."""

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

SCALES = (4.0, 2.0, 1.0, 0.5)
"""How many pixels a side of the maps that objects are cut out of, for each patch; the map after them has a quarter."""
LEVELS = tuple(str(level) for level in range(len(SCALES)))
"""Names of these maps, finest first."""


class SimplePyramid(nn.Module):
    """ViTDet's pyramid (arXiv 2203.16527): every map is made of the encoder's last.

    Args:
        embed_dim: channels D of the encoder's map.
        width: channels of the maps that come out.
    """

    def __init__(self, embed_dim: int, width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for scale in SCALES:
            channels = embed_dim // max(1, int(scale))
            self.levels.append(
                nn.Sequential(
                    _Rescaled(embed_dim, channels, scale),
                    nn.Conv2d(channels, width, 1, bias=False),
                    LayerNorm2d(width),
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                    LayerNorm2d(width),
                )
            )

    def forward(self, maps: Sequence[Tensor]) -> "OrderedDict[str, Tensor]":
        """The last of some maps `(B, D, h, w)` to `(B, width, ...)` at 4, 2, 1, 1/2 and 1/4 of its sides, by name."""
        found = OrderedDict((name, level(maps[-1])) for name, level in zip(LEVELS, self.levels, strict=True))
        found["pool"] = F.max_pool2d(found[LEVELS[-1]], kernel_size=1, stride=2)
        return found


class SeveralMapsPyramid(nn.Module):
    """The outputs of four blocks of the encoder as a pyramid (arXiv 2212.14504, section 3.3; BEiT and MAE do so for
    segmentation): the earliest becomes the finest. Then a feature pyramid network (arXiv 1612.03144).

    Args:
        embed_dim: channels D of the encoder's maps.
        width: channels of the maps that come out.
    """

    def __init__(self, embed_dim: int, width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_Rescaled(embed_dim, embed_dim, scale) for scale in SCALES)
        self.top_down = FeaturePyramidNetwork(
            [embed_dim] * len(SCALES), width, extra_blocks=LastLevelMaxPool(), norm_layer=LayerNorm2d
        )

    def forward(self, maps: Sequence[Tensor]) -> "OrderedDict[str, Tensor]":
        """Four maps `(B, D, h, w)` to `(B, width, ...)` at 4, 2, 1, 1/2 and 1/4 of their sides, by name."""
        scaled = [level(one) for level, one in zip(self.levels, maps, strict=True)]
        return self.top_down(OrderedDict(zip(LEVELS, scaled, strict=True)))


class _Rescaled(nn.Sequential):
    """A map `(B, D, h, w)` to `(B, channels, scale * h, scale * w)`, halves rounded up."""

    def __init__(self, embed_dim: int, channels: int, scale: float) -> None:
        if scale == 4:
            between = max(channels, embed_dim // 2)
            super().__init__(
                nn.ConvTranspose2d(embed_dim, between, 2, stride=2),
                LayerNorm2d(between),
                nn.GELU(),
                nn.ConvTranspose2d(between, channels, 2, stride=2),
            )
        elif scale == 2:
            super().__init__(nn.ConvTranspose2d(embed_dim, channels, 2, stride=2))
        elif scale == 1:
            super().__init__(nn.Identity())
        else:
            # Half a grid of odd sides: what is left over is pooled by itself, so that nothing is out of sight.
            super().__init__(nn.MaxPool2d(2, stride=2, ceil_mode=True))
