"""The game's losses: by hand, gradients, and which way they push."""

import pytest
import torch
from torch import Tensor

from perceptual_mae.losses.adversarial import adversarial, discriminator_loss
from perceptual_mae.losses.term import Seen
from perceptual_mae.models import Reconstruction
from perceptual_mae.models.judgement import Judgement
from perceptual_mae.models.masking import Masking

NOTHING = torch.empty(0)
UNUSED = Reconstruction(NOTHING, (), (), NOTHING, Masking(NOTHING, NOTHING, NOTHING), (1, 1), torch.clone)


def seen(real: Tensor, fake: Tensor) -> Seen:
    return Seen(real=Judgement((), real), fake=Judgement((), fake))


def of_generator(fake: Tensor) -> Tensor:
    return adversarial(UNUSED, NOTHING, seen(NOTHING, fake))[0]


@pytest.fixture
def scores() -> tuple[Tensor, Tensor]:
    return torch.tensor([1.0, 0.0, 3.0]), torch.tensor([0.0, 2.0, 0.5])


def test_generator_by_hand(scores: tuple[Tensor, Tensor]) -> None:
    """(1 + 1 + 1/4) / 3 / 2: squares do not cancel, and scores pass no sigmoid."""
    loss, parts = adversarial(UNUSED, NOTHING, seen(*scores))
    assert loss.item() == 0.375
    assert loss.shape == ()
    assert parts == {}


def test_discriminator_by_hand(scores: tuple[Tensor, Tensor]) -> None:
    """(0 + 1 + 4) / 3 / 2 and (0 + 4 + 1/4) / 3 / 2."""
    loss, parts = discriminator_loss(seen(*scores))
    assert parts["real"].item() == pytest.approx(5 / 6)
    assert parts["fake"].item() == pytest.approx(4.25 / 6)
    assert loss.item() == pytest.approx(9.25 / 6)
    assert parts.keys() == {"real", "fake"}


def test_perfect_players_lose_nothing() -> None:
    ones, zeros = torch.ones(4), torch.zeros(4)
    assert of_generator(ones) == 0
    assert discriminator_loss(seen(ones, zeros))[0] == 0
    assert discriminator_loss(seen(zeros, ones))[0] == 1


def test_gradients_by_hand(scores: tuple[Tensor, Tensor]) -> None:
    """(D - target) / B: the players pull the same scores to different sides."""
    real, fake = (tensor.requires_grad_() for tensor in scores)
    (up,) = torch.autograd.grad(of_generator(fake), fake)
    torch.testing.assert_close(up, (fake.detach() - 1) / 3)
    loss, parts = discriminator_loss(seen(real, fake))
    pulls = torch.autograd.grad(loss, [real, fake])
    torch.testing.assert_close(pulls[0], (real.detach() - 1) / 3)
    torch.testing.assert_close(pulls[1], fake.detach() / 3)
    assert not any(part.requires_grad for part in parts.values())


def test_gradcheck() -> None:
    real, fake = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaves = real.requires_grad_(), fake.requires_grad_()
    assert torch.autograd.gradcheck(lambda real, fake: discriminator_loss(seen(real, fake))[0], leaves)
    assert torch.autograd.gradcheck(of_generator, fake)


def test_half_precision_is_judged_in_float32() -> None:
    real, fake = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(of_generator(fake), of_generator(fake.float()))
    loss, _ = discriminator_loss(seen(real, fake))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, discriminator_loss(seen(real.float(), fake.float()))[0])


def test_without_a_discriminator_there_is_no_game() -> None:
    with pytest.raises(ValueError, match="takes a discriminator"):
        adversarial(UNUSED, NOTHING)
    fixed = Seen(real=Judgement(()), fake=Judgement(()))
    with pytest.raises(ValueError, match="without scores"):
        adversarial(UNUSED, NOTHING, fixed)
    with pytest.raises(ValueError, match="without scores"):
        discriminator_loss(fixed)
