"""Numbers of the papers and of docs/methods.md, written out: what a run without settings of its own is."""

import math
from dataclasses import astuple
from typing import Any

import pytest
import torch
from test_game import Listed
from torch import nn

from perceptual_mae.methods import METHODS
from perceptual_mae.models.discriminator_layers import EqualisedConv
from perceptual_mae.models.fixed_network import FixedNetwork
from perceptual_mae.pretraining.build import build_discriminator
from perceptual_mae.pretraining.cast import Cast, build_cast
from perceptual_mae.pretraining.config import OptimizerConfig, PretrainConfig
from perceptual_mae.pretraining.loss_config import AdaConfig, DiscriminatorConfig, LossesConfig, PathConfig
from perceptual_mae.pretraining.recipe import RECIPES
from perceptual_mae.training.device import make_accelerator

LS, MSG_LS, FULL = "LS", "MSG, LS", "MSG, LS, ADA, R1, path"
TABLE = {
    # architecture, what is matched or compared, adversary
    "mse": ("mae", "", ""),
    "ms-ssim": ("mae", "MS-SSIM", ""),
    "ls-gan": ("mae", "", LS),
    "ls-gan-p": ("mae", "D features", LS),
    "msg-gan": ("msg-mae", "", MSG_LS),
    "msg-gan-p": ("msg-mae", "D features", MSG_LS),
    "stylegan2-ada-p": ("msg-mae", "D features", FULL),
    "dvae-p": ("mae", "dVAE features", ""),
    "timm-p": ("mae", "timm features", ""),
    "msg-gan-p --architecture mae": ("mae", "D features", MSG_LS),
    "stylegan2-ada-p --architecture mae": ("mae", "D features", FULL),
}


def cast_of(config: PretrainConfig) -> Cast:
    fixed = FixedNetwork(nn.Sequential(nn.Conv2d(3, 4, 3), Listed())) if METHODS[config.method].loss_network else None
    return build_cast(config, make_accelerator("cpu", "fp32"), fixed=fixed)


def adversary_of(cast: Cast) -> str:
    """What plays in a run, in the words of the table."""
    opponent, step = cast.step.opponent, cast.step
    if opponent is None:
        assert (step.r1, step.path) == (None, None)
        return ""
    several = len(opponent.player.module.scales) > 1
    words = {"MSG": several, "LS": True, "ADA": opponent.ada, "R1": step.r1, "path": step.path}
    return ", ".join(name for name, there in words.items() if there is not False and there is not None)


def perceptual_of(cast: Cast, method: str) -> str:
    kinds = {"dvae": "dVAE", "timm": "timm", None: "D"}
    (first, *others) = [term.name for term in cast.step.terms]
    assert others == [name for name in ("adversarial", "features") if name in others]
    assert first == {"mse": "mse", "ms-ssim": "ms_ssim"}.get(method, "l1")
    if first == "ms_ssim":
        return "MS-SSIM"
    return f"{kinds[METHODS[method].loss_network]} features" if "features" in others else ""


@pytest.mark.parametrize("row", TABLE)
def test_rows_have_the_parts_that_the_table_names(make_config: Any, row: str) -> None:
    method, _, architecture = row.partition(" --architecture ")
    cast = cast_of(make_config(method=method, architecture=architecture or None))
    skips = "msg-mae" if cast.model.skip_blocks else "mae"
    assert (skips, perceptual_of(cast, method), adversary_of(cast)) == TABLE[row]
    assert ("adversarial" in [term.name for term in cast.step.terms]) == bool(TABLE[row][2])


def test_adversaries() -> None:
    """Where the paper is silent: DCGAN's Adam (arXiv 1511.06434), and StyleGAN2's (arXiv 1912.04958)."""
    ours = {name: astuple(method.adversary) for name, method in METHODS.items() if method.adversary}
    assert ours == {
        # which, learning rate, betas, whether R1, the path length and ADA act
        "ls-gan": ("single-scale", 0.0002, (0.5, 0.999), False),
        "ls-gan-p": ("single-scale", 0.0002, (0.5, 0.999), False),
        "msg-gan": ("msg", 0.0002, (0.5, 0.999), False),
        "msg-gan-p": ("msg", 0.0002, (0.5, 0.999), False),
        "stylegan2-ada-p": ("stylegan2", 0.002, (0.0, 0.99), True),
    }


@pytest.mark.parametrize(
    ("method", "lr", "betas"),
    [
        ("ls-gan", 0.0002, (0.5, 0.999)),
        ("ls-gan-p", 0.0002, (0.5, 0.999)),
        ("msg-gan", 0.0002, (0.5, 0.999)),
        ("msg-gan-p", 0.0002, (0.5, 0.999)),
        ("stylegan2-ada-p", 0.002 * 16 / 17, (0.0, 0.99 ** (16 / 17))),  # R1 takes a seventeenth step
    ],
)
def test_discriminators_learn_at_rates_of_their_own(
    make_config: Any, method: str, lr: float, betas: tuple[float, float]
) -> None:
    player = cast_of(make_config(method=method)).players["discriminator"]
    assert type(player.optimizer) is torch.optim.Adam
    (group,) = player.optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (pytest.approx(lr), pytest.approx(betas), 0)
    assert player.lr == group["lr"]


