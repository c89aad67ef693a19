"""The masked autoencoder: against reference tensors, against timm, and by what must hold for any weights."""

import ast
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from perceptual_mae.losses.pixel import masked_mse
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.models.masking import mask_from_noise


def small(image_size: int | tuple[int, int] = (16, 24), in_channels: int = 3, **settings: object) -> MaskedAutoencoder:
    """A small model none of whose parameters is zero, one or otherwise special."""
    torch.manual_seed(0)
    sizes = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    sizes |= {"decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2}
    model = MaskedAutoencoder(image_size, in_channels=in_channels, **(sizes | settings))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def pictures(model: MaskedAutoencoder, count: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, model.in_channels, *model.image_size, generator=generator)


def noise_for(model: MaskedAutoencoder, count: int = 2) -> Tensor:
    return torch.rand(count, model.num_patches, generator=torch.Generator().manual_seed(1))


# -- against reference tensors -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(golden: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    path = golden / "mae_reference.safetensors"
    with safe_open(path, "pt") as file:
        config = ast.literal_eval(file.metadata()["config"])
    config["image_size"] = config.pop("img_size")
    return load_file(path), config


@pytest.mark.parametrize(("norm_pix_loss", "loss_name"), [(False, "loss.plain"), (True, "loss.normpix")])
def test_reference(reference: tuple[dict[str, Tensor], dict[str, int]], norm_pix_loss: bool, loss_name: str) -> None:
    tensors, config = reference
    model = MaskedAutoencoder(**config, mean=[0], std=[1], norm_pix_loss=norm_pix_loss)  # type: ignore[arg-type]
    report = model.load_mae_state_dict({name: t for name, t in tensors.items() if name.startswith("model.")})
    assert report.missed == report.ignored == report.resampled == ()
    # A position embedding of the model's own making is the file's.
    fresh = MaskedAutoencoder(**config)  # type: ignore[arg-type]
    torch.testing.assert_close(fresh.pos_embed, tensors["model.pos_embed"], atol=1e-6, rtol=0)
    torch.testing.assert_close(fresh.decoder_pos_embed, tensors["model.decoder_pos_embed"], atol=1e-6, rtol=0)

    result = model(tensors["image"], 0.75, tensors["noise"])
    torch.testing.assert_close(result.latent, tensors["latent"], atol=1e-4, rtol=0)
    torch.testing.assert_close(result.patches, tensors["pred"], atol=1e-4, rtol=0)
    assert torch.equal(result.mask, tensors["mask"].bool())
    loss, _ = masked_mse(result, tensors["image"])
    assert loss.item() == pytest.approx(tensors[loss_name].item(), abs=1e-5)
    if not norm_pix_loss:
        loss.backward()
        norm = sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None) ** 0.5
        assert norm == pytest.approx(tensors["grad_norm.total"].item(), rel=1e-4)


