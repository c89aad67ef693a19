"""The step of two players: what each learns from one look, against what each would learn by itself."""

import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceptual_mae.augment import ada
from perceptual_mae.augment.ada import augment, draw_ada, transforms
from perceptual_mae.errors import UsageError
from perceptual_mae.losses.adversarial import adversarial, discriminator_loss
from perceptual_mae.losses.feature_matching import FeatureMatching
from perceptual_mae.losses.pixel import l1
from perceptual_mae.losses.term import Seen
from perceptual_mae.methods import METHODS
from perceptual_mae.models.fixed_network import FixedNetwork
from perceptual_mae.models.pyramid import image_pyramid
from perceptual_mae.pretraining import regularise
from perceptual_mae.pretraining.build import build_terms
from perceptual_mae.pretraining.cast import Cast, build_cast
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.loss_config import AdaConfig, DiscriminatorConfig, LossesConfig, PathConfig
from perceptual_mae.pretraining.player import MicroBatch, Player
from perceptual_mae.pretraining.recipe import RECIPES
from perceptual_mae.pretraining.step import share_that_counts
from perceptual_mae.training.device import make_accelerator
from perceptual_mae.training.schedule import Clock
from perceptual_mae.training.tally import NonFinite, Tally

EVEN, ODD = Clock(10, 10), Clock(0, 10)
"""Steps of an even epoch, in which features are matched, and of an odd one; no regularisation is due in either."""
Grads = dict[str, dict[str, Tensor]]


class Listed(nn.Module):
    """Maps as a loss network gives them."""

    def forward(self, maps: Tensor) -> list[Tensor]:
        return [maps.relu()]


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The gradients that players step along, in order; the weights stay as they are."""
    seen: list[dict[str, Tensor]] = []

    def improve(self: Player) -> None:
        seen.append({n: p.grad.clone() for n, p in self.module.named_parameters() if p.grad is not None})
        self.optimizer.zero_grad()

    monkeypatch.setattr(Player, "improve", improve)
    return seen


def cast_for(make_config: Callable[..., PretrainConfig], method: str, **settings: Any) -> Cast:
    usual = {"discriminator": DiscriminatorConfig(channel_base=512), "recipe": "paper"}
    config = make_config(method=method, **(usual | settings))
    return build_cast(config, make_accelerator(config.device, config.precision))


def batch(cast: Cast, count: int = 8, parts: int = 1) -> list[MicroBatch]:
    stream = torch.Generator().manual_seed(7)
    images = torch.rand(count, 3, *cast.model.image_size, generator=stream)
    noise = torch.rand(count, cast.model.num_patches, generator=stream)
    numbers = draw_ada(count, stream)
    cut = count // parts
    each = (images, noise, numbers, torch.arange(count))
    return [MicroBatch(*parts) for parts in zip(*(tensor.split(cut) for tensor in each), strict=True)]


def looks(cast: Cast, part: MicroBatch, p: float, pyramid: Any) -> Seen:
    """What the discriminator sees, by two separate calls."""
    network, scales = cast.players["discriminator"].module, cast.model.scales
    real = image_pyramid(part.images, scales)
    if p:
        assert part.augmentation is not None
        change = transforms(part.augmentation, p, scales[-1], 3)
        real, pyramid = augment(real, change), augment(pyramid, change)
    return Seen(network.judge(real), network.judge(pyramid))


def by_themselves(cast: Cast, part: MicroBatch, perceptual: bool, p: float = 0.0) -> tuple[Any, Any]:
    """Gradients of each player's own loss, the other frozen, each with a forward pass of its own."""
    model, network = cast.model, cast.players["discriminator"].module
    model.zero_grad()
    network.zero_grad()
    made = model(part.images, 0.75, part.noise)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    seen = looks(cast, part, p, made.pyramid)
    total = l1(made, part.images)[0] + adversarial(made, part.images, seen)[0]
    if perceptual:
        total = total + FeatureMatching()(made, part.images, seen)[0]
    total.backward()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    generators = {n: q.grad.clone() for n, q in model.named_parameters() if q.grad is not None}
    discriminator_loss(looks(cast, part, p, [image.detach() for image in made.pyramid]))[0].backward()
    discriminators = {n: q.grad.clone() for n, q in network.named_parameters() if q.grad is not None}
    model.zero_grad()
    network.zero_grad()
    return generators, discriminators


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=2e-5 * largest, rtol=1e-3, msg=name)


METHODS_WITH_FEATURES = ("ls-gan-p", "msg-gan-p", "stylegan2-ada-p")


