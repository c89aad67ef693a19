"""One step of training, and the optimiser that takes it."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from perceptual_mae.methods import METHODS, Term
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.pretrain.build import ARCHITECTURES, LOSSES, build_model, build_optimizer
from perceptual_mae.pretrain.config import OptimizerConfig, PretrainConfig
from perceptual_mae.pretrain.schedule import Clock
from perceptual_mae.pretrain.step import MicroBatch, NonFinite, Player, TrainingStep

CLOCK = Clock(0, 10)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


class Toy(nn.Module):
    """A network with the signature of an autoencoder; its "reconstruction" is a weighted sum of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))

    def forward(self, images: Tensor, mask_ratio: float, noise: Tensor) -> Tensor:
        return (images.mean(dim=(2, 3)) * self.weight).sum(dim=1) + mask_ratio * noise.mean(dim=1)


def squares(reconstruction: Any, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return reconstruction.square().mean(), {"half": reconstruction.detach().square().mean() / 2}


def ones(reconstruction: Any, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return (reconstruction - 1).abs().mean(), {}


def step_for(accelerator: Accelerator, *terms: tuple[Term, Any], clip: float | None = None) -> TrainingStep:
    network = Toy()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return TrainingStep(accelerator, Player(network, network, optimizer), terms, 0.75, clip)


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
    take = step_for(accelerator, (Term("sq", loss="squares"), squares))
    log = take(batch(parts), CLOCK)
    loss, gradient = expected_gradient()
    expected = {"loss/total": loss, "loss/sq": loss, "loss/sq/half": loss / 2, "grad_norm": float(gradient.norm())}
    assert log == pytest.approx(expected, rel=1e-5)
    weight = torch.tensor([1.0, -2.0, 3.0]).double() - 0.1 * gradient
    torch.testing.assert_close(take.generator.network.weight.detach().double(), weight, atol=1e-6, rtol=0)


def test_gradients_do_not_add_up_over_steps(accelerator: Accelerator) -> None:
    take = step_for(accelerator, (Term("sq", loss="squares"), squares))
    take(batch(2), CLOCK)
    with torch.no_grad():
        take.generator.network.weight.copy_(torch.tensor([1.0, -2.0, 3.0]))
    assert take(batch(2), CLOCK)["grad_norm"] == pytest.approx(float(expected_gradient()[1].norm()), rel=1e-5)


def test_gradients_are_clipped_to_the_norm_that_was_asked_for(accelerator: Accelerator) -> None:
    take = step_for(accelerator, (Term("sq", loss="squares"), squares), clip=0.5)
    _, gradient = expected_gradient()
    assert gradient.norm() > 0.5
    assert take(batch(), CLOCK)["grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-5)  # before clipping
    moved = torch.tensor([1.0, -2.0, 3.0]) - take.generator.network.weight.detach()
    torch.testing.assert_close(moved.double(), 0.1 * 0.5 * gradient / gradient.norm(), atol=1e-5, rtol=0)


def test_terms_are_weighted_and_act_when_they_should(accelerator: Accelerator) -> None:
    lazy = Term("lazy", loss="ones", weight=3.0, every_steps=4)
    even = Term("even", loss="ones", weight=5.0, every_epochs=2)
    take = step_for(accelerator, (Term("sq", loss="squares", weight=2.0), squares), (lazy, ones), (even, ones))
    images = torch.zeros(2, 3, 4, 4)
    output = torch.tensor([2.0, 4.0])  # squares: 10, ones: 2

    def judged(step: int) -> dict[str, float]:
        return {name: float(value) for name, value in take.judge(output, images, Clock(step, 10)).items()}

    assert judged(0) == {"loss/total": 20, "loss/sq": 10, "loss/sq/half": 5}
    assert judged(3) == {"loss/total": 20 + 3 * 4 * 2, "loss/sq": 10, "loss/sq/half": 5, "loss/lazy": 2}
    assert judged(10) == {"loss/total": 20 + 5 * 2, "loss/sq": 10, "loss/sq/half": 5, "loss/even": 2}
    assert judged(11)["loss/total"] == 20 + 3 * 4 * 2 + 5 * 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_and_changes_no_weight(accelerator: Accelerator, bad: float) -> None:
    def broken(reconstruction: Any, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return reconstruction.mean() * bad, {}

    take = step_for(accelerator, (Term("sq", loss="squares"), squares), (Term("bad", loss="broken"), broken))
    with pytest.raises(NonFinite, match=f"loss/total is -?{bad}, loss/bad is -?{bad}, grad_norm is"):
        take(batch(2), CLOCK)
    assert take.generator.network.weight.tolist() == [1.0, -2.0, 3.0]


def test_a_gradient_that_is_not_finite_is_found_under_a_finite_loss(accelerator: Accelerator) -> None:
    def steep(reconstruction: Any, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return (reconstruction - reconstruction.detach()).sqrt().mean(), {}  # 0, and its slope is infinite

    take = step_for(accelerator, (Term("steep", loss="steep"), steep))
    with pytest.raises(NonFinite) as finding:
        take(batch(), CLOCK)
    assert list(finding.value.values) == ["grad_norm"]
    assert take.generator.network.weight.tolist() == [1.0, -2.0, 3.0]


# -- what is built -----------------------------------------------------------------------------------------------------


def test_weight_decay_is_for_matrices_alone() -> None:
    model = MaskedAutoencoder.from_size("micro", image_size=32, patch_size=8)
    optimizer = build_optimizer(model, OptimizerConfig(betas=(0.8, 0.9), weight_decay=0.07), lr=2e-3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays: dict[str, float] = {}
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"]) == (2e-3, (0.8, 0.9))
        decays |= {names[id(parameter)]: group["weight_decay"] for parameter in group["params"]}
    assert decays.keys() == set(names.values())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    for name, decay in decays.items():
        is_vector = name.endswith("bias") or "norm" in name
        if name not in ("cls_token", "mask_token"):
            assert decay == (0.0 if is_vector else 0.07), name
    assert decays["patch_embed.proj.weight"] == decays["blocks.0.attn.qkv.weight"] == 0.07
    assert decays["decoder_pred.weight"] == 0.07


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_state_alone(make_config: Any) -> None:
    config: PretrainConfig = make_config()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (build_model(c) for c in (config, config, replace(config, seed=1)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.patch_embed.proj.weight, other.patch_embed.proj.weight)


def test_methods_name_things_that_exist() -> None:
    for name, method in METHODS.items():
        assert method.architecture in ARCHITECTURES, name
        assert method.terms, name
        for term in method.terms:
            assert term.loss in LOSSES, name
            assert math.isfinite(term.weight)
            assert min(term.every_epochs, term.every_steps) >= 1
        assert len({term.name for term in method.terms}) == len(method.terms), name
        assert "\n" not in method.summary


@pytest.mark.parametrize("method", METHODS)
def test_every_term_gives_the_decoder_a_gradient(method: str) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[METHODS[method].architecture]("micro", image_size=32, patch_size=8)
    images = torch.rand(2, 3, 32, 32)
    for term in METHODS[method].terms:
        model.zero_grad()
        loss, parts = LOSSES[term.loss](model(images), images)
        loss.backward()
        assert not any(part.requires_grad for part in parts.values())
        for name, parameter in model.named_parameters():
            if name.startswith("decoder") and name.endswith("weight"):
                assert parameter.grad is not None, (term.name, name)
                assert parameter.grad.abs().max() > 0, (term.name, name)


def test_table_2_of_the_paper() -> None:
    paper = {
        "mse": (67.8, 83.6, 85.9),
        "ms-ssim": (71.2, 84.1, 86.3),
        "ls-gan": (None, 83.3, 85.3),
        "ls-gan-p": (72.5, 84.5, 86.5),
        "msg-gan": (None, 84.7, 86.5),
        "msg-gan-p": (75.6, 85.3, 87.2),
        "stylegan2-ada-p": (78.1, 86.2, 88.1),
        "dvae-p": (79.8, 86.9, 88.6),
    }
    for name, method in METHODS.items():
        figures = (method.paper.linear_probe, method.paper.vit_base, method.paper.vit_large)
        assert figures == paper.get(name, (None, None, None)), name
