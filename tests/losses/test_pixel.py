"""Pixel losses against float64 loops."""

import pytest
import torch
from torch import Tensor

from perceptual_mae.losses.pixel import l1, masked_mse
from perceptual_mae.models import Reconstruction
from perceptual_mae.models.masking import Masking


def reconstruction(patches: Tensor, target: Tensor, mask: Tensor) -> Reconstruction:
    masking = Masking(torch.empty(0), torch.empty(0), mask)
    return Reconstruction(torch.empty(0), (), (patches,), target, masking, (1, mask.shape[1]), torch.clone)


def drawn(images: Tensor) -> Reconstruction:
    """A reconstruction in image space; pixels are twice what the model predicts, so that one is told from the other."""
    masking = Masking(torch.empty(0), torch.empty(0), torch.empty(0))
    return Reconstruction(torch.empty(0), (), (images / 2,), torch.empty(0), masking, (1, 1), lambda tokens: tokens * 2)


@pytest.fixture
def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    patches, target = torch.randn(2, 3, 5, 12, generator=generator)
    mask = torch.tensor([[1, 0, 1, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 1, 0]]).bool()
    return patches, target, mask


def test_masked_mse_equals_a_loop(example: tuple[Tensor, Tensor, Tensor]) -> None:
    patches, target, mask = example
    squares = [
        (patches[b, i, j].item() - target[b, i, j].item()) ** 2
        for b in range(3)
        for i in range(5)
        for j in range(12)
        if mask[b, i]
    ]
    loss, parts = masked_mse(reconstruction(*example), torch.empty(0))
    assert loss.item() == pytest.approx(sum(squares) / len(squares), rel=1e-6)
    assert loss.shape == ()
    assert parts == {}


def test_visible_patches_count_for_nothing(example: tuple[Tensor, Tensor, Tensor]) -> None:
    patches, target, mask = example
    loss, _ = masked_mse(reconstruction(*example), torch.empty(0))
    elsewhere = torch.where(mask[..., None], patches, patches + 7)
    assert masked_mse(reconstruction(elsewhere, target, mask), torch.empty(0))[0] == loss


def test_gradient(example: tuple[Tensor, Tensor, Tensor]) -> None:
    patches, target, mask = example
    patches.requires_grad_()
    masked_mse(reconstruction(patches, target, mask), torch.empty(0))[0].backward()
    expected = 2 * (patches.detach().double() - target.double()) * mask[..., None] / (int(mask.sum()) * 12)
    torch.testing.assert_close(patches.grad.double(), expected, atol=1e-7, rtol=1e-5)


def test_gradcheck(example: tuple[Tensor, Tensor, Tensor]) -> None:
    patches, target, mask = (t.double() if t.is_floating_point() else t for t in example)
    # The term computes in float32, so the step is coarse; of a quadratic the central difference is exact all the same.
    assert torch.autograd.gradcheck(
        lambda p: masked_mse(reconstruction(p, target, mask), torch.empty(0))[0],
        patches.requires_grad_(),
        eps=0.1,
        atol=1e-4,
        rtol=1e-3,
    )


def test_half_precision_is_judged_in_float32(example: tuple[Tensor, Tensor, Tensor]) -> None:
    patches, target, mask = example
    loss, _ = masked_mse(reconstruction(patches.bfloat16(), target, mask), torch.empty(0))
    expected, _ = masked_mse(reconstruction(patches.bfloat16().float(), target, mask), torch.empty(0))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_nothing_removed_is_no_loss(example: tuple[Tensor, Tensor, Tensor]) -> None:
    patches, target, mask = example
    patches.requires_grad_()
    loss, _ = masked_mse(reconstruction(patches, target, torch.zeros_like(mask)), torch.empty(0))
    loss.backward()
    assert loss == 0
    assert (patches.grad == 0).all()


def test_l1_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    made, images = torch.rand(2, 2, 3, 4, 6, generator=generator)
    differences = [abs(a - b) for a, b in zip(made.flatten().tolist(), images.flatten().tolist(), strict=True)]
    loss, parts = l1(drawn(made), images)
    assert loss.item() == pytest.approx(sum(differences) / len(differences), rel=1e-6)
    assert loss.shape == ()
    assert parts == {}


def test_l1_by_hand() -> None:
    made, images = torch.tensor([0.5, 0.0, 1.25, 1.0]), torch.tensor([0.25, 0.5, 1.0, 1.0])
    assert l1(drawn(made.reshape(1, 1, 2, 2)), images.reshape(1, 1, 2, 2))[0].item() == 0.25


def test_l1_gradcheck() -> None:
    generator = torch.Generator().manual_seed(0)
    made, images = torch.rand(2, 1, 2, 4, 4, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda made: l1(drawn(made), images)[0], made.requires_grad_())


def test_l1_of_half_precision_is_taken_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    made, images = torch.rand(2, 2, 3, 4, 6, generator=generator)
    loss, _ = l1(drawn(made.bfloat16()), images)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, l1(drawn(made.bfloat16().float()), images)[0])