@pytest.mark.parametrize(
    ("method", "scales", "equalised", "grouped"),
    [("ls-gan", 1, False, False), ("msg-gan", 4, False, True), ("stylegan2-ada-p", 4, True, True)],
)
def test_kinds_of_discriminators(make_config: Any, method: str, scales: int, equalised: bool, grouped: bool) -> None:
    network = cast_of(make_config(method=method)).players["discriminator"].module
    assert len(network.scales) == scales  # 32 pixels in patches of 8: 4, 8, 16 and 32
    assert any(isinstance(layer, EqualisedConv) for layer in network.modules()) == equalised
    assert network.head.minibatch_std == grouped


@pytest.mark.parametrize("method", ["ls-gan", "msg-gan-p", "stylegan2-ada-p"])
def test_widths_of_the_discriminator_of_a_base_model(method: str) -> None:
    config = PretrainConfig(data="", method=method)
    with torch.device("meta"):
        network: Any = build_discriminator(config, ((14, 14), (28, 28), (56, 56), (112, 112), (224, 224)))
    assert [block.conv0.out_channels for block in network.blocks] == [16, 32, 64, 128, 256, 512]
    assert network.head.conv.out_channels == 512


@pytest.mark.parametrize(
    ("size", "batch_size", "gamma"),
    [(64, 256, 0.0032), (224, 256, 0.0392), (256, 32, 0.4096), ("192x256", 16, 0.6144)],
)
def test_gamma_of_r1(size: int | str, batch_size: int, gamma: float) -> None:
    """0.0002 * pixels / batch (arXiv 2006.06676)."""
    config = PretrainConfig(data="", method="stylegan2-ada-p", image_size=size, batch_size=batch_size)
    assert config.r1_gamma(batch_size) == pytest.approx(gamma, rel=1e-12)


def test_settings_of_the_game_that_nobody_gives() -> None:
    assert PathConfig() == PathConfig(weight=2.0, every=4, decay=0.01, estimator="finite-difference")
    assert AdaConfig() == AdaConfig(enabled=True, start=0.0, target=0.6, images=500_000, every=4)
    assert DiscriminatorConfig() == DiscriminatorConfig(
        lr=None, betas=None, channel_base=None, channel_max=512, update="simultaneous", r1_gamma=None, r1_every=16
    )
    assert LossesConfig() == LossesConfig(
        alpha=0.85,
        delta_f=0.05,
        delta_s=40.0,
        adversarial=1.0,
        adversarial_balance=None,
        feature_balance=None,
        perceptual_every=2,
    )


def test_recipes() -> None:
    """Learning rate, its power of the batch; the most that the adversarial term, D's features and fixed ones pull."""
    ours = {name: astuple(recipe) for name, recipe in RECIPES.items()}
    assert ours == {
        "default": (6e-4, 0.5, 0.1, 0.3, math.inf, {"micro": 1.5e-3}),
        "paper": (1.5e-4, 1.0, math.inf, math.inf, math.inf, {}),
    }


def test_they_reach_those_who_play(make_config: Any) -> None:
    step = cast_of(make_config(method="stylegan2-ada-p")).step
    opponent, r1, path = step.opponent, step.r1, step.path
    assert opponent is not None
    assert r1 is not None
    assert path is not None
    assert opponent.ada is not None
    assert (r1.gamma, r1.every) == (pytest.approx(0.0128), 16)  # 0.0002 * 32 * 32 / 16
    assert (path.weight, path.every, path.state.decay, path.exact) == (2.0, 4, 0.01, False)
    assert (opponent.ada.target, opponent.ada.images, opponent.ada.every, opponent.ada.p) == (0.6, 500_000, 4, 0)
    assert not opponent.alternating
    terms = {term.name: (term.weight, term.every_epochs, term.balance) for term in step.terms}
    assert terms == {"l1": (1.0, 1, math.inf), "adversarial": (1.0, 1, 0.1), "features": (1.0, 2, 0.3)}


def test_the_recipe_of_the_generator() -> None:
    """Section 4 of the paper (arXiv 2212.14504)."""
    config = PretrainConfig(data="")
    assert config.optimizer == OptimizerConfig(
        betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=None, accumulate=1, clip_grad=None
    )
    assert (config.epochs, config.mask_ratio) == (300, 0.75)
    assert config.warmup_share(300) == pytest.approx(40 / 300)
