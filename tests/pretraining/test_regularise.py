"""Lazy regularisation: how much of R1 and of the path length is learnt, and when."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_game import EVEN, ODD, assert_same, batch, cast_for, listen
from torch import Tensor

from perceptual_mae.augment import ada
from perceptual_mae.augment.ada import augment, transforms
from perceptual_mae.errors import UsageError
from perceptual_mae.losses.path_length import exact_lengths, finite_difference_lengths
from perceptual_mae.models.pyramid import image_pyramid
from perceptual_mae.pretraining import regularise
from perceptual_mae.pretraining.cast import Cast
from perceptual_mae.pretraining.loss_config import AdaConfig, DiscriminatorConfig, LossesConfig, PathConfig
from perceptual_mae.pretraining.player import MicroBatch
from perceptual_mae.training.schedule import Clock
from perceptual_mae.training.tally import NonFinite

STEADY = AdaConfig(start=0.8, every=1000)
"""p is 0.8 and stays so."""


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The gradients that players step along, in order; the weights stay as they are."""
    return listen(monkeypatch)


# -- R1 ----------------------------------------------------------------------------------------------------------------


def squared_slopes(network: Any, pyramid: Sequence[Tensor]) -> Tensor:
    """`mean |grad_x D(x)|^2`, x being all scales of an image."""
    x = [scale.detach().requires_grad_() for scale in pyramid]
    slopes = torch.autograd.grad(network.judge(x).scores.sum(), x, create_graph=True)
    return torch.cat([slope.flatten(1) for slope in slopes], dim=1).square().sum(dim=1).mean()


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(("settings", "every", "gamma"), [({}, 16, 0.0128), ({"r1_every": 4, "r1_gamma": 3.0}, 4, 3.0)])
def test_r1_is_of_what_the_discriminator_receives_and_counts_for_the_steps_without_it(
    make_config: Any, learnt: list[dict[str, Tensor]], settings: dict[str, Any], every: int, gamma: float, parts: int
) -> None:
    """`every * gamma / 2 * mean |grad_x D(x)|^2`; by itself, gamma is 0.0002 * 32 * 32 / 16."""
    discriminator = DiscriminatorConfig(channel_base=512, **settings)
    cast = cast_for(make_config, "stylegan2-ada-p", discriminator=discriminator, ada=STEADY)
    network, scales = cast.players["discriminator"].module, cast.model.scales
    log = cast.step(batch(cast, parts=parts), Clock(15, 10))
    (whole,) = batch(cast)
    assert whole.augmentation is not None
    change = transforms(whole.augmentation, 0.8, scales[-1], 3)
    penalty = gamma / 2 * squared_slopes(network, augment(image_pyramid(whole.images, scales), change))
    assert log["loss/r1"] == pytest.approx(penalty.item(), rel=1e-4)
    (every * penalty).backward()
    expected = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    assert len(learnt) == 3
    assert_same(learnt[-1], expected)
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    assert log["grad_norm/r1"] == pytest.approx(norm.item(), rel=1e-3)


def test_gamma_is_for_the_images_that_a_step_has(make_config: Any) -> None:
    cast = cast_for(make_config, "stylegan2-ada-p", images=5)
    assert cast.step.r1 is not None
    assert cast.step.r1.gamma == pytest.approx(0.0002 * 32 * 32 / 5)


class TwoProcesses:
    """Stands for two processes, of which the other always has twice the gradient of this one."""

    num_processes = 2

    def __init__(self) -> None:
        self.transfers = 0

    def reduce(self, tensor: Tensor, how: str) -> Tensor:
        assert how == "mean"
        self.transfers += 1
        return 1.5 * tensor


def test_gradients_past_the_network_are_averaged_in_one_transfer_where_they_reach(make_config: Any) -> None:
    player = cast_for(make_config, "mse").players["model"]
    model, several = player.module, TwoProcesses()
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 7.0)
    with player.past_network(several):  # type: ignore[arg-type]
        for _ in range(2):
            (model.mask_token.sum() + 3 * model.decoder_pred.bias.sum()).backward()
    assert several.transfers == 1
    added = {model.mask_token: 1.5 * 2, model.decoder_pred.bias: 1.5 * 6}
    for weight in model.parameters():
        assert weight.grad is not None
        assert torch.equal(weight.grad, torch.full_like(weight, 7.0 + added.get(weight, 0.0)))


# -- the path length ---------------------------------------------------------------------------------------------------


