"""Attention maps against softmax(q k^T / sqrt(d)) written out in float64, and what capturing leaves behind."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from timm.models import VisionTransformer
from torch import Tensor

from perceptual_mae.evaluation.attention import cls_attention, has_cls, mass_threshold, patch_attention, pick_heads
from perceptual_mae.models.encoder import Encoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "registers": {"reg_tokens": 3},
    "normalised queries and keys": {"qk_norm": True},
    "no class token": {"class_token": False, "global_pool": "avg"},
}


def vit(**settings: Any) -> Encoder:
    """A small random ViT whose attention is far from uniform: three blocks, four heads, 4 x 6 patches."""
    torch.manual_seed(0)
    defaults = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0}
    network = VisionTransformer(**(defaults | settings))
    for block in network.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.5)
    torch.nn.init.normal_(network.pos_embed, std=1)
    return Encoder(network, "the-vit", (32, 48), MEAN, STD)


def inputs_of_attention(encoder: Encoder, images: Tensor, block: int) -> Tensor:
    seen: list[Tensor] = []
    hook = encoder.network.blocks[block].norm1.register_forward_hook(lambda *given: seen.append(given[-1]))
    with torch.no_grad():
        encoder(images)
    hook.remove()
    return seen[0]


def by_hand(layer: Any, tokens: Tensor) -> np.ndarray:
    """softmax(q k^T / sqrt(d)) of one image's `tokens (T, D)`, number by number in float64: `(heads, T, T)`."""
    weight, bias = layer.qkv.weight.double().numpy(), layer.qkv.bias.double().numpy()
    width = weight.shape[1]
    size = width // layer.num_heads
    projected = tokens.double().numpy() @ weight.T + bias

    def normalised(norm: Any, vector: np.ndarray) -> np.ndarray:
        if isinstance(norm, torch.nn.Identity):
            return vector
        scaled = (vector - vector.mean()) / math.sqrt(vector.var() + norm.eps)
        return scaled * norm.weight.double().numpy() + norm.bias.double().numpy()

    result = np.empty((layer.num_heads, len(tokens), len(tokens)))
    for head, i in np.ndindex(layer.num_heads, len(tokens)):
        here = slice(head * size, (head + 1) * size)
        query = normalised(layer.q_norm, projected[i, :width][here])
        keys = [normalised(layer.k_norm, row[width : 2 * width][here]) for row in projected]
        exponentials = [math.exp(float(query @ key) / math.sqrt(size)) for key in keys]
        result[head, i] = np.array(exponentials) / sum(exponentials)
    return result


