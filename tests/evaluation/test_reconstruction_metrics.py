"""Table 1 of a model against scikit-image, SciPy and loops in float64."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.linalg
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from perceptual_mae.data import Batch
from perceptual_mae.errors import PmaeError
from perceptual_mae.evaluation.fidelity import INCEPTION
from perceptual_mae.evaluation.reconstruction import look, reconstruction_errors, reconstructions
from perceptual_mae.evaluation.reconstruction_metrics import (
    LARGEST_PSNR,
    measure_reconstructions,
    pixel_metrics,
    ssim,
)
from perceptual_mae.models import MaskedAutoencoder

RATIO = 0.75


def model(seed: int = 0, size: str = "micro", channels: int = 3, **settings: object) -> MaskedAutoencoder:
    torch.manual_seed(seed)
    settings = {"mean": [0.4] * channels, "std": [0.3] * channels, "in_channels": channels} | settings
    return MaskedAutoencoder.from_size(size, image_size=(32, 48), patch_size=8, **settings).eval()


def batches(images: Tensor, *sizes: int) -> Iterator[Batch]:
    for part in images.split(list(sizes or [len(images)])):
        yield Batch(part, torch.full((len(part),), -1), [""] * len(part), [])


def many_channels(photographs: Tensor, channels: int) -> Tensor:
    return torch.cat([photographs, photographs.flip(0)], dim=1)[:, :channels]


class Corners:
    """Features that a loop can repeat: a few pixels, smaller and of one channel each."""

    def __init__(self, name: str = "corners") -> None:
        self.name = name
        self.shapes: set[tuple[int, ...]] = set()

    def features(self, images: Tensor) -> Tensor:
        self.shapes.add(tuple(images.shape[1:]))
        return torch.stack([images[:, 0, 0, 0], images[:, 1, 9, 9], images[:, 2, 20, 30], images.mean((1, 2, 3))], 1)


class Judge(Corners):
    def logits(self, features: Tensor) -> Tensor:
        return 20 * torch.cat([features, 1 - features], dim=1)


# -- one image ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_pixels_equal_scikit_image(photographs: Tensor, channels: int) -> None:
    originals = many_channels(photographs, channels) / 255
    noise = torch.randn(originals.shape, generator=torch.Generator().manual_seed(0))
    strength = torch.linspace(0.01, 0.3, 12)[:, None, None, None]
    images = (originals + strength * noise).clamp(0, 1)
    found = pixel_metrics(images, originals)
    for i in range(12):
        x, y = originals[i].double().numpy(), images[i].double().numpy()
        assert float(found["l1"][i]) == pytest.approx(np.abs(x - y).mean(), rel=1e-5)
        assert float(found["psnr"][i]) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1), rel=1e-5)
        # scikit-image leaves out 5 pixels at the edges of what it is given: so it is given 5 more, reflected.
        wide = [np.pad(z, [(0, 0), (5, 5), (5, 5)], mode="reflect") for z in (x, y)]
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
        expected = structural_similarity(*wide, channel_axis=0, **settings)
        assert float(found["ssim"][i]) == pytest.approx(expected, abs=1e-4)
        assert ssim(images[i : i + 1].double(), originals[i : i + 1].double()).item() == pytest.approx(
            expected, rel=1e-9
        )
    assert found["ssim"].min() < 0.3
    assert found["ssim"].max() > 0.9


@pytest.mark.parametrize("count", [1, 5, 6, 16])
def test_ssim_of_any_number_of_images(photographs: Tensor, count: int) -> None:
    # Channels go in groups of 16 however many there are.
    images = photographs.repeat(2, 1, 1, 1)[:count] / 255
    other = images.flip(3)
    expected = torch.cat([ssim(images[i : i + 1], other[i : i + 1]) for i in range(count)])
    torch.testing.assert_close(ssim(images, other), expected)
    torch.testing.assert_close(ssim(images, images), torch.ones(count))


# -- a model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_table_equals_a_loop_over_images(photographs: Tensor, channels: int) -> None:
    network, images = model(channels=channels), many_channels(photographs, channels)
    found = measure_reconstructions(network, batches(images, 7, 5), mask_ratio=RATIO, seed=3)
    seen = look(network, images, RATIO, seed=3)
    versions = {"output": seen.reconstructions, "pasted": seen.pasted}
    originals = seen.originals.double().numpy()
    for name, pictures in versions.items():
        drawn = pictures.double().clamp(0, 1).numpy()
        l1 = [np.abs(a - b).mean() for a, b in zip(drawn, originals, strict=True)]
        psnr = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(originals, drawn, strict=True)]
        assert found[name]["l1"] == pytest.approx(np.mean(l1), rel=1e-5)
        assert found[name]["psnr"] == pytest.approx(np.mean(psnr), rel=1e-5)
        of_all = peak_signal_noise_ratio(originals, drawn, data_range=1)
        assert found[name]["psnr"] > of_all + 0.01  # the mean of PSNRs is not the PSNR of the mean
        assert -1 < found[name]["ssim"] < 1
    removed = seen.masks.expand(-1, channels, -1, -1).numpy()
    drawn = seen.reconstructions.double().clamp(0, 1).numpy()
    l1 = [np.abs(a - b)[m].mean() for a, b, m in zip(drawn, originals, removed, strict=True)]
    psnr = [-10 * np.log10(((a - b)[m] ** 2).mean()) for a, b, m in zip(drawn, originals, removed, strict=True)]
    assert found["removed"] == pytest.approx({"l1": np.mean(l1), "psnr": np.mean(psnr)}, rel=1e-5)
    assert {key: found[key] for key in ("images", "mask_ratio", "seed", "notes")} == {
        "images": 12,
        "mask_ratio": RATIO,
        "seed": 3,
        "notes": [],
    }


def test_pasting_leaves_the_errors_of_removed_patches(photographs: Tensor) -> None:
    found = measure_reconstructions(model(), batches(photographs), mask_ratio=RATIO)
    assert found["pasted"]["l1"] == pytest.approx(18 / 24 * found["removed"]["l1"], rel=1e-5)
    assert found["pasted"]["l1"] < found["output"]["l1"]
    assert found["pasted"]["psnr"] > found["output"]["psnr"]
    assert found["pasted"]["ssim"] > found["output"]["ssim"]
    # The monitor's error is the same but for values outside [0, 1], which a picture does not have.
    assert found["removed"]["l1"] <= reconstruction_errors(model(), batches(photographs), RATIO)["l1"]


def test_two_models_see_the_same_masks_however_batches_are_cut(photographs: Tensor) -> None:
    def masks(network: MaskedAutoencoder, *sizes: int, seed: int = 5) -> Tensor:
        return torch.cat(
            [result.mask for _, result in reconstructions(network, batches(photographs, *sizes), RATIO, seed)]
        )

    first = masks(model(0), 12)
    assert torch.equal(first, masks(model(1, size="tiny"), 12))
    assert torch.equal(first, masks(model(0, norm_pix_loss=True), 1, 4, 0, 7))
    assert not torch.equal(first, masks(model(0), 12, seed=6))
    assert len(first.unique(dim=0)) == 12


def test_batches_change_no_number(photographs: Tensor) -> None:
    def measured(*sizes: int) -> dict[str, dict[str, float]]:
        judges = [Judge(INCEPTION), Corners()]
        return measure_reconstructions(model(), batches(photographs, *sizes), mask_ratio=RATIO, extractors=judges)

    whole, cut = measured(12), measured(5, 0, 1, 6)
    for version in ("output", "pasted", "removed", "originals"):
        assert cut[version] == pytest.approx(whole[version], rel=1e-4)
    assert whole["notes"] == cut["notes"]
    other = measure_reconstructions(model(), batches(photographs), mask_ratio=RATIO, seed=1)
    assert other["output"]["l1"] != whole["output"]["l1"]


def test_distances_are_of_the_originals_from_each_version(photographs: Tensor) -> None:
    corners, judge = Corners(), Judge(INCEPTION)
    found = measure_reconstructions(model(), batches(photographs, 7, 5), mask_ratio=RATIO, extractors=[corners, judge])
    seen = look(model(), photographs, RATIO)
    reference = corners.features(seen.originals).double().numpy()
    for name, pictures in {"output": seen.reconstructions, "pasted": seen.pasted}.items():
        drawn = corners.features(pictures.clamp(0, 1)).double().numpy()
        a, b = np.cov(reference, rowvar=False), np.cov(drawn, rowvar=False)
        mean = reference.mean(axis=0) - drawn.mean(axis=0)
        expected = mean @ mean + np.trace(a + b) - 2 * np.trace(scipy.linalg.sqrtm(a @ b).real)
        assert found[name]["fd-corners"] == pytest.approx(expected, rel=1e-4)
        assert found[name]["fid"] == pytest.approx(expected, rel=1e-4)
        assert found[name]["is"] >= 1
        assert found[name].keys() == {"l1", "psnr", "ssim", "fd-corners", "fid", "is", "is_std"}
    assert found["originals"].keys() == {"is", "is_std"}
    assert found["pasted"]["fid"] != found["output"]["fid"]
    assert [note.split(":")[0] for note in found["notes"]] == ["is"]  # more images than dimensions, few for the score
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_grey_images_are_shown_to_extractors_as_colour(photographs: Tensor) -> None:
    corners = Corners()
    found = measure_reconstructions(
        model(channels=1), batches(photographs[:, :1]), mask_ratio=RATIO, extractors=[corners]
    )
    assert corners.shapes == {(3, 32, 48)}
    assert "originals" not in found  # without a classifier there is nothing to say of them
    assert found["output"]["fd-corners"] > 0


def test_other_channels_are_not_shown_to_extractors(photographs: Tensor) -> None:
    corners = Corners()
    images = many_channels(photographs, 5)
    found = measure_reconstructions(model(channels=5), batches(images), mask_ratio=RATIO, extractors=[corners])
    assert corners.shapes == set()
    assert found["output"].keys() == {"l1", "psnr", "ssim"}
    assert found["notes"] == ["distances by corners: left out, images have 5 channels, not 1 or 3"]


def test_few_images_are_told(photographs: Tensor) -> None:
    def notes(count: int) -> list[str]:
        stream = batches(photographs[:count])
        found = measure_reconstructions(model(), stream, mask_ratio=RATIO, extractors=[Corners()])
        assert ("fd-corners" in found["output"]) == (count > 1)
        return found["notes"]

    assert notes(1) == ["fd-corners: needs two images at least"]
    assert notes(3)[0].startswith("fd-corners: of 3 images in 4 dimensions")
    assert notes(4) == notes(12) == []


def test_nothing_removed_leaves_no_infinity(photographs: Tensor) -> None:
    found = measure_reconstructions(model(), batches(photographs), mask_ratio=0)
    assert found["removed"] == {}
    assert found["pasted"] == {"l1": 0, "psnr": LARGEST_PSNR, "ssim": pytest.approx(1)}
    assert 0 < found["output"]["psnr"] < 30
    json.dumps(found, allow_nan=False)


def test_no_images_no_numbers() -> None:
    assert measure_reconstructions(model(), [], mask_ratio=RATIO) == {}


def test_a_model_that_diverged_is_named(photographs: Tensor) -> None:
    network = model()
    with torch.no_grad():
        network.decoder_pred.bias.fill_(float("nan"))
    with pytest.raises(PmaeError, match="not finite numbers: training has diverged"):
        measure_reconstructions(network, batches(photographs), mask_ratio=RATIO)


def test_the_model_and_the_random_state_are_left_alone(photographs: Tensor) -> None:
    network = model().train()
    state = torch.get_rng_state()
    measure_reconstructions(network, batches(photographs), mask_ratio=RATIO, extractors=[Judge("judge")])
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)
