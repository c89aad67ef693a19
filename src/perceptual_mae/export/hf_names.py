"""Weights of timm's transformers under the names that transformers has had for them since it has had any.

They are those of every published ViT and ViT-MAE: transformers 4 has modules of these names, transformers 5 renames
them when it loads.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from perceptual_mae.errors import PmaeError

_IN_A_BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def blocks(state: Mapping[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    """The transformer blocks that stand under `ours` in a state dict, renamed to stand under `theirs`.

    timm computes queries, keys and values with one matrix, which is cut into three.
    """
    return dict(_blocks(state, f"{ours}.", f"{theirs}."))


def _blocks(state: Mapping[str, Tensor], ours: str, theirs: str) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        if not name.startswith(ours):
            continue
        number, _, rest = name.removeprefix(ours).partition(".")
        part, _, kind = rest.rpartition(".")
        if part == "attn.qkv":
            for role, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                yield f"{theirs}{number}.attention.attention.{role}.{kind}", third.contiguous()
        else:
            yield f"{theirs}{number}.{_IN_A_BLOCK[part]}.{kind}", tensor


def embeddings(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What comes before the blocks."""
    return {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": state["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
    }


def last_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What comes after the blocks."""
    return {f"layernorm.{kind}": state[f"norm.{kind}"] for kind in ("weight", "bias")}


def every_name_fits(info: Mapping[str, Any]) -> None:
    """Whether transformers found all weights that it looked for, of their shapes, and no other.

    Args:
        info: what `from_pretrained(..., output_loading_info=True)` gives beside the model.

    Raises:
        PmaeError: it did not.
    """
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, info.get(kind) or ())):
            raise PmaeError(f"transformers speaks of {len(names)} {kind.replace('_', ' ')}, such as {names[0]}")
