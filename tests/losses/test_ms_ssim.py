"""SSIM against loops and scikit-image, and the loss that is made of it."""

from itertools import product

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from perceptual_mae.losses.ms_ssim import MsSsimL1, ssim
from perceptual_mae.models import Reconstruction
from perceptual_mae.models.masking import Masking

C1, C2 = 0.0001, 0.0009


def drawn(images: Tensor) -> Reconstruction:
    masking = Masking(torch.empty(0), torch.empty(0), torch.empty(0))
    return Reconstruction(torch.empty(0), (), (images,), torch.empty(0), masking, (1, 1), torch.clone)


def loss(made: Tensor, images: Tensor, alpha: float = 0.85) -> Tensor:
    return MsSsimL1(alpha)(drawn(made), images)[0]


def random_pair(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two images that resemble each other."""
    generator = torch.Generator().manual_seed(seed)
    images, noise = torch.rand(2, *shape, dtype=dtype, generator=generator)
    return 0.7 * images + 0.3 * noise, images


# -- the same, written as loops ----------------------------------------------------------------------------------------


def reflected(index: int, length: int) -> int:
    """-1 is 1, and `length` is `length - 2`."""
    return length - 1 - abs(length - 1 - abs(index))


def slow_ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM of two planes `(H, W)`, pixel by pixel from the formula."""
    height, width = x.shape
    result = np.empty((height, width))
    for i, j in product(range(height), range(width)):
        rows = [reflected(i + k, height) for k in (-1, 0, 1)]
        columns = [reflected(j + k, width) for k in (-1, 0, 1)]
        a = np.array([x[r, c] for r in rows for c in columns])
        b = np.array([y[r, c] for r in rows for c in columns])
        covariance = ((a - a.mean()) * (b - b.mean())).mean()
        above = (2 * a.mean() * b.mean() + C1) * (2 * covariance + C2)
        result[i, j] = above / ((a.mean() ** 2 + b.mean() ** 2 + C1) * (a.var() + b.var() + C2))
    return result


def slow_halves(x: np.ndarray) -> np.ndarray:
    height, width = (side // 2 for side in x.shape)
    return np.array([[x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(width)] for i in range(height)])


def slow_dissimilarity(x: Tensor, y: Tensor, scales: int) -> float:
    """The structural part of eq. 2 over a known number of scales."""
    planes = [(a.numpy(), b.numpy()) for a, b in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True)]
    values = []
    for _ in range(scales):
        values.append(np.mean([(1 - slow_ssim(a, b)) / 2 for a, b in planes]))
        planes = [(slow_halves(a), slow_halves(b)) for a, b in planes]
    return float(np.mean(values))


# -- SSIM --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(3, 3), (3, 8), (7, 5)])
def test_ssim_equals_a_loop(size: tuple[int, int]) -> None:
    x, y = random_pair(2, 3, *size)
    expected = [[slow_ssim(*planes) for planes in zip(*channels, strict=True)] for channels in zip(x, y, strict=True)]
    np.testing.assert_allclose(ssim(x, y), expected, rtol=1e-9)


def test_ssim_equals_scikit_image(photographs: Tensor) -> None:
    """Away from the edges, where it repeats the last pixel."""
    y = photographs[0].double() / 255
    x = (0.8 * y + 0.2 * y.flip(-1)).clamp(0, 1)
    _, expected = structural_similarity(
        x.numpy(), y.numpy(), win_size=3, use_sample_covariance=False, data_range=1.0, channel_axis=0, full=True
    )
    found = ssim(x[None], y[None])[0].numpy()
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], rtol=1e-9)


def test_ssim_by_hand() -> None:
    """One bright pixel among nine against black: means 1/9 and 0, variances 8/81 and 0."""
    x = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    x[..., 1, 1] = 1
    expected = C1 * C2 / ((1 / 81 + C1) * (8 / 81 + C2))
    assert ssim(x, torch.zeros_like(x))[..., 1, 1].item() == pytest.approx(expected, rel=1e-9)