# -- against timm ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(16, 16), (16, 24), (32, 8)])
def test_encoder_equals_timms_vision_transformer(size: tuple[int, int], channels: int) -> None:
    statistics = {"mean": [0.2, 0.4, 0.5, 0.9][:channels], "std": [0.3, 0.2, 0.5, 0.4][:channels]}
    model = small(size, channels, **statistics).eval()
    theirs = VisionTransformer(size, 4, in_chans=channels, embed_dim=24, depth=2, num_heads=3, num_classes=0).eval()
    theirs.load_state_dict(model.encoder_state_dict(), strict=True)
    images = pictures(model)
    mean, std = (torch.tensor(statistics[name]).reshape(1, -1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = theirs.forward_features((images - mean) / std)
        torch.testing.assert_close(model.encode(images), expected, atol=1e-5, rtol=1e-5)
        # Unmasked but shuffled by the noise: the same tokens, in another order.
        noise = noise_for(model)
        result = model(images, 0.0, noise)
        order = noise.argsort(dim=1)[..., None].expand(-1, -1, 24)
        torch.testing.assert_close(result.latent[:, 1:], expected[:, 1:].gather(1, order), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(result.latent[:, 0], expected[:, 0], atol=1e-5, rtol=1e-5)


def test_masked_encoder_equals_timms_blocks_on_the_visible_tokens() -> None:
    model = small().eval()
    theirs = VisionTransformer((16, 24), 4, embed_dim=24, depth=2, num_heads=3, num_classes=0).eval()
    theirs.load_state_dict(model.encoder_state_dict(), strict=True)
    images, noise = pictures(model), noise_for(model)
    with torch.no_grad():
        tokens = theirs._pos_embed(theirs.patch_embed((images - model.mean) / model.std))
        result = model(images, 0.5, noise)
        for b in range(2):
            visible = noise[b].argsort()[:12]
            seen = torch.cat([tokens[b, :1], tokens[b, 1:][visible]])[None]
            torch.testing.assert_close(result.latent[b], theirs.norm(theirs.blocks(seen))[0], atol=1e-5, rtol=1e-5)


# -- what must hold for any weights ------------------------------------------------------------------------------------


def test_decoder_sees_every_kept_token_in_its_place_and_mask_tokens_elsewhere() -> None:
    model = small().eval()
    noise = noise_for(model)
    masking = mask_from_noise(noise, 0.75)
    latent = torch.randn(2, 1 + 6, 24)
    with torch.no_grad():
        embedded = model.decoder_embed(latent)
        for b in range(2):
            rows = [embedded[b, 0]]
            kept = masking.keep[b].tolist()
            rows += [embedded[b, 1 + kept.index(i)] if i in kept else model.mask_token[0, 0] for i in range(24)]
            tokens = (torch.stack(rows) + model.decoder_pos_embed[0])[None]
            for block in model.decoder_blocks:
                tokens = block(tokens)
            expected = model.decoder_pred(model.decoder_norm(tokens))[0, 1:]
            torch.testing.assert_close(model.decode(latent, masking)[0][b], expected, atol=1e-5, rtol=1e-5)


def test_removed_pixels_change_nothing_and_visible_ones_do() -> None:
    model = small().eval()
    images, noise = pictures(model), noise_for(model)
    with torch.no_grad():
        result = model(images, 0.75, noise)
        hidden = result.mask.reshape(2, 1, 4, 6).repeat_interleave(4, 2).repeat_interleave(4, 3)
        other = torch.where(hidden, pictures(model, seed=9), images)
        same = model(other, 0.75, noise)
        assert not torch.equal(other, images)
        assert torch.equal(same.latent, result.latent)
        assert torch.equal(same.patches, result.patches)
        assert not torch.equal(same.target, result.target)
        other = torch.where(hidden, images, pictures(model, seed=9))
        changed = model(other, 0.75, noise)
        assert (changed.latent - result.latent).abs().amax(dim=(1, 2)).min() > 1e-3
        assert (changed.patches - result.patches).abs().amax(dim=(1, 2)).min() > 1e-3


def test_images_of_a_batch_do_not_see_each_other() -> None:
    model = small().eval()
    images, noise = pictures(model, 3), noise_for(model, 3)
    with torch.no_grad():
        together = model(images, 0.75, noise)
        for b in range(3):
            alone = model(images[b : b + 1], 0.75, noise[b : b + 1])
            torch.testing.assert_close(together.patches[b], alone.patches[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_a_perfect_prediction_is_the_image(norm_pix_loss: bool) -> None:
    model = small(norm_pix_loss=norm_pix_loss)
    images = pictures(model)
    result = model(images, 0.75, noise_for(model))
    assert not torch.allclose(result.images, images, atol=1e-2)
    perfect = result.drawn([result.target])
    torch.testing.assert_close(perfect.images, images, atol=1e-5, rtol=0)


def test_norm_pix_target_has_mean_zero_and_unbiased_variance_one() -> None:
    model = small(norm_pix_loss=True)
    target = model(pictures(model), 0.75, noise_for(model)).target.double()
    pixels = target.shape[-1]
    torch.testing.assert_close(target.sum(dim=-1), torch.zeros(2, 24).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        target.square().sum(dim=-1) / (pixels - 1), torch.ones(2, 24).double(), atol=1e-4, rtol=0
    )


def test_norm_pix_of_a_flat_patch_is_finite() -> None:
    model = small(in_channels=1, norm_pix_loss=True)
    result = model(torch.full((1, 1, 16, 24), 0.3), 0.75, noise_for(model, 1))
    assert result.target.abs().max() < 1e-3
    loss, _ = masked_mse(result, result.images)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_to_pixels_undoes_mean_std_and_patches() -> None:
    model = small(in_channels=2, mean=[0.25, 0.5], std=[0.5, 2.0])
    patches = torch.zeros(1, 24, 32)
    patches[0, 7, (2 * 4 + 3) * 2 + 1] = 1.0  # token 7 = row 1, column 1; pixel (2, 3), channel 1
    expected = torch.tensor([0.25, 0.5])[None, :, None, None].repeat(1, 1, 16, 24)
    expected[0, 1, 1 * 4 + 2, 1 * 4 + 3] += 2.0
    torch.testing.assert_close(model.to_pixels(patches), expected)


def test_reconstructions_are_not_clamped_and_carry_gradients() -> None:
    model = small()
    with torch.no_grad():
        model.decoder_pred.bias.fill_(100.0)
    images = model(pictures(model), 0.75, noise_for(model)).images
    assert images.max() > 1
    images.sum().backward()
    assert model.decoder_pred.weight.grad is not None


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_gradients_reach_every_parameter(norm_pix_loss: bool) -> None:
    model = small(norm_pix_loss=norm_pix_loss)
    images = pictures(model).requires_grad_()
    result = model(images, 0.75, noise_for(model))
    masked_mse(result, images)[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert not any(buffer.requires_grad for buffer in model.buffers())


def test_the_mask_comes_from_the_generator() -> None:
    model = small()
    images = pictures(model, 4)
    masks = [model(images, 0.75, generator=torch.Generator().manual_seed(seed)).mask for seed in (5, 5, 6)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert len(masks[0].unique(dim=0)) == 4


def test_initialisation_is_that_of_mae() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder.from_size("tiny", image_size=32, patch_size=8)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight") or (".norm" in name and name.endswith("weight")):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif name in ("cls_token", "mask_token"):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2), name
        else:
            fan_out, fan_in = parameter.shape[0], parameter[0].numel()
            # Xavier's uniform distribution on (-a, a), a = sqrt(6 / (fan_in + fan_out)).
            bound = (6 / (fan_in + fan_out)) ** 0.5
            assert 0.98 * bound < parameter.abs().max() <= bound * (1 + 1e-6), name
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.03), name


# -- sizes that cannot be right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [30, (16, 25), (2, 4), 0])
def test_image_sizes_that_are_no_multiple_of_the_patch_are_refused(size: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not a multiple of the patch size 4"):
        small(size)


@pytest.mark.parametrize("shape", [(2, 3, 24, 16), (2, 1, 16, 24), (3, 16, 24), (2, 3, 16, 20)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    model = small()
    for call in (model, model.encode):
        with pytest.raises(ValueError, match=r"takes images \(B, 3, 16, 24\), not"):
            call(torch.zeros(shape))


@pytest.mark.parametrize("statistic", ["mean", "std"])
def test_statistics_for_another_number_of_channels_are_refused(statistic: str) -> None:
    with pytest.raises(ValueError, match=f"{statistic} has 2 values for 3 channels"):
        small(**{statistic: [0.1, 0.2]})


def test_default_statistics() -> None:
    assert small().mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert small().std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert small(in_channels=4).mean.flatten().tolist() == [0.5] * 4
    assert small(in_channels=1).std.flatten().tolist() == [0.25]