@pytest.mark.parametrize("clock", [EVEN, ODD], ids=["even", "odd"])
@pytest.mark.parametrize("method", METHODS_WITH_FEATURES)
def test_one_look_teaches_both_what_each_would_have_learnt_alone(
    make_config: Any, learnt: list[dict[str, Tensor]], method: str, clock: Clock
) -> None:
    cast = cast_for(make_config, method, ada=AdaConfig(start=0.8))
    (part,) = batch(cast)
    p = 0.8 if cast.step.augments else 0.0
    expected = by_themselves(cast, part, perceptual=clock is EVEN, p=p)
    cast.step([part], clock)
    generator, discriminator = learnt
    assert_same(generator, expected[0])
    assert_same(discriminator, expected[1])
    assert len(generator) == len(list(cast.model.parameters()))
    assert len(discriminator) == len(list(cast.players["discriminator"].module.parameters()))


def test_parts_of_a_batch_add_up(make_config: Any, learnt: list[dict[str, Tensor]]) -> None:
    cast = cast_for(make_config, "stylegan2-ada-p", ada=AdaConfig(start=0.5))
    whole = cast.step(batch(cast), EVEN)
    parts = cast.step(batch(cast, parts=2), EVEN)  # of four images each: the groups of the minibatch stddev
    assert_same(learnt[2], learnt[0])
    assert_same(learnt[3], learnt[1])
    for name in ("loss/total", "loss/discriminator", "d_real", "d_fake", "d_accuracy", "ada_r"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4), name


def test_alternating_updates_meet_the_discriminator_after_it_has_learnt(make_config: Any) -> None:
    settings = DiscriminatorConfig(channel_base=512, update="alternating", lr=0.05)
    cast = cast_for(make_config, "ls-gan-p", discriminator=settings)
    (part,) = batch(cast)
    network = cast.players["discriminator"].module
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    _, first = by_themselves(cast, part, perceptual=True)
    moves: list[dict[str, Tensor]] = []
    improve = Player.improve

    def watched(self: Player) -> None:
        moves.append({n: p.grad.clone() for n, p in self.module.named_parameters() if p.grad is not None})
        if self.module is network:
            improve(self)
        else:
            self.optimizer.zero_grad()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Player, "improve", watched)
        cast.step([part], EVEN)
    discriminator, generator = moves
    assert_same(discriminator, first)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert_same(generator, by_themselves(cast, part, perceptual=True)[0])  # with the new weights
    network.load_state_dict(before)
    old = by_themselves(cast, part, perceptual=True)[0]
    assert any(not torch.allclose(generator[name], old[name], rtol=1e-2) for name in old)


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


def test_pulls_are_logged_alike_however_a_batch_is_cut(make_config: Any, learnt: list[dict[str, Tensor]]) -> None:
    cast = cast_for(make_config, "ls-gan-p")
    logs = [cast.step(batch(cast, 16, parts), EVEN) for parts in (1, 2, 4)]
    for name in ("pull/pixels", "pull/adversarial", "pull/features"):
        assert [log[name] for log in logs] == pytest.approx([logs[0][name]] * 3, rel=0.05), name


