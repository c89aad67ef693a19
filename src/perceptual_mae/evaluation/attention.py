"""Where a Vision Transformer looks: the attention of `[CLS]` over the patches (figure 3 of the paper)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from perceptual_mae.models.encoder import Encoder

Heads: TypeAlias = Literal["mean", "all"] | Sequence[int]
"""The mean over the heads, each of them, or some of them counted from 0."""


def cls_attention(encoder: Encoder, images: Tensor, block: int = -1) -> Tensor:
    """How the `[CLS]` token of one block spreads its attention over the patches.

    The values are softmax(q k^T / sqrt(d)) as the block computes them. A head's values sum to at most 1: what goes
    to `[CLS]` itself and to register tokens is left out. Of a network without a class token it is the mean over all
    patches as queries, as the mean token is what such a network is judged by.

    The whole matrix of a block is held for a moment, `B * heads * tokens^2` numbers: give large images one by one.

    Args:
        encoder: a Vision Transformer.
        images: `(B, C, H, W)` in [0, 1], of the encoder's size.
        block: counted from 0 or, negative, from the end.

    Returns:
        `(B, heads, rows, columns)` float32 in [0, 1].

    Raises:
        ValueError: a network without such attention, a block that it does not have, or images of another shape.
    """
    prefix = _prefix(encoder)
    return _attention(encoder, images, block, slice(0, 1) if has_cls(encoder) else slice(prefix, None))


def patch_attention(encoder: Encoder, images: Tensor, patch: tuple[int, int], block: int = -1) -> Tensor:
    """How the token of one patch spreads its attention over the patches: as `cls_attention`, from another query.

    Args:
        encoder: a Vision Transformer.
        images: `(B, C, H, W)` in [0, 1], of the encoder's size.
        patch: its row and column, from 0.
        block: counted from 0 or, negative, from the end.

    Returns:
        `(B, heads, rows, columns)` float32 in [0, 1].

    Raises:
        ValueError: no such patch; and as `cls_attention`.
    """
    (row, column), (rows, columns) = patch, encoder.grid
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(f"{encoder.name} has {rows} x {columns} patches: none in row {row}, column {column}")
    place = _prefix(encoder) + row * columns + column
    return _attention(encoder, images, block, slice(place, place + 1))


def _attention(encoder: Encoder, images: Tensor, block: int, queries: slice) -> Tensor:
    """The mean over some tokens of how they spread their attention over the patches: `(B, heads, rows, columns)`."""
    layer = attention_layer(encoder, block)
    prefix, (rows, columns) = _prefix(encoder), encoder.grid
    tokens = prefix + rows * columns
    found: list[Tensor] = []

    def keep(attention: Tensor) -> None:
        if attention.shape[1:] != (layer.num_heads, tokens, tokens):
            raise ValueError(f"{encoder.name}: the attention of block {block} is not one map a head over all patches")
        found.append(attention[:, :, queries, prefix:].float().mean(dim=2))

    with torch.no_grad(), _watched(layer, keep):
        encoder(images)
    return found[0].unflatten(-1, (rows, columns))


def _prefix(encoder: Encoder) -> int:
    """Tokens before those of the patches."""
    return int(getattr(encoder.network, "num_prefix_tokens", 0))


def has_cls(encoder: Encoder) -> bool:
    """Whether a network has a class token, the first of its tokens."""
    network = encoder.network
    return getattr(network, "num_prefix_tokens", 0) > 0 and getattr(network, "cls_token", None) is not None


def attention_layer(encoder: Encoder, block: int) -> Any:
    """The self-attention of one block of timm's, counted from 0 or, negative, from the end.

    Raises:
        ValueError: there is none.
    """
    blocks = getattr(encoder.network, "blocks", ())
    layers = [[part for part in each.modules() if _is_attention(part)] for each in blocks]
    if not any(layers):
        raise ValueError(f"{encoder.name} is no Vision Transformer: it has no attention to draw")
    depth = len(layers)
    if not -depth <= block < depth:
        raise ValueError(f"{encoder.name} has blocks 0 to {depth - 1}, or -1 to -{depth} from the end")
    if len(layers[block]) != 1:
        raise ValueError(f"{encoder.name}: block {block} has {len(layers[block])} attention layers in place of one")
    return layers[block][0]


def pick_heads(attention: Tensor, heads: Heads) -> Tensor:
    """The maps to look at, of `attention (B, heads, rows, columns)`: `(B, M, rows, columns)`, M = 1 for the mean.

    Raises:
        ValueError: a head that is not there.
    """
    if heads == "mean":
        return attention.mean(dim=1, keepdim=True)
    if heads == "all":
        return attention
    count = attention.shape[1]
    for head in heads:
        if not 0 <= int(head) < count:
            raise ValueError(f"there is no head {head}: the heads are 0 to {count - 1}")
    return attention[:, [int(head) for head in heads]]


def mass_threshold(attention: Tensor, mass: float) -> Tensor:
    """The fewest patches that hold a share of the attention on all patches, as DINO draws it (arXiv 2104.14294).

    Args:
        attention: `(..., rows, columns)`, each map by itself.
        mass: share in (0, 1).

    Returns:
        bool of the same shape, True = one of those patches.

    Raises:
        ValueError: `mass` is not in (0, 1).
    """
    if not 0 < mass < 1:
        raise ValueError(f"a share of the attention lies between 0 and 1, not at {mass}")
    ordered, order = attention.flatten(-2).double().sort(dim=-1, descending=True, stable=True)
    total = ordered.cumsum(dim=-1)
    before = torch.cat([torch.zeros_like(total[..., :1]), total[..., :-1]], dim=-1)
    enough = before >= mass * total[..., -1:]
    return torch.ones_like(enough).scatter(-1, order, ~enough).unflatten(-1, attention.shape[-2:])


def _is_attention(module: nn.Module) -> bool:
    """Whether it is a self-attention of timm's that can compute its softmax for all to see."""
    return all(hasattr(module, name) for name in ("fused_attn", "attn_drop", "num_heads"))


@contextmanager
def _watched(layer: Any, keep: Callable[[Tensor], None]) -> Iterator[None]:
    """Within, `keep` is shown the softmax of a layer: what its dropout is given when the attention is not fused.

    timm's own `AttentionExtract` leaves the fused attention on, in which there is no softmax to see, and never takes
    its hooks away.
    """
    fused = layer.fused_attn
    hook = layer.attn_drop.register_forward_pre_hook(lambda _, inputs: keep(inputs[0]))
    layer.fused_attn = False
    try:
        yield
    finally:
        layer.fused_attn = fused
        hook.remove()