def path_penalties(cast: Cast, batch: Sequence[MicroBatch], p: float, exact: bool, decay: float) -> list[Tensor]:
    """`mean((length - a)^2)` of every second image of each part, drawn by itself; a begins at 0."""
    model, network, scales = cast.model, cast.players["discriminator"].module, cast.model.scales
    penalties, mean = [], torch.zeros(())
    for part in batch:
        assert part.augmentation is not None
        assert part.seeds is not None
        made = model(part.images[::2], 0.75, part.noise[::2])
        maps = [one.detach() for one in made.maps]
        change = transforms(part.augmentation[::2], p, scales[-1], 3)
        streams = [torch.Generator().manual_seed(int(seed)) for seed in part.seeds[::2]]

        def normal_like(one: Tensor, streams: Sequence[torch.Generator] = streams) -> Tensor:
            return torch.stack([torch.randn(one.shape[1:], generator=stream) for stream in streams])

        def features(z: Tensor, made: Any = made, maps: Any = maps, change: Any = change) -> tuple[Tensor, ...]:
            pyramid = made.drawn(model.decode(z, made.masking, maps)).pyramid
            return network.judge(augment(pyramid, change)).features

        if exact:
            lengths = exact_lengths(features, made.latent, normal_like)
        else:
            lengths = finite_difference_lengths(features, made.latent, normal_like(made.latent))
        # As far in all parts as in one.
        mean = mean + (1 - (1 - decay) ** (1 / len(batch))) * (lengths.mean().detach() - mean)
        penalties.append((lengths - mean).square().mean())
    return penalties


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(
    ("path", "weight", "every", "balances", "weakest"),
    [
        (PathConfig(), 2, 4, (0.2, 0.5), "adversarial"),
        (PathConfig(weight=30.0, every=2, decay=0.3), 30, 2, (0.5, 0.01), "features"),
        (PathConfig(estimator="exact"), 2, 4, (0.2, 0.5), "adversarial"),
    ],
    ids=["defaults", "others", "exact"],
)
def test_the_path_length_counts_for_the_steps_without_it_and_as_the_weakest_pull(
    make_config: Any,
    learnt: list[dict[str, Tensor]],
    path: PathConfig,
    weight: float,
    every: int,
    balances: tuple[float, float],
    weakest: str,
    parts: int,
) -> None:
    """`share * every * weight * mean (length - a)^2` is what its step adds to the gradient."""
    losses = LossesConfig(adversarial_balance=balances[0], feature_balance=balances[1])
    cast = cast_for(make_config, "stylegan2-ada-p", losses=losses, path=path, ada=STEADY)
    pieces = batch(cast, parts=parts)
    cast.step(pieces, Clock(10, 10))
    log = cast.step(pieces, Clock(11, 10))
    shares = [log["pull_share/adversarial"], log["pull_share/features"]]
    share = log[f"pull_share/{weakest}"]
    assert share < 0.7 * max(shares)
    assert max(shares) < 1
    penalties = path_penalties(cast, pieces, 0.8, path.estimator == "exact", path.decay)
    penalty = weight * torch.stack(penalties).mean()
    assert log["loss/path_length"] == pytest.approx(penalty.item(), rel=1e-3)
    weights = dict(cast.model.named_parameters())
    wanted = torch.autograd.grad(share * every * penalty, list(weights.values()), materialize_grads=True)
    without, with_path = learnt[0], learnt[2]
    assert_same({name: with_path[name] - without[name] for name in weights}, dict(zip(weights, wanted, strict=True)))


def test_regularisation_acts_when_it_is_due(make_config: Any, learnt: list[dict[str, Tensor]]) -> None:
    cast = cast_for(make_config, "stylegan2-ada-p")
    logs = [cast.step(batch(cast), Clock(step, 10)) for step in range(16)]
    assert {step + 1 for step, log in enumerate(logs) if "loss/path_length" in log} == {4, 8, 12, 16}
    assert [step + 1 for step, log in enumerate(logs) if "loss/r1" in log] == [16]
    # R1 takes a step of the discriminator's own, after the two players' last.
    assert len(learnt) == 2 * 16 + 1
    assert learnt[-1].keys() <= dict(cast.players["discriminator"].module.named_parameters()).keys()
    assert all(torch.isfinite(gradient).all() for step in learnt for gradient in step.values())


def test_the_path_length_teaches_the_decoder_alone(make_config: Any, learnt: list[dict[str, Tensor]]) -> None:
    cast = cast_for(make_config, "stylegan2-ada-p", path=PathConfig(weight=50.0))
    cast.step(batch(cast), Clock(2, 10))  # the weights stay as they are
    cast.step(batch(cast), Clock(3, 10))
    (without, discriminator), (with_path, same) = learnt[:2], learnt[2:]
    assert_same(same, discriminator)
    moved = {n.split(".")[0] for n, g in with_path.items() if not torch.allclose(g, without[n], rtol=1e-4, atol=1e-7)}
    assert "decoder_blocks" in moved
    assert "decoder_embed" in moved
    assert not moved & {"blocks", "patch_embed", "norm", "cls_token"}