@pytest.mark.parametrize("method", ["timm-p", "ls-gan-p"])
def test_what_was_made_of_a_part_is_let_go_of_before_the_next(
    make_config: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or accumulating gradients would not take the memory that it promises."""
    fixed = FixedNetwork(nn.Sequential(nn.Conv2d(3, 4, 3), Listed()))
    config = make_config(method=method, discriminator=DiscriminatorConfig(channel_base=512))
    cast = build_cast(config, make_accelerator("cpu", "fp32"), fixed if METHODS[method].loss_network else None)
    lens, alive, maps = cast.step.lens, [], []
    look = type(lens).look

    def watched(self: Any, *given: Any) -> Seen:
        alive.append(sum(one() is not None for one in maps))
        seen = look(self, *given)
        maps.extend(weakref.ref(one.untyped_storage()) for one in seen.fake.features)
        return seen

    monkeypatch.setattr(type(lens), "look", watched)
    cast.step(batch(cast, 12, 3), EVEN)
    assert alive == [0, 0, 0]


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


def test_p_follows_the_discriminator(make_config: Any) -> None:
    cast = cast_for(make_config, "stylegan2-ada-p", ada=AdaConfig(images=64, target=-1.0))
    logs = [cast.step(batch(cast), Clock(step, 100)) for step in range(9)]
    # As many images as there are, not as many as the settings' batch.
    # r is -1 for a fresh discriminator, which scores about 0, and never below: p stays or rises.
    assert logs[0]["ada_p"] == 0
    steps = {round(after["ada_p"] - before["ada_p"], 6) for before, after in pairwise(logs)}
    assert steps <= {0.0, 4 * len(batch(cast)[0].images) / 64}


@pytest.mark.parametrize("balances", [(0.5, 0.2), (0.5, math.inf), (1e6, 1e6)])
def test_the_network_pulls_no_harder_than_it_may(make_config: Any, balances: tuple[float, float]) -> None:
    losses = LossesConfig(adversarial_balance=balances[0], feature_balance=balances[1])
    cast = cast_for(make_config, "ls-gan-p", losses=losses)
    opponent = cast.step.opponent
    assert opponent is not None
    (part,) = batch(cast)
    made = cast.model(part.images, 0.75, part.noise)
    leaf = made.cut()
    seen = opponent.look(leaf, part)
    tally = Tally(opponent.accelerator, 1)
    (gradient,) = cast.step.judge(leaf, part.images, seen, EVEN, tally, again=True)
    (pixels,) = torch.autograd.grad(l1(leaf, part.images)[0], leaf.predictions)
    expected, total = {"pull/pixels": pixels.norm()}, pixels
    terms = {"adversarial": adversarial, "features": FeatureMatching()}
    for (name, term), balance in zip(terms.items(), balances, strict=True):
        (pull,) = torch.autograd.grad(term(leaf, part.images, seen)[0], leaf.predictions, retain_graph=True)
        allowed = min(1.0, balance * float(pixels.norm() / pull.norm()))
        assert (allowed < 1) == (balance < 1)
        expected |= {f"pull/{name}": pull.norm(), f"pull_share/{name}": torch.tensor(allowed)}
        total = total + allowed * pull
    torch.testing.assert_close(gradient, total, atol=1e-7, rtol=1e-4)
    log = tally.means()
    assert {name: log[name] for name in expected} == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-4)


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].adversary])
def test_a_recipe_says_how_hard_terms_may_pull(make_config: Any, method: str) -> None:
    def balances(**settings: Any) -> dict[str, float]:
        cast = cast_for(make_config, method, **settings)
        return {term.name: term.balance for term in cast.step.terms if term.through == "network"}

    rules = RECIPES["default"]
    ours = {"adversarial": rules.adversarial, "features": rules.discriminator_features}
    assert balances(recipe="default") == {name: ours[name] for name in balances()}
    assert set(balances(recipe="paper").values()) == {math.inf}
    assert balances(losses=LossesConfig(adversarial_balance=0.7))["adversarial"] == 0.7, "what is given goes before"


def test_a_fixed_network_has_a_limit_of_its_own(make_config: Any) -> None:
    terms = {term.name: term.balance for term in build_terms(make_config(method="timm-p"))}
    assert terms == {"l1": math.inf, "features": RECIPES["default"].network_features}


def test_a_share_is_whole_where_no_limit_is_set() -> None:
    nothing, something = torch.tensor(0.0), torch.tensor(2.0)
    assert share_that_counts(math.inf, nothing, something) == 1
    assert share_that_counts(0.5, nothing, something) == 0
    assert share_that_counts(0.5, something, nothing) == 1


def test_settings_switch_regularisation_off(make_config: Any) -> None:
    settings = DiscriminatorConfig(channel_base=512, r1_gamma=0)
    cast = cast_for(
        make_config, "stylegan2-ada-p", discriminator=settings, ada=AdaConfig(enabled=False), path=PathConfig(weight=0)
    )
    assert (cast.step.r1, cast.step.path, cast.step.augments) == (None, None, False)
    assert cast.modules.keys() == {"model", "discriminator"}
    lazy = cast_for(make_config, "stylegan2-ada-p").players["discriminator"].lr
    assert lazy == pytest.approx(16 / 17 * cast.players["discriminator"].lr)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["ls-gan", "ls-gan-p", "msg-gan-p", "stylegan2-ada-p"])
def test_steps_are_finite_in_either_precision(make_config: Any, method: str, precision: Any) -> None:
    cast = cast_for(make_config, method, precision=precision, ada=AdaConfig(start=0.5), path=PathConfig(every=2))
    for step in range(4):
        log = cast.step(batch(cast), Clock(10 + step, 10))
    assert log["d_real"] != log["d_fake"]
    assert log["pull/adversarial"] > 0


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