@pytest.fixture(scope="module")
def images(photographs: Tensor) -> Tensor:
    return photographs[:2] / 255


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [0, 1, -1])
def test_equals_the_softmax_written_out(kind: str, block: int, images: Tensor) -> None:
    encoder = vit(**KINDS[kind])
    found = cls_attention(encoder, images, block)
    assert found.shape == (2, 4, 4, 6)
    assert found.dtype == torch.float32
    tokens = inputs_of_attention(encoder, images, block)
    prefix = tokens.shape[1] - 24
    for n in range(2):
        whole = by_hand(encoder.network.blocks[block].attn, tokens[n])
        rows = whole[:, :1] if has_cls(encoder) else whole  # queries: [CLS], or every patch
        expected = rows[:, :, prefix:].mean(axis=1).reshape(4, 4, 6)
        assert expected.max() > 1.5 * expected.mean() > 0  # not uniform
        np.testing.assert_allclose(found[n].numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patch", [(0, 0), (1, 4), (3, 5)])
def test_a_patch_looks_with_its_own_query(kind: str, patch: tuple[int, int], images: Tensor) -> None:
    encoder = vit(**KINDS[kind])
    found = patch_attention(encoder, images, patch, 1)
    tokens = inputs_of_attention(encoder, images, 1)
    prefix = tokens.shape[1] - 24
    for n in range(2):
        row = by_hand(encoder.network.blocks[1].attn, tokens[n])[:, prefix + patch[0] * 6 + patch[1]]
        np.testing.assert_allclose(found[n].numpy(), row[:, prefix:].reshape(4, 4, 6), atol=2e-6)


@pytest.mark.parametrize("patch", [(4, 0), (0, 6), (-1, 0), (0, -1)])
def test_no_patch_outside_of_the_image(patch: tuple[int, int], images: Tensor) -> None:
    with pytest.raises(ValueError, match="the-vit has 4 x 6 patches: none in row"):
        patch_attention(vit(), images, patch)


def test_values_are_probabilities_and_leave_out_what_is_no_patch(images: Tensor) -> None:
    for kind, settings_ in KINDS.items():
        sums = cls_attention(vit(**settings_), images).sum(dim=(-2, -1))
        if kind == "no class token":
            torch.testing.assert_close(sums, torch.ones_like(sums))
        else:
            assert (sums <= 1 + 1e-5).all()
            assert sums.min() < 0.95


@pytest.mark.parametrize("fused", [True, False])
def test_only_the_asked_block_is_touched_and_all_is_put_back(fused: bool, images: Tensor) -> None:
    encoder = vit()
    layers = [block.attn for block in encoder.network.blocks]
    for layer in layers:
        layer.fused_attn = fused
    shown: list[int] = []
    for number, layer in enumerate(layers):
        layer.attn_drop.register_forward_hook(lambda *_, number=number: shown.append(number))
    before = encoder(images)
    shown.clear()
    outputs: list[Tensor] = []
    hook = encoder.network.norm.register_forward_hook(lambda *given: outputs.append(given[-1]))
    cls_attention(encoder, images, 1)
    hook.remove()
    assert shown == ([1] if fused else [0, 1, 2])
    torch.testing.assert_close(outputs[0], before, atol=1e-5, rtol=0)  # what the network computes is the same
    assert [layer.fused_attn for layer in layers] == [fused] * 3
    assert all(not layer.attn_drop._forward_pre_hooks for layer in layers)
    assert torch.equal(encoder(images), before)


def test_all_is_put_back_after_an_error(images: Tensor) -> None:
    encoder = vit()
    layer = encoder.network.blocks[-1].attn
    with pytest.raises(ValueError, match="the-vit takes images"):
        cls_attention(encoder, images[..., :32])

    def breaks(*_: object) -> None:
        raise RuntimeError("out of memory")

    hook = layer.proj.register_forward_hook(breaks)
    with pytest.raises(RuntimeError, match="out of memory"):
        cls_attention(encoder, images)
    hook.remove()
    assert layer.fused_attn
    assert not layer.attn_drop._forward_pre_hooks


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva02_tiny_patch14_224"])
def test_position_biases_and_rotations_are_in_it(name: str, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    torch.manual_seed(0)
    encoder = Encoder(timm.create_model(name, **sizes), name, (32, 32), MEAN, STD)
    for parameter in encoder.network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    fused, given = torch.nn.functional.scaled_dot_product_attention, []

    def recorded(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        given.append((q.double(), k.double(), 0 if attn_mask is None else attn_mask.double()))
        return fused(q, k, v, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    encoder(images[..., :32])
    query, key, bias = given[-1]
    whole = (torch.einsum("bhid,bhjd->bhij", query, key) / math.sqrt(query.shape[-1]) + bias).softmax(dim=-1)
    expected = whole[:, :, 0, 1:].reshape(2, 2, 4, 4).float()
    torch.testing.assert_close(cls_attention(encoder, images[..., :32]), expected)


def test_a_network_without_such_attention_is_refused() -> None:
    cnn = Encoder(timm.create_model("tf_efficientnet_lite0", num_classes=0), "the-cnn", (64, 64), MEAN, STD)
    with pytest.raises(ValueError, match="the-cnn is no Vision Transformer: it has no attention to draw"):
        cls_attention(cnn, torch.zeros(1, 3, 64, 64))
    # Windows see a part of the patches each: there is no one map.
    network = timm.create_model(
        "samvit_base_patch16", img_size=64, embed_dim=24, depth=2, num_heads=2, window_size=2, neck_chans=24
    )
    with pytest.raises(ValueError, match="windows: the attention of block 0 is not one map a head"):
        cls_attention(Encoder(network, "windows", (64, 64), MEAN, STD), torch.zeros(1, 3, 64, 64), 0)


@pytest.mark.parametrize("block", [3, -4])
def test_a_block_that_is_not_there_is_refused(block: int, images: Tensor) -> None:
    with pytest.raises(ValueError, match="the-vit has blocks 0 to 2, or -1 to -3 from the end"):
        cls_attention(vit(), images, block)


def test_heads(images: Tensor) -> None:
    attention = cls_attention(vit(), images)
    assert torch.equal(pick_heads(attention, "all"), attention)
    assert torch.equal(pick_heads(attention, [3, 0]), torch.stack([attention[:, 3], attention[:, 0]], dim=1))
    summed = attention[:, 0] + attention[:, 1] + attention[:, 2] + attention[:, 3]
    torch.testing.assert_close(pick_heads(attention, "mean"), summed[:, None] / 4)
    for wrong in (4, -1):
        with pytest.raises(ValueError, match=f"there is no head {wrong}: the heads are 0 to 3"):
            pick_heads(attention, [0, wrong])


values = st.floats(0, 1, width=32).map(lambda value: 0.0 if value < 1e-6 else value)


@settings(max_examples=100, deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.just(2), st.integers(1, 3), st.integers(1, 3)), elements=values),
    st.floats(0.01, 0.99),
)
def test_no_smaller_set_holds_the_mass(maps: np.ndarray, mass: float) -> None:
    kept = mass_threshold(torch.from_numpy(maps), mass).numpy()
    assert kept.shape == maps.shape
    for one, chosen in zip(maps.astype(np.float64), kept, strict=True):
        wanted = mass * one.sum()
        assert one[chosen].sum() >= wanted * (1 - 1e-12)
        if chosen.any():  # every set with one patch less, tried out
            smaller = itertools.combinations(one.flatten().tolist(), int(chosen.sum()) - 1)
            assert max(math.fsum(patches) for patches in smaller) < wanted * (1 + 1e-12)
        else:
            assert one.sum() == 0


@pytest.mark.parametrize("mass", [0.0, 1.0, -0.5, 60.0, float("nan")])
def test_a_mass_that_is_no_share_is_refused(mass: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        mass_threshold(torch.ones(2, 2), mass)
