"""ViTDet's backbone (arXiv 2203.16527): a plain Vision Transformer most of whose blocks look into windows only."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

from perceptual_mae.models.architecture import Architecture
from perceptual_mae.models.backbone import Backbone

_LEFT_OUT = ("cls_token", "reg_token", "norm.", "fc_norm.", "head.")
"""Parts of a plain Vision Transformer that a map has no place for."""
_NEW = ("rel_pos_h", "rel_pos_w")
"""Relative positions, which begin at zero."""


class WindowedBackbone(Backbone):
    """A `Backbone` whose attention is cut into windows in all blocks but four at equal distances, with relative
    positions in every block. Neither a class token nor a final norm is left.

    Args:
        architecture: of a plain Vision Transformer of timm's; its weights are drawn from PyTorch's generator.
        image_size: `(height, width)` in pixels of the images.
        mean, std: per channel, of images in [0, 1].
        drop_path: share of residual branches that are dropped in the last block.
        window: side of a window, in patches; where the whole grid fits into one, every block sees all of it.

    Raises:
        ValueError: the network is no plain Vision Transformer.
    """

    def __init__(
        self,
        architecture: Architecture,
        image_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        drop_path: float = 0.0,
        window: int = 14,
    ) -> None:
        super().__init__(architecture, image_size, mean, std, drop_path)
        plain = self.network
        if reason := _another_kind(plain):
            raise ValueError(f"{architecture.name} cannot be cut into windows: {reason}")
        self.window = window
        cut = window < max(self.grid)
        self.network = _sam(plain, image_size, self.evenly() if cut else (), window if cut else 0, drop_path)
        self.take(plain.state_dict())

    def forward(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Outputs of some blocks as maps.

        Args:
            images: `(B, C, H, W)` in [0, 1], of `image_size`.
            blocks: which, counted from 0, rising.

        Returns:
            `(B, D, h, w)` for each.
        """
        maps = self.network.forward_intermediates(
            (images - self.mean) / self.std, indices=list(blocks), intermediates_only=True
        )
        return [one.contiguous() for one in maps]

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights of a plain Vision Transformer; position embeddings become a map, that of `[CLS]` goes."""
        height, width = self.grid
        own = {name: tensor for name, tensor in tensors.items() if not name.startswith(_LEFT_OUT)}
        if "pos_embed" in own:
            own["pos_embed"] = own["pos_embed"][:, -height * width :].unflatten(1, (height, width))
        found = self.network.load_state_dict(own, strict=False)
        missing = [name for name in found.missing_keys if not name.endswith(_NEW)]
        if odd := [*missing, *found.unexpected_keys]:
            raise ValueError(f"{self.architecture.name} cannot be cut into windows: {odd[0]} has no counterpart")


def _another_kind(network: Any) -> str:
    """Why a network is no plain Vision Transformer; "" if it is one."""
    if type(network) is not VisionTransformer:
        return f"it is a {type(network).__name__}, and no plain Vision Transformer"
    for block in network.blocks:
        for part, kind in ((block, Block), (block.attn, Attention), (block.mlp, Mlp)):
            if type(part) is not kind:
                return f"its blocks have a {type(part).__name__} where plain ones have a {kind.__name__}"
    return ""


def _sam(
    plain: Any, image_size: tuple[int, int], everywhere: tuple[int, ...], window: int, drop_path: float
) -> VisionTransformerSAM:
    """timm's network with the sizes of a plain one, `window` 0 being none."""
    block = plain.blocks[0]
    width, hidden = plain.embed_dim, block.mlp.fc1.out_features
    network = VisionTransformerSAM(
        img_size=image_size,
        patch_size=plain.patch_embed.patch_size,
        in_chans=plain.patch_embed.proj.in_channels,
        num_classes=0,
        embed_dim=width,
        depth=len(plain.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=(hidden + 0.5) / width,  # timm rounds down what it multiplies
        qkv_bias=block.attn.qkv.bias is not None,
        qk_norm=not isinstance(block.attn.q_norm, nn.Identity),
        init_values=None if isinstance(block.ls1, nn.Identity) else 1.0,
        pre_norm=not isinstance(plain.norm_pre, nn.Identity),
        drop_path_rate=drop_path,
        # timm's default here is 1e-5, that of its plain networks 1e-6.
        norm_layer=partial(nn.LayerNorm, eps=block.norm1.eps),
        act_layer=type(block.mlp.act),
        use_abs_pos=plain.pos_embed is not None,
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=everywhere,
        neck_chans=0,
    )
    network.neck = nn.Identity()  # a norm of the last map, which the pyramid does itself
    return network
