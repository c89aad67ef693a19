"""How a timm network was built, as plain values, so that it can be built again with a head or for training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import timm
from timm.layers import SwiGLUPacked
from timm.models import VisionTransformer
from torch import nn

PLAIN_VIT = "vit"
"""Name of the Vision Transformers that are described by their sizes."""


@dataclass(frozen=True)
class Architecture:
    """A timm network without its weights.

    Attributes:
        name: a name of timm's, or `vit`: a plain Vision Transformer whose sizes are the options.
        options: arguments that build it, plain values only; of `vit` those of timm's `VisionTransformer`, and `gated`
            for a SwiGLU in each block.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, **changes: Any) -> Any:
        """The network with weights drawn from PyTorch's generator; `changes` override or add to the options.

        Raises:
            TypeError: an argument that the network does not know.
        """
        options = {"num_classes": 0, **self.options, **changes}
        if self.name != PLAIN_VIT:
            return timm.create_model(self.name, pretrained=False, **options)
        gate: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if options.pop("gated", False) else {}
        return VisionTransformer(**{"global_pool": "", **options}, norm_layer=partial(nn.LayerNorm, eps=1e-6), **gate)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"name": self.name, "options": {key: _plain(value) for key, value in self.options.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Architecture":
        """The inverse of `to_dict`."""
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in values["options"].items()}
        return cls(str(values["name"]), options)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
