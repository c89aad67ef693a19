"""Reconstructions and their errors, against float64 NumPy."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from perceptual_mae.data import Batch
from perceptual_mae.evaluation.reconstruction import Look, expected_losses, look, reconstruction_errors
from perceptual_mae.losses.pixel import masked_mse
from perceptual_mae.models import MaskedAutoencoder


def model(seed: int = 0, size: str = "micro", **settings: object) -> MaskedAutoencoder:
    torch.manual_seed(seed)
    settings = {"mean": [0.3, 0.4, 0.5], "std": [0.1, 0.2, 0.4]} | settings
    return MaskedAutoencoder.from_size(size, image_size=(32, 48), patch_size=8, **settings).eval()


def batches(images: Tensor, *sizes: int) -> Iterator[Batch]:
    for part in images.split(list(sizes)):
        yield Batch(part, torch.full((len(part),), -1), [""] * len(part), [])


def test_every_model_sees_the_same_masks(photographs: Tensor) -> None:
    masks = [
        look(each, photographs, 0.75).masks for each in (model(0), model(1, size="tiny"), model(2, norm_pix_loss=True))
    ]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], look(model(), photographs, 0.75, seed=1).masks)
    # Of a longer list the first images have the masks that they have alone.
    assert torch.equal(look(model(), photographs[:3], 0.75).masks, masks[0][:3])


def test_masks_are_whole_patches_and_as_many_as_asked_for(photographs: Tensor) -> None:
    masks = look(model(), photographs, 0.75).masks
    assert masks.shape == (12, 1, 32, 48)
    cells = masks.reshape(12, 4, 8, 6, 8)
    assert torch.equal(cells.any(dim=4).any(dim=2), cells.all(dim=4).all(dim=2))
    assert cells[:, :, 0, :, 0].sum(dim=(1, 2)).tolist() == [18] * 12
    assert len(masks.flatten(1).unique(dim=0)) == 12


def test_removed_pixels_are_those_the_model_does_not_see(photographs: Tensor) -> None:
    seen = look(model(), photographs, 0.75)
    other = torch.where(seen.masks, 255 - photographs, photographs)
    assert torch.equal(look(model(), other, 0.75).reconstructions, seen.reconstructions)


def test_pasted_is_the_original_where_visible_and_the_reconstruction_elsewhere(photographs: Tensor) -> None:
    seen = look(model(), photographs, 0.75)
    np.testing.assert_allclose(seen.originals.numpy(), photographs.numpy() / 255, atol=1e-7)
    removed = seen.masks.expand(-1, 3, -1, -1)
    assert torch.equal(seen.pasted[removed], seen.reconstructions[removed])
    assert torch.equal(seen.pasted[~removed], seen.originals[~removed])
    assert not torch.equal(seen.reconstructions[~removed], seen.originals[~removed])


def test_looking_leaves_the_model_and_the_random_state_alone(photographs: Tensor) -> None:
    network = model().train()
    before, state = {n: t.clone() for n, t in network.state_dict().items()}, torch.get_rng_state()
    seen = look(network, photographs / 255, 0.5)
    assert isinstance(seen, Look)
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    torch.testing.assert_close(seen.originals, look(network, photographs, 0.5).originals)


def errors_in_float64(network: MaskedAutoencoder, images: Tensor, ratio: float, seed: int) -> dict[str, float]:
    """Both errors image by image from what `look` shows."""
    seen = look(network, images, ratio, seed)
    originals, painted = seen.originals.double().numpy(), seen.reconstructions.double().numpy()
    std = network.std.double().numpy()[0]
    squares, absolute = [], []
    for original, reconstruction, mask in zip(originals, painted, seen.masks.numpy(), strict=True):
        removed = np.broadcast_to(mask, original.shape)
        squares.append((((reconstruction - original) / std)[removed] ** 2).mean())
        absolute.append(np.abs(reconstruction - original)[removed].mean())
    return {"mse": float(np.mean(squares)), "l1": float(np.mean(absolute))}


@pytest.mark.parametrize("ratio", [0.75, 0.3])
def test_errors_equal_a_loop(photographs: Tensor, ratio: float) -> None:
    expected = errors_in_float64(model(), photographs, ratio, seed=3)
    found = reconstruction_errors(model(), batches(photographs, 12), ratio, seed=3)
    assert found == pytest.approx(expected, rel=1e-5)


def test_errors_do_not_depend_on_how_batches_are_cut(photographs: Tensor) -> None:
    whole = reconstruction_errors(model(), batches(photographs, 12), 0.75)
    assert reconstruction_errors(model(), batches(photographs, 5, 0, 1, 6), 0.75) == pytest.approx(whole, rel=1e-5)


def test_errors_of_a_model_that_normalises_patches(photographs: Tensor) -> None:
    network = model(norm_pix_loss=True)
    found = reconstruction_errors(network, batches(photographs, 12), 0.75)
    seen = look(network, photographs, 0.75)
    removed = seen.masks.expand(-1, 3, -1, -1)
    l1 = (seen.reconstructions - seen.originals)[removed].abs().double().mean().item()
    assert found["l1"] == pytest.approx(l1, rel=1e-5)


def test_no_images_no_errors() -> None:
    assert reconstruction_errors(model(), [], 0.75) == {}
    assert reconstruction_errors(model(), batches(torch.empty(0, 3, 32, 48, dtype=torch.uint8), 0), 0.75) == {}


def test_nothing_removed_gives_finite_errors_or_none(photographs: Tensor) -> None:
    # `--mask-ratio 0` is allowed; a NaN in metrics.jsonl would be no JSON.
    found = reconstruction_errors(model(), batches(photographs, 12), 0.0)
    assert all(np.isfinite(value) for value in found.values()), found


@pytest.mark.parametrize("channels", [1, 3])
def test_expected_loss_is_that_of_the_mean_colour(photographs: Tensor, channels: int) -> None:
    images = photographs[:, :channels]
    statistics = {"mean": [0.3, 0.4, 0.5][:channels], "std": [0.1, 0.2, 0.4][:channels]}
    network = model(in_channels=channels, **statistics)
    found = expected_losses(network, images, [("mse", masked_mse), ("again", masked_mse)], 0.75)
    mean, std = (np.array(statistics[name])[None, :, None, None] for name in ("mean", "std"))
    normalised = (images.numpy() / 255 - mean) / std
    removed = np.broadcast_to(look(network, images, 0.75).masks.numpy(), normalised.shape)
    guess = normalised.mean(axis=(0, 2, 3), keepdims=True)
    expected = float(((normalised - guess) ** 2)[removed].mean())
    assert found == pytest.approx({"mse": expected, "again": expected}, rel=1e-4)
    assert found["mse"] == pytest.approx(float(normalised.var(axis=(0, 2, 3)).mean()), rel=0.2)


def test_expected_loss_does_not_depend_on_the_weights(photographs: Tensor) -> None:
    losses = [expected_losses(model(seed), photographs, [("mse", masked_mse)], 0.75) for seed in (0, 1)]
    assert losses[0] == losses[1]
