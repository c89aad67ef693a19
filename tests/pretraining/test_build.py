"""What is built from the table of methods and from settings."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from perceptual_mae.errors import UsageError
from perceptual_mae.methods import METHODS
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.pretraining.build import (
    DISCRIMINATORS,
    GENERATORS,
    LOSSES,
    build_discriminator,
    build_model,
    build_optimizer,
    build_terms,
    lazily,
)
from perceptual_mae.pretraining.config import DecoderConfig, OptimizerConfig, PretrainConfig
from perceptual_mae.pretraining.loss_config import LossesConfig

PAPER: dict[str, dict[str, tuple[float | None, ...]]] = {
    # Table 2: linear probe, ViT-B, ViT-L
    "mse": {"mae": (67.8, 83.6, 85.9)},
    "ms-ssim": {"mae": (71.2, 84.1, 86.3)},
    "ls-gan": {"mae": (None, 83.3, 85.3)},
    "ls-gan-p": {"mae": (72.5, 84.5, 86.5)},
    "msg-gan": {"msg-mae": (None, 84.7, 86.5)},
    "msg-gan-p": {"msg-mae": (75.6, 85.3, 87.2), "mae": (None, 83.2, 85.6)},
    "stylegan2-ada-p": {"msg-mae": (78.1, 86.2, 88.1), "mae": (None, 84.5, 86.2)},
    "dvae-p": {"mae": (79.8, 86.9, 88.6)},
    "timm-p": {"mae": (None, None, None)},
}
ROWS = [(name, architecture) for name, method in METHODS.items() for architecture in method.rows]


def test_table_2_of_the_paper() -> None:
    ours = {
        name: {
            architecture: (row.paper.linear_probe, row.paper.vit_base, row.paper.vit_large)
            for architecture, row in method.rows.items()
        }
        for name, method in METHODS.items()
    }
    assert ours == PAPER
    assert len(ROWS) == 11
    assert next(iter(METHODS["stylegan2-ada-p"].rows)) == "msg-mae"  # the default


def test_methods_name_things_that_exist() -> None:
    for name, method in METHODS.items():
        assert {row.generator for row in method.rows.values()} <= GENERATORS.keys(), name
        assert {term.loss for term in method.terms} <= LOSSES.keys(), name
        assert len({term.name for term in method.terms}) == len(method.terms), name
        looks = any(term.through == "network" for term in method.terms)
        assert looks == bool(method.adversary or method.loss_network), name
        assert not (method.adversary and method.loss_network), name
        if method.adversary:
            assert method.adversary.discriminator in DISCRIMINATORS, name
        assert "\n" not in method.summary


@pytest.mark.parametrize(("method", "architecture"), ROWS)
def test_generators_of_every_row(make_config: Any, method: str, architecture: str) -> None:
    config: PretrainConfig = make_config(method=method, architecture=architecture)
    model = build_model(config)
    assert bool(model.skip_blocks) == (architecture == "msg-mae")
    assert len(model.scales) == (4 if "msg" in method or "style" in method else 1)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.adversary])
def test_discriminators_take_what_generators_draw(make_config: Any, method: str) -> None:
    config: PretrainConfig = make_config(method=method)
    model = build_model(config)
    network = build_discriminator(config, model.scales)
    with torch.no_grad():
        (judgement,) = network(model(torch.rand(2, 3, *config.size)).pyramid)
    assert judgement.scores is not None
    assert judgement.scores.shape == (2,)
    torch.manual_seed(3)
    again = build_discriminator(config, model.scales)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_settings_reach_the_terms(make_config: Any) -> None:
    losses = LossesConfig(delta_f=0.1, delta_s=7.0, adversarial=0.5, perceptual_every=3)
    terms = {term.name: term for term in build_terms(make_config(method="ls-gan-p", losses=losses))}
    assert (terms["l1"].weight, terms["l1"].every_epochs, terms["l1"].through) == (1.0, 1, "pixels")
    assert (terms["adversarial"].weight, terms["adversarial"].every_epochs) == (0.5, 1)
    assert (terms["features"].every_epochs, terms["features"].through) == (3, "network")
    assert (terms["features"].loss.delta_f, terms["features"].loss.delta_s) == (0.1, 7.0)  # type: ignore[attr-defined]
    # A fixed network has nothing to learn first; a weight of 0 leaves a term out.
    (_, features) = build_terms(make_config(method="timm-p", losses=losses))
    assert features.every_epochs == 1
    without = build_terms(make_config(method="ls-gan-p", losses=LossesConfig(adversarial=0.0)))
    assert [term.name for term in without] == ["l1", "features"]


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


def test_lazy_regularisation_keeps_the_pace() -> None:
    assert lazily(3e-4, (0.9, 0.95), 0) == (3e-4, (0.9, 0.95))
    lr, betas = lazily(2e-3, (0.0, 0.99), 16)
    # 17 steps instead of 16 go as far and forget as much.
    assert 17 * lr == pytest.approx(16 * 2e-3)
    assert betas[0] == 0
    assert betas[1] ** 17 == pytest.approx(0.99**16)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_state_alone(make_config: Any) -> None:
    config: PretrainConfig = make_config()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (build_model(c) for c in (config, config, replace(config, seed=1)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.patch_embed.proj.weight, other.patch_embed.proj.weight)


@pytest.mark.parametrize("method", ["mse", "msg-gan-p"])
def test_the_decoder_may_be_of_another_depth(method: str) -> None:
    small = PretrainConfig(data="", model="micro", method=method, image_size=32, patch_size=8)
    own = build_model(small)
    deeper = build_model(replace(small, decoder=DecoderConfig(depth=5)))
    assert (len(own.decoder_blocks), len(deeper.decoder_blocks)) == (2, 5)
    assert len(deeper.blocks) == len(own.blocks)
    if method == "msg-gan-p":
        with pytest.raises(UsageError, match="a decoder of 7 blocks has no encoder block for each of its skips"):
            build_model(replace(small, decoder=DecoderConfig(depth=7)))