def test_equal_images_are_equal(photographs: Tensor) -> None:
    images = photographs.float() / 255
    assert (ssim(images, images) == 1).all()


def test_ssim_has_no_sides() -> None:
    x, y = random_pair(1, 2, 6, 6)
    torch.testing.assert_close(ssim(x, y), ssim(y, x))
    assert (ssim(x, y).abs() <= 1).all()
    assert (ssim(x, 1 - x) < 0).any()  # a negative looks like the opposite


def test_float32_is_enough(photographs: Tensor) -> None:
    """To 1e-4 for photographs, and for nearly flat ones at the ends of the range, where variances lose most digits."""
    generator = torch.Generator().manual_seed(0)
    images = photographs.double() / 255
    for y in (images, 1 - 0.02 * images, 0.02 * images, 0.98 + 0 * images, 0 * images):
        for strength in (1e-3, 1e-2, 0.3):
            x = y + strength * torch.randn(y.shape, generator=generator, dtype=torch.float64)
            x, z = x.float(), y.float()
            assert (ssim(x, z).double() - ssim(x.double(), z.double())).abs().max() < 1e-4


def test_what_is_left_between_nearly_equal_images_is_right_in_float32(photographs: Tensor) -> None:
    y = photographs.float() / 255
    x = y + 1e-3 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    left, expected = (1 - ssim(x, y)).mean(), (1 - ssim(x.double(), y.double())).mean()
    assert expected < 0.01
    assert left.item() == pytest.approx(expected.item(), rel=1e-3)


def test_images_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="2 x 5 are smaller than SSIM's window"):
        ssim(torch.rand(1, 1, 2, 5), torch.rand(1, 1, 2, 5))


# -- the loss (eq. 2) --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "scales"),
    [((3, 4), 1), ((5, 16), 1), ((6, 6), 2), ((12, 13), 3), ((7, 30), 2), ((24, 24), 4), ((50, 48), 4)],
)
def test_loss_equals_a_loop(size: tuple[int, int], scales: int) -> None:
    """With as many scales as are at least three pixels wide and high, but four at most."""
    x, y = random_pair(1, 2, *size)
    expected = 0.85 * slow_dissimilarity(x, y, scales) + 0.15 * np.abs((x - y).numpy()).mean()
    assert loss(x, y).item() == pytest.approx(expected, rel=1e-9)


def test_loss_by_hand() -> None:
    """Flat images of 1/2 and 1/4 have no structure to lose, and are the same at every scale."""
    x, y = torch.full((1, 3, 32, 32), 0.5), torch.full((1, 3, 32, 32), 0.25)
    luminance = (0.25 + C1) / (0.3125 + C1)
    assert loss(x, y).item() == pytest.approx(0.85 * (1 - luminance) / 2 + 0.15 * 0.25, rel=1e-5)


def test_parts_make_the_loss() -> None:
    x, y = random_pair(2, 3, 16, 16)
    value, parts = MsSsimL1(alpha=0.6)(drawn(x.requires_grad_()), y)
    assert parts.keys() == {"ssim", "l1"}
    assert not any(part.requires_grad for part in parts.values())
    assert value.item() == pytest.approx(0.6 * parts["ssim"].item() + 0.4 * parts["l1"].item(), rel=1e-12)
    assert parts["l1"].item() == pytest.approx((x - y).abs().mean().item(), rel=1e-12)
    assert value.shape == ()


def test_gradcheck() -> None:
    x, y = random_pair(1, 2, 12, 7)
    assert torch.autograd.gradcheck(lambda x: loss(x, y), x.requires_grad_())


@pytest.mark.parametrize(("made", "image"), list(product((0.0, 0.5, 1.0), repeat=2)))
def test_flat_images_have_finite_gradients(made: float, image: float) -> None:
    x, y = torch.full((1, 1, 16, 16), made, requires_grad=True), torch.full((1, 1, 16, 16), image)
    value = loss(x, y)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()


def test_half_precision_is_judged_in_float32() -> None:
    x, y = random_pair(2, 3, 16, 16, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(x.bfloat16(), y)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(x.bfloat16().float(), y))