def test_the_path_length_weighs_as_much_as_the_game(make_config: Any, learnt: list[dict[str, Tensor]]) -> None:
    """What it adds to the gradient shrinks with the share of the network's pull that counts."""
    added = []
    for balance in (1e6, 1e-3):
        cast = cast_for(make_config, "stylegan2-ada-p", losses=LossesConfig(adversarial_balance=balance))
        share = cast.step(batch(cast), Clock(2, 10))["pull_share/adversarial"]
        cast.step(batch(cast), Clock(3, 10))
        name = "decoder_embed.weight"
        added.append((share, (learnt[-2][name] - learnt[-4][name]).norm()))
    (whole, much), (share, little) = added
    assert whole == 1
    assert share < 0.01
    assert float(little / much) == pytest.approx(share, rel=0.2)


@pytest.mark.parametrize("p", [0.0, 0.9])
@pytest.mark.parametrize("estimator", ["finite-difference", "exact"])
def test_both_estimators_regularise(make_config: Any, estimator: Any, p: float) -> None:
    cast = cast_for(
        make_config, "stylegan2-ada-p", path=PathConfig(estimator=estimator, every=1), ada=AdaConfig(start=p)
    )
    log = cast.step(batch(cast), ODD)
    assert log["loss/path_length"] > 0
    assert log["path_length"] > 0


def test_without_a_term_that_looks_there_is_no_game_to_regularise(make_config: Any) -> None:
    losses = LossesConfig(adversarial=0.0)
    cast = cast_for(make_config, "stylegan2-ada-p", losses=losses, path=PathConfig(every=1))
    odd, even = cast.step(batch(cast), ODD), cast.step(batch(cast), EVEN)
    assert "loss/path_length" not in odd
    assert even["loss/path_length"] > 0, "features are matched in even epochs"


def test_r1_is_clipped_as_other_gradients_are_and_not_taken_where_it_is_not_finite(
    make_config: Any, learnt: list[dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DiscriminatorConfig(channel_base=512, r1_every=1, r1_gamma=1e4)
    cast = cast_for(make_config, "stylegan2-ada-p", discriminator=settings)
    cast.step.clip_grad = 0.25
    log = cast.step(batch(cast), ODD)
    assert log["grad_norm/r1"] > 0.25
    norm = torch.stack([gradient.square().sum() for gradient in learnt[-1].values()]).sum().sqrt()
    assert float(norm) == pytest.approx(0.25, rel=1e-3)

    class Broken(torch.autograd.Function):
        """A finite value with a gradient that is not."""

        @staticmethod
        def forward(context: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> Tensor:
            return gradient * math.nan

    penalty = regularise.r1_penalty
    monkeypatch.setattr(regularise, "r1_penalty", lambda *given: Broken.apply(penalty(*given)))
    steps = len(learnt)
    with pytest.raises(NonFinite, match="grad_norm/r1 is nan"):
        cast.step(batch(cast), ODD)
    assert len(learnt) == steps + 2, "both players have taken theirs"


def test_estimators_agree_on_the_length(make_config: Any) -> None:
    cast = cast_for(make_config, "stylegan2-ada-p", path=PathConfig(every=1))
    opponent, path = cast.step.opponent, cast.step.path
    assert opponent is not None
    assert path is not None
    (part,) = batch(cast, 16)
    half = cast.model(part.images, 0.75, part.noise).constant_half()
    root_mean_squares = []
    for one in (path, replace(path, exact=True)):
        parts = [MicroBatch(part.images, part.noise, None, torch.arange(16 * i, 16 * (i + 1))) for i in range(24)]
        draws = [one.lengths(opponent, cast.players["model"], half, other).detach() for other in parts]
        root_mean_squares.append(float(torch.stack(draws).square().mean().sqrt()))
    assert root_mean_squares[0] == pytest.approx(root_mean_squares[1], rel=0.1)


def test_settings_switch_regularisation_off(make_config: Any) -> None:
    settings = DiscriminatorConfig(channel_base=512, r1_gamma=0)
    cast = cast_for(
        make_config, "stylegan2-ada-p", discriminator=settings, ada=AdaConfig(enabled=False), path=PathConfig(weight=0)
    )
    assert (cast.step.r1, cast.step.path, cast.step.augments) == (None, None, False)
    assert cast.modules.keys() == {"model", "discriminator"}
    lazy = cast_for(make_config, "stylegan2-ada-p").players["discriminator"].lr
    assert lazy == pytest.approx(16 / 17 * cast.players["discriminator"].lr)


def test_exact_path_lengths_need_second_derivatives_of_resampling(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = PathConfig(estimator="exact")
    cast_for(make_config, "stylegan2-ada-p", path=path)

    class Once(torch.autograd.Function):
        """Resampling as it was before PyTorch had its second derivative."""

        @staticmethod
        def forward(context: Any, images: Tensor) -> Tensor:
            return images.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context: Any, gradient: Tensor) -> Tensor:
            return gradient

    monkeypatch.setattr(ada, "_resampled", lambda images, maps: Once.apply(images))
    with pytest.raises(UsageError, match="this version of PyTorch cannot differentiate"):
        cast_for(make_config, "stylegan2-ada-p", path=path)
    cast_for(make_config, "stylegan2-ada-p", path=path, ada=AdaConfig(enabled=False))
