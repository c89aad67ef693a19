"""MSG-MAE against its definition: skips, RGB heads, sizes."""

import pytest
import torch
from torch import Tensor

from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.models.cost import count_parameters
from perceptual_mae.models.masking import mask_from_noise
from perceptual_mae.models.msg_mae import MultiScaleAutoencoder


def small(**arguments: object) -> MultiScaleAutoencoder:
    torch.manual_seed(0)
    sizes = {"embed_dim": 24, "depth": 5, "num_heads": 2, "decoder_embed_dim": 16, "decoder_depth": 3}
    return MultiScaleAutoencoder(
        **{"image_size": (16, 24), "patch_size": 4, "decoder_num_heads": 2, **sizes, **arguments}  # type: ignore[arg-type]
    ).eval()


@torch.no_grad()
def shaken(model: MultiScaleAutoencoder) -> MultiScaleAutoencoder:
    """Biases and norms away from their initial 0 and 1, so that leaving one out shows."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("skips", [True, False])
@torch.no_grad()
def test_decoder_follows_the_definition(skips: bool) -> None:
    model = shaken(small(skips=skips))
    images = torch.rand(2, 3, 16, 24)
    noise = torch.rand(2, 24)
    masking = mask_from_noise(noise, 0.75)
    result = model(images, 0.75, noise)

    # The encoder, block by block, by hand.
    patches = ((images - model.mean) / model.std).unfold(2, 4, 4).unfold(3, 4, 4)  # B C rows columns 4 4
    patches = patches.permute(0, 2, 3, 4, 5, 1).reshape(2, 24, 48)
    for b in range(2):
        kept = masking.keep[b].tolist()
        tokens = model.patch_embed(patches[b, kept]) + model.pos_embed[0, 1:][kept]
        tokens = torch.cat([model.cls_token[0] + model.pos_embed[0, :1], tokens])[None]
        outputs = []
        for block in model.blocks:
            tokens = block(tokens)
            outputs.append(tokens)

        def placed(few: Tensor, kept: list[int] = kept) -> Tensor:
            rows = [few[0, 0]] + [few[0, 1 + kept.index(i)] if i in kept else model.mask_token[0, 0] for i in range(24)]
            return (torch.stack(rows) + model.decoder_pos_embed[0])[None]

        x = placed(model.decoder_embed(model.norm(outputs[-1])))
        drawn = {}
        for i in range(1, 4):  # decoder blocks, counted from 1
            x = model.decoder_blocks[i - 1](x)
            # Three scales (1, 2, 4 pixels a token) over three blocks: one each.
            if i < 3:
                drawn[2 ** (i - 1)] = model.rgb_heads[i - 1](model.rgb_norms[i - 1](x))[0, 1:]
            if skips and i < 3:
                skip = placed(model.skip_embeds[i - 1](outputs[5 - i - 1]))  # encoder block depth - i, counted from 1
                x = model.skip_merges[i - 1](torch.cat([x, skip], dim=-1))
        drawn[4] = model.decoder_pred(model.decoder_norm(x))[0, 1:]
        for predicted, side in zip(result.predictions, (1, 2, 4), strict=True):
            torch.testing.assert_close(predicted[b], drawn[side], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("image_size", "patch", "scales"),
    [
        (32, 8, ((4, 4), (8, 8), (16, 16), (32, 32))),
        ((48, 32), 16, ((3, 2), (6, 4), (12, 8), (24, 16), (48, 32))),
        ((28, 42), 14, ((14, 21), (28, 42))),
        (21, 7, ((21, 21),)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_scales_of_any_patch_and_any_channels(
    image_size: int | tuple[int, int], patch: int, scales: tuple[tuple[int, int], ...], channels: int
) -> None:
    model = small(image_size=image_size, patch_size=patch, in_channels=channels)
    assert model.scales == scales
    images = torch.rand(2, channels, *scales[-1])
    result = model(images)
    assert [tuple(image.shape) for image in result.pyramid] == [(2, channels, *scale) for scale in scales]
    torch.testing.assert_close(result.pyramid[-1], result.images)


def test_coarse_pixels_are_drawn_where_the_patch_is() -> None:
    model = small()
    tokens = torch.zeros(1, 24, 3 * 2 * 2)
    tokens[0, 7, (1 * 2 + 0) * 3 + 2] = 1.0  # token 7: row 1, column 1 of 4 x 6; pixel (1, 0), channel 2
    picture = (model.to_pixels(tokens) - model.mean) / model.std
    expected = torch.zeros(1, 3, 8, 12)
    expected[0, 2, 1 * 2 + 1, 1 * 2 + 0] = 1.0
    torch.testing.assert_close(picture, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "heads"), [("base", (1, 3, 4, 6)), ("micro", (0, 0, 1, 1))])
def test_heads_are_spread_over_the_decoder(size: str, heads: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = MultiScaleAutoencoder.from_size(size, patch_size=16)
    assert model.head_blocks == heads


def test_base_has_4_to_7_percent_more_parameters_than_mae() -> None:
    with torch.device("meta"):
        plain, skips = MaskedAutoencoder.from_size("base"), MultiScaleAutoencoder.from_size("base")
        heads_only = MultiScaleAutoencoder.from_size("base", skips=False)
    assert 1.04 <= count_parameters(skips) / count_parameters(plain) <= 1.07  # the paper: 113 M to 119 M
    assert 1 < count_parameters(heads_only) / count_parameters(plain) <= 1.002


def test_every_weight_matters_and_every_scale_is_drawn_from_the_image() -> None:
    model = shaken(small())
    result = model(torch.rand(2, 3, 16, 24))
    for scale in result.pyramid:
        model.zero_grad()
        scale.square().sum().backward(retain_graph=True)
        assert model.patch_embed.proj.weight.grad.abs().sum() > 0
    model.zero_grad()
    sum(scale.square().sum() for scale in result.pyramid).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_it_begins_as_a_decoder_without_skips() -> None:
    model, plain = small(), small(skips=False)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("skip_")})
    images, noise = torch.rand(2, 3, 16, 24), torch.rand(2, 24)
    with torch.no_grad():
        for ours, theirs in zip(model(images, 0.75, noise).pyramid, plain(images, 0.75, noise).pyramid, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_encoder_is_the_plain_one() -> None:
    model = small()
    plain = MaskedAutoencoder(
        image_size=(16, 24),
        patch_size=4,
        embed_dim=24,
        depth=5,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=3,
        decoder_num_heads=2,
    ).eval()
    assert model.encoder_state_dict().keys() == plain.encoder_state_dict().keys()
    report = plain.load_mae_state_dict(model.encoder_state_dict())
    assert not report.ignored
    images = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(plain.encode(images), model.encode(images))


def test_mae_weights_can_be_loaded_and_what_is_new_is_said() -> None:
    plain = MaskedAutoencoder.from_size("micro", image_size=32, patch_size=8)
    model = MultiScaleAutoencoder.from_size("micro", image_size=32, patch_size=8)
    report = model.load_mae_state_dict(plain.state_dict())
    assert not report.ignored
    assert {name.split(".")[0] for name in report.missed} == {"rgb_norms", "rgb_heads", "skip_embeds", "skip_merges"}


def test_norm_pix_scales_are_of_the_patch() -> None:
    model = small(norm_pix_loss=True)
    images = torch.rand(2, 3, 16, 24)
    result = model(images)
    flat = result.drawn([torch.zeros_like(tokens) for tokens in result.predictions])
    for scale in flat.pyramid:  # nothing drawn: every patch has its own mean, in the model's space over all channels
        normalised = (scale - model.mean) / model.std
        side = scale.shape[-1] // 6
        patch = normalised[:, :, :side, :side].mean(dim=(1, 2, 3))
        real = ((images - model.mean) / model.std)[:, :, :4, :4].mean(dim=(1, 2, 3))
        torch.testing.assert_close(patch, real, atol=1e-5, rtol=1e-5)


def test_a_decoder_that_is_deeper_than_the_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="no encoder block"):
        small(depth=2)


def test_cutting_collects_the_gradient_that_the_graph_would_have_had() -> None:
    model = small()
    images, noise = torch.rand(2, 3, 16, 24), torch.rand(2, 24)

    def loss(pyramid: tuple[Tensor, ...]) -> Tensor:
        return sum(((i + 1) * scale).pow(3).mean() for i, scale in enumerate(pyramid))  # type: ignore[return-value]

    loss(model(images, 0.75, noise).pyramid).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    result = model(images, 0.75, noise)
    leaf = result.cut()
    gradients = torch.autograd.grad(loss(leaf.pyramid), leaf.predictions)
    assert all(p.grad is None for p in model.parameters())
    torch.autograd.backward(result.predictions, gradients)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-7, rtol=1e-5)


def test_half_of_a_batch_is_drawn_as_it_was() -> None:
    model = small(norm_pix_loss=True)
    result = model(torch.rand(5, 3, 16, 24))
    half = result.constant_half()
    again = half.drawn(model.decode(half.latent, half.masking, half.maps))
    for whole, part in zip(result.pyramid, again.pyramid, strict=True):
        torch.testing.assert_close(part, whole[::2], atol=1e-5, rtol=1e-5)
    assert not half.latent.requires_grad
