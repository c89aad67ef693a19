"""The step of two players: what each learns from one look, against what each would learn by itself."""

import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceptual_mae.augment.ada import augment, draw_ada, transforms
from perceptual_mae.losses.adversarial import adversarial, discriminator_loss
from perceptual_mae.losses.feature_matching import FeatureMatching
from perceptual_mae.losses.pixel import l1
from perceptual_mae.losses.term import LossTerm, Seen
from perceptual_mae.methods import METHODS
from perceptual_mae.models.fixed_network import FixedNetwork
from perceptual_mae.models.pyramid import image_pyramid
from perceptual_mae.pretraining.build import build_terms
from perceptual_mae.pretraining.cast import Cast, build_cast
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.loss_config import AdaConfig, DiscriminatorConfig, LossesConfig, PathConfig
from perceptual_mae.pretraining.player import MicroBatch, Player
from perceptual_mae.pretraining.recipe import RECIPES
from perceptual_mae.pretraining.step import share_that_counts
from perceptual_mae.training.device import make_accelerator
from perceptual_mae.training.schedule import Clock
from perceptual_mae.training.tally import Tally

EVEN, ODD = Clock(10, 10), Clock(0, 10)
"""Steps of an even epoch, in which features are matched, and of an odd one; no regularisation is due in either."""
Grads = dict[str, dict[str, Tensor]]


class Listed(nn.Module):
    """Maps as a loss network gives them."""

    def forward(self, maps: Tensor) -> list[Tensor]:
        return [maps.relu()]


def listen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """From now on: the gradients that players step along, in order; the weights stay as they are."""
    seen: list[dict[str, Tensor]] = []

    def improve(self: Player) -> None:
        seen.append({n: p.grad.clone() for n, p in self.module.named_parameters() if p.grad is not None})
        self.optimizer.zero_grad()

    monkeypatch.setattr(Player, "improve", improve)
    return seen


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """See `listen`."""
    return listen(monkeypatch)


def cast_for(
    make_config: Callable[..., PretrainConfig], method: str, images: int | None = None, **settings: Any
) -> Cast:
    usual = {"discriminator": DiscriminatorConfig(channel_base=512), "recipe": "paper"}
    config = make_config(method=method, **(usual | settings))
    return build_cast(config, make_accelerator(config.device, config.precision), images)


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
    cast = build_cast(config, make_accelerator("cpu", "fp32"), fixed=fixed if METHODS[method].loss_network else None)
    alive: list[int] = []
    maps: list[Any] = []
    lens: Any = type(cast.step.lens)
    look = lens.look

    def watched(self: Any, *given: Any) -> Seen:
        alive.append(sum(one() is not None for one in maps))
        seen = look(self, *given)
        maps.extend(weakref.ref(one.untyped_storage()) for one in seen.fake.features)
        return seen

    monkeypatch.setattr(lens, "look", watched)
    cast.step(batch(cast, 12, 3), EVEN)
    assert alive == [0, 0, 0]


def test_p_follows_the_discriminator(make_config: Any, learnt: list[dict[str, Tensor]]) -> None:
    """By a share of as many images as there are, not as many as the settings' batch."""
    settings = {"ada": AdaConfig(images=64, every=2), "path": PathConfig(weight=0)}
    cast = cast_for(make_config, "stylegan2-ada-p", images=8, **settings)
    verdict = cast.players["discriminator"].module.head.score.bias
    logs = []
    for step in range(9):
        with torch.no_grad():
            verdict.fill_(100.0 if step < 5 else -100.0)  # every image is real, or none is: r is 1 or -1
        logs.append(cast.step(batch(cast), Clock(step, 100)))
    assert [log["ada_r"] for log in logs] == [1, 1, 1, 1, 1, -1, -1, -1, -1]
    # Of the fifth and the sixth step together r is 0: below the target.
    assert [log["ada_p"] for log in logs] == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.25, 0.25, 0]


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
    terms: dict[str, LossTerm] = {"adversarial": adversarial, "features": FeatureMatching()}
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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["ls-gan", "ls-gan-p", "msg-gan-p", "stylegan2-ada-p"])
def test_steps_are_finite_in_either_precision(make_config: Any, method: str, precision: Any) -> None:
    cast = cast_for(make_config, method, precision=precision, ada=AdaConfig(start=0.5), path=PathConfig(every=2))
    for step in range(4):
        log = cast.step(batch(cast), Clock(10 + step, 10))
    assert log["d_real"] != log["d_fake"]
    assert log["pull/adversarial"] > 0
