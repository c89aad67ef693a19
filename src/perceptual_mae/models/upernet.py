"""A Vision Transformer as a backbone of `transformers`, whose UperNet then takes it like one of its own.

UperNet (arXiv 1807.10221) was made for hierarchical networks, with maps at strides of 4, 8, 16 and 32 pixels. A Vision
Transformer has one stride; as in BEiT (arXiv 2106.08254) and MAE, maps of four of its blocks are rescaled to those
four, by transposed convolutions and max pooling.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, PretrainedConfig, PreTrainedModel, UperNetConfig
from transformers import UperNetForSemanticSegmentation as UperNet
from transformers.modeling_outputs import BackboneOutput

from perceptual_mae.models.architecture import Architecture
from perceptual_mae.models.backbone import Backbone

IGNORED = 255
"""The class of pixels that do not count."""
AUXILIARY_WEIGHT = 0.4
"""Of the loss of the auxiliary head, as everywhere."""
_FINEST = 4
"""Stride of the finest map in pixels."""
_MAPS = 4


class VitConfig(PretrainedConfig):
    """What `VitPyramid` is built from.

    Args:
        backbone: arguments of `Backbone` as plain values.
    """

    model_type = "perceptual-mae"

    def __init__(self, backbone: Mapping[str, Any] | None = None, **others: Any) -> None:
        self.backbone = dict(backbone or {})
        super().__init__(**others)


class VitPyramid(PreTrainedModel):
    """Four maps of a Vision Transformer, at strides of about 4, 8, 16 and 32 pixels whatever its patch size.

    Attributes:
        backbone: the Vision Transformer.
        channels: of each map.
    """

    config_class = VitConfig
    main_input_name = "pixel_values"

    def __init__(self, config: VitConfig) -> None:
        super().__init__(config)
        arguments = dict(config.backbone)
        architecture = Architecture.from_dict(arguments.pop("architecture"))
        self.backbone = Backbone(architecture, tuple(arguments.pop("image_size")), **arguments)
        self.blocks = self.backbone.several(_MAPS, "UperNet")
        width = self.backbone.embed_dim
        finest = max(0, round(math.log2(self.backbone.patch_size / _FINEST)))
        self.rescale = nn.ModuleList(_rescaled(width, finest - level) for level in range(_MAPS))
        self.channels = [width] * _MAPS
        self.post_init()

    def forward_with_filtered_kwargs(self, pixel_values: Tensor, **_: Any) -> BackboneOutput:
        """Called by UperNet: `(B, C, H, W)` in [0, 1] to maps `(B, D, h_i, w_i)`, fine to coarse."""
        maps = self.backbone(pixel_values, self.blocks)
        return BackboneOutput(feature_maps=tuple(rescale(one) for rescale, one in zip(self.rescale, maps, strict=True)))


AutoConfig.register(VitConfig.model_type, VitConfig, exist_ok=True)
AutoBackbone.register(VitConfig, VitPyramid, exist_ok=True)


def head_width(embed_dim: int) -> int:
    """Channels of UperNet's head by the encoder's width: 512 for `base` and above, as BEiT and MAE have it, and as
    large a share of smaller encoders, at least 64. Most of a small model's time would otherwise go into its head."""
    return min(512, max(64, 32 * round(embed_dim / 48)))


def build_upernet(backbone: Mapping[str, Any], classes: int, width: int | None = None) -> UperNet:
    """UperNet with an auxiliary head on the third map; all weights are drawn from PyTorch's generator.

    Args:
        backbone: arguments of `Backbone` as plain values.
        classes: how many.
        width: channels of the head, default: `head_width`; the auxiliary head has half of them.
    """
    with torch.device("meta"):
        embed_dim = Architecture.from_dict(backbone["architecture"]).build().embed_dim
    width = width or head_width(embed_dim)
    config = UperNetConfig(
        backbone_config=VitConfig(backbone),
        hidden_size=width,
        num_labels=classes,
        use_auxiliary_head=True,
        auxiliary_loss_weight=AUXILIARY_WEIGHT,
        auxiliary_in_channels=embed_dim,
        auxiliary_channels=max(1, width // 2),
        loss_ignore_index=IGNORED,
    )
    return UperNet(config)


def _rescaled(width: int, doublings: int) -> nn.Module:
    """A map `2 ** doublings` times as fine; negative: as coarse, at least 1 x 1."""
    if doublings <= 0:
        return nn.MaxPool2d(2**-doublings, ceil_mode=True) if doublings else nn.Identity()
    layers: list[nn.Module] = []
    for index in range(doublings):
        layers += [LayerNorm2d(width), nn.GELU()] if index else []
        layers.append(nn.ConvTranspose2d(width, width, kernel_size=2, stride=2))
    return nn.Sequential(*layers)
