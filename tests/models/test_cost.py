"""What models cost: against timm's own models, and against counts written from the layers' sizes."""

import pytest
import timm
import torch

from perceptual_mae.models import SIZES, MaskedAutoencoder
from perceptual_mae.models.cost import count_parameters, training_gflop


def on_meta(size: str, **arguments: object) -> MaskedAutoencoder:
    with torch.device("meta"):
        return MaskedAutoencoder.from_size(size, **arguments)


def block(dim: int) -> int:
    """Parameters of a pre-norm block with an MLP of four times the width."""
    return (
        2 * 2 * dim + (dim * 3 * dim + 3 * dim) + (dim * dim + dim) + (4 * dim * dim + 4 * dim) + (4 * dim * dim + dim)
    )


@pytest.mark.parametrize(
    ("size", "name"),
    [
        ("tiny", "vit_tiny_patch16_224"),
        ("small", "vit_small_patch16_224"),
        ("base", "vit_base_patch16_224"),
        ("large", "vit_large_patch16_224"),
    ],
)
def test_encoder_has_the_names_and_shapes_of_timms_model(size: str, name: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=0)
    ours = on_meta(size)
    assert {n: t.shape for n, t in ours.encoder_state_dict().items()} == {
        n: t.shape for n, t in theirs.state_dict().items()
    }
    assert theirs.blocks[0].attn.num_heads == ours.blocks[0].attn.num_heads
    assert theirs.norm.eps == ours.norm.eps == ours.blocks[0].norm1.eps == ours.decoder_norm.eps == 1e-6


def test_base_has_85_8_million_in_its_encoder_and_111_7_in_all() -> None:
    model = on_meta("base")
    assert sum(t.numel() for t in model.encoder_state_dict().values()) == 85_798_656
    encoder = 768 + (16 * 16 * 3 * 768 + 768) + 12 * block(768) + 2 * 768
    decoder = 512 + (768 * 512 + 512) + 8 * block(512) + 2 * 512 + (512 * 768 + 768)
    assert count_parameters(model) == encoder + decoder == 111_655_680


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_those_of_the_specification(size: str) -> None:
    widths = {
        "micro": (96, 6, 3, 64, 2, 4),
        "tiny": (192, 12, 3, 128, 4, 4),
        "small": (384, 12, 6, 256, 4, 8),
        "base": (768, 12, 12, 512, 8, 16),
        "large": (1024, 24, 16, 512, 8, 16),
        "huge": (1280, 32, 16, 512, 8, 16),
    }
    model = on_meta(size)
    found = (model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads)
    found += (model.decoder_embed.out_features, len(model.decoder_blocks), model.decoder_blocks[0].attn.num_heads)
    assert found == widths[size]


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="no model size 'giant'; there are micro, tiny"):
        MaskedAutoencoder.from_size("giant")


@pytest.mark.parametrize(("image_size", "ratio"), [(224, 0.75), ((96, 160), 0.5)])
def test_gflop_equals_the_count_from_the_layers(image_size: int | tuple[int, int], ratio: float) -> None:
    model = on_meta("base", image_size=image_size)
    N = model.num_patches
    kept = int(N * (1 - ratio))

    def blocks(tokens: int, dim: int, depth: int) -> int:
        return depth * (12 * tokens * dim**2 + 2 * tokens**2 * dim)

    multiply_adds = kept * 768 * 768 + blocks(kept + 1, 768, 12)
    multiply_adds += (kept + 1) * 768 * 512 + blocks(N + 1, 512, 8) + (N + 1) * 512 * 768
    assert training_gflop(model, ratio) == pytest.approx(6 * multiply_adds / 1e9, rel=1e-6)


def test_base_takes_58_8_gflop_an_image() -> None:
    model = on_meta("base")
    assert training_gflop(model) == pytest.approx(58.8, rel=0.02)
    assert model.pos_embed.device.type == "meta"


def test_counting_leaves_the_model_alone() -> None:
    model = MaskedAutoencoder.from_size("micro", image_size=32, patch_size=8)
    before = model.pos_embed.clone()
    training_gflop(model)
    assert torch.equal(model.pos_embed, before)
    assert all(p.grad is None for p in model.parameters())
