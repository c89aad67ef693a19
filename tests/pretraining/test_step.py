"""One step of training without an opponent, and the loop's small parts."""

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from perceptual_mae.models import Reconstruction
from perceptual_mae.models.masking import Masking
from perceptual_mae.pretraining.player import MicroBatch, Player
from perceptual_mae.pretraining.step import TrainingStep, WeightedTerm
from perceptual_mae.training.schedule import Clock
from perceptual_mae.training.tally import NonFinite, Tally

CLOCK = Clock(0, 10)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def drawing(tokens: Tensor) -> Reconstruction:
    mask = Masking(torch.empty(0), torch.empty(0), torch.empty(0))
    return Reconstruction(torch.empty(0), (), (tokens,), torch.empty(0), mask, (1, 1), torch.clone)


class Toy(nn.Module):
    """A network with the signature of an autoencoder; it "draws" a weighted sum of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))

    def forward(self, images: Tensor, mask_ratio: float, noise: Tensor) -> Reconstruction:
        return drawing((images.mean(dim=(2, 3)) * self.weight).sum(dim=1) + mask_ratio * noise.mean(dim=1))


def squares(made: Reconstruction, images: Tensor, seen: Any) -> tuple[Tensor, dict[str, Tensor]]:
    return made.patches.square().mean(), {"half": made.patches.detach().square().mean() / 2}


def ones(made: Reconstruction, images: Tensor, seen: Any) -> tuple[Tensor, dict[str, Tensor]]:
    return (made.patches - 1).abs().mean(), {}


def step_for(accelerator: Accelerator, *terms: WeightedTerm, clip: float | None = None) -> TrainingStep:
    network = Toy()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return TrainingStep(accelerator, Player(network, network, optimizer, 0.1), terms, 8, 0.75, clip)


def batch(parts: int = 1, count: int = 8) -> list[MicroBatch]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, 4, 4, generator=generator)
    noise = torch.rand(count, 16, generator=generator)
    cut = count // parts
    return [MicroBatch(i, n) for i, n in zip(images.split(cut), noise.split(cut), strict=True)]


def expected_gradient() -> tuple[float, Tensor]:
    """Loss and gradient of `squares` on the whole batch, by hand in float64."""
    (whole,) = batch()
    features = whole.images.double().mean(dim=(2, 3))
    output = features @ torch.tensor([1.0, -2.0, 3.0]).double() + 0.75 * whole.noise.double().mean(dim=1)
    return float(output.square().mean()), (2 * output[:, None] * features).mean(dim=0)


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_a_step_follows_the_gradient_of_the_whole_batch(accelerator: Accelerator, parts: int) -> None:
    take = step_for(accelerator, WeightedTerm("sq", squares))
    log = take(batch(parts), CLOCK)
    loss, gradient = expected_gradient()
    expected = {"loss/total": loss, "loss/sq": loss, "loss/sq/half": loss / 2, "grad_norm": float(gradient.norm())}
    assert log == pytest.approx(expected, rel=1e-5)
    weight = torch.tensor([1.0, -2.0, 3.0]).double() - 0.1 * gradient
    torch.testing.assert_close(take.generator.network.weight.detach().double(), weight, atol=1e-6, rtol=0)


def test_images_as_they_were_read_are_those_in_0_to_1(accelerator: Accelerator) -> None:
    bytes_ = [MicroBatch((part.images * 255).to(torch.uint8), part.noise) for part in batch(2)]
    floats = [MicroBatch(part.images / 255, part.noise) for part in bytes_]
    logs = [step_for(accelerator, WeightedTerm("squares", squares))(parts, CLOCK) for parts in (bytes_, floats)]
    assert logs[0] == logs[1]


def test_gradients_do_not_add_up_over_steps(accelerator: Accelerator) -> None:
    take = step_for(accelerator, WeightedTerm("sq", squares))
    take(batch(2), CLOCK)
    with torch.no_grad():
        take.generator.network.weight.copy_(torch.tensor([1.0, -2.0, 3.0]))
    assert take(batch(2), CLOCK)["grad_norm"] == pytest.approx(float(expected_gradient()[1].norm()), rel=1e-5)


def test_gradients_are_clipped_to_the_norm_that_was_asked_for(accelerator: Accelerator) -> None:
    take = step_for(accelerator, WeightedTerm("sq", squares), clip=0.5)
    _, gradient = expected_gradient()
    assert gradient.norm() > 0.5
    assert take(batch(), CLOCK)["grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-5)  # before clipping
    moved = torch.tensor([1.0, -2.0, 3.0]) - take.generator.network.weight.detach()
    torch.testing.assert_close(moved.double(), 0.1 * 0.5 * gradient / gradient.norm(), atol=1e-5, rtol=0)


def test_terms_are_weighted_and_act_when_they_should(accelerator: Accelerator) -> None:
    terms = WeightedTerm("sq", squares, weight=2.0), WeightedTerm("even", ones, weight=5.0, every_epochs=2)
    take = step_for(accelerator, *terms)
    images = torch.zeros(2, 3, 4, 4)
    tokens = torch.tensor([2.0, 4.0])  # squares: 10, slope (2, 4); ones: 2, slope (1/2, 1/2)

    def judged(step: int) -> tuple[dict[str, float], list[float]]:
        tally = Tally(accelerator, 1)
        (gradient,) = take.judge(drawing(tokens).cut(), images, None, Clock(step, 10), tally)
        return tally.means(), gradient.tolist()

    assert judged(0) == ({"loss/total": 20, "loss/sq": 10, "loss/sq/half": 5}, [4, 8])
    assert judged(9)[0]["loss/total"] == 20
    assert judged(10) == ({"loss/total": 20 + 5 * 2, "loss/sq": 10, "loss/sq/half": 5, "loss/even": 2}, [6.5, 10.5])


def test_what_looks_through_a_network_is_told_apart(accelerator: Accelerator) -> None:
    take = step_for(accelerator, WeightedTerm("sq", squares), WeightedTerm("net", ones, weight=4.0, through="network"))
    tally = Tally(accelerator, 1)
    (gradient,) = take.judge(drawing(torch.tensor([2.0, 4.0])).cut(), torch.zeros(1), None, CLOCK, tally)
    assert gradient.tolist() == [2 + 2, 4 + 2]
    log = tally.means()
    assert log["pull/pixels"] == pytest.approx(20**0.5)
    assert log["pull/net"] == pytest.approx(8**0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_and_changes_no_weight(accelerator: Accelerator, bad: float) -> None:
    def broken(made: Reconstruction, images: Tensor, seen: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return made.patches.mean() * bad, {}

    take = step_for(accelerator, WeightedTerm("sq", squares), WeightedTerm("bad", broken))
    with pytest.raises(NonFinite, match=f"loss/bad is -?{bad}, loss/total is -?{bad}, grad_norm is"):
        take(batch(2), CLOCK)
    assert take.generator.network.weight.tolist() == [1.0, -2.0, 3.0]


def test_a_gradient_that_is_not_finite_is_found_under_a_finite_loss(accelerator: Accelerator) -> None:
    def steep(made: Reconstruction, images: Tensor, seen: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return (made.patches - made.patches.detach()).sqrt().mean(), {}  # 0, and its slope is infinite

    take = step_for(accelerator, WeightedTerm("steep", steep))
    with pytest.raises(NonFinite) as finding:
        take(batch(), CLOCK)
    assert list(finding.value.values) == ["grad_norm"]
    assert take.generator.network.weight.tolist() == [1.0, -2.0, 3.0]
