"""From names in `methods.py` and settings to networks, losses and optimisers."""

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.losses.adversarial import adversarial
from perceptual_mae.losses.feature_matching import FeatureMatching
from perceptual_mae.losses.ms_ssim import MsSsimL1
from perceptual_mae.losses.pixel import l1, masked_mse
from perceptual_mae.losses.term import LossTerm
from perceptual_mae.methods import METHODS, Method
from perceptual_mae.models import SIZES, MaskedAutoencoder
from perceptual_mae.models.discriminator import Discriminator
from perceptual_mae.models.msg_mae import MultiScaleAutoencoder
from perceptual_mae.pretraining.config import OptimizerConfig, PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.pretraining.loss_config import LossesConfig
from perceptual_mae.pretraining.recipe import RECIPES, Recipe
from perceptual_mae.pretraining.step import WeightedTerm
from perceptual_mae.seeds import Stream, mixed
from perceptual_mae.training.checkpoint import Checkpoint, damage, newest

_log = logging.getLogger(__name__)

GENERATORS: dict[str, Callable[..., MaskedAutoencoder]] = {
    "mae": MaskedAutoencoder.from_size,
    "msg-mae": MultiScaleAutoencoder.from_size,
    "mae-rgb": partial(MultiScaleAutoencoder.from_size, skips=False),
}
DISCRIMINATORS: dict[str, Callable[..., Discriminator]] = {
    "single-scale": lambda scales, **sizes: Discriminator(scales[-1:], layers="plain", **sizes),
    "msg": lambda scales, **sizes: Discriminator(scales, layers="plain", minibatch_std=True, **sizes),
    "stylegan2": lambda scales, **sizes: Discriminator(scales, layers="stylegan2", minibatch_std=True, **sizes),
}
LOSSES: dict[str, Callable[[LossesConfig], tuple[LossTerm, float]]] = {
    # each with its weight in the sum
    "masked-mse": lambda settings: (masked_mse, 1.0),
    "l1": lambda settings: (l1, 1.0),
    "ms-ssim-l1": lambda settings: (MsSsimL1(settings.alpha), 1.0),
    "adversarial": lambda settings: (adversarial, settings.adversarial),
    "feature-matching": lambda settings: (FeatureMatching(settings.delta_f, settings.delta_s), 1.0),
}
BALANCES: dict[str, Callable[[LossesConfig, Recipe, Method], float]] = {
    # of losses that look through a network: the most that each may pull
    "adversarial": lambda settings, recipe, _: _given(settings.adversarial_balance, recipe.adversarial),
    "feature-matching": lambda settings, recipe, method: _given(
        settings.feature_balance, recipe.network_features if method.loss_network else recipe.discriminator_features
    ),
}


def build_model(config: PretrainConfig) -> MaskedAutoencoder:
    """The generator of a run with its initial weights, the same ones for the same seed on every machine.

    Raises:
        UsageError: settings that do not fit each other.
    """
    pixels = config.pixels
    decoder = {} if config.decoder.depth is None else {"decoder_depth": config.decoder.depth}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            return GENERATORS[METHODS[config.method].row(config.architecture).generator](
                config.model,
                image_size=config.size,
                patch_size=config.patch_size,
                in_channels=pixels.channels,
                mean=pixels.mean,
                std=pixels.std,
                norm_pix_loss=pixels.norm_pix_loss,
                **decoder,
            )
        except ValueError as error:
            raise UsageError(str(error)) from None


def build_discriminator(config: PretrainConfig, scales: tuple[tuple[int, int], ...]) -> Discriminator:
    """The discriminator of a run with its initial weights, for images of these scales.

    Raises:
        UsageError: images that it cannot take.
    """
    row, settings = METHODS[config.method].adversary, config.discriminator
    assert row is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed(config.seed, Stream.DISCRIMINATOR))
        try:
            return DISCRIMINATORS[row.discriminator](
                scales,
                in_channels=config.pixels.channels,
                channel_base=settings.channel_base or default_channel_base(config),
                channel_max=settings.channel_max,
            )
        except ValueError as error:
            raise UsageError(str(error)) from None


def default_channel_base(config: PretrainConfig) -> int:
    """Width of a discriminator that costs a fraction of the generator it plays against.

    At full resolution it has a 48th of the generator's channels: 16 for `base`, with which a step takes under 1.7 times
    one of `mse`; wider ones are a flag away.
    """
    return round(SIZES[config.model].embed_dim / 48 * math.sqrt(math.prod(config.size)))


def build_terms(config: PretrainConfig) -> list[WeightedTerm]:
    """The loss of a run, term by term."""
    method, recipe = METHODS[config.method], RECIPES[config.recipe]
    terms = []
    for term in method.terms:
        loss, weight = LOSSES[term.loss](config.losses)
        balance = BALANCES[term.loss](config.losses, recipe, method) if term.loss in BALANCES else math.inf
        every = config.losses.perceptual_every if term.patient else 1
        if weight:
            terms.append(WeightedTerm(term.name, loss, weight, every, term.through, balance))
    return terms


def _given(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def build_optimizer(network: nn.Module, config: OptimizerConfig, lr: float) -> torch.optim.AdamW:
    """AdamW as in section 4 of the paper: weight decay for matrices, none for biases and norms."""
    groups: list[dict[str, Any]] = param_groups_weight_decay(network, config.weight_decay)
    # One kernel for all parameters; PyTorch has it for CPU and CUDA.
    return torch.optim.AdamW(groups, lr=lr, betas=config.betas, fused=True)


def build_discriminator_optimizer(network: nn.Module, config: PretrainConfig, lazy_every: int) -> torch.optim.Adam:
    """Adam, with the settings of the method's discriminator."""
    row, settings = METHODS[config.method].adversary, config.discriminator
    assert row is not None
    rate, betas = lazily(settings.lr or row.lr, settings.betas or row.betas, lazy_every)
    return torch.optim.Adam(network.parameters(), lr=rate, betas=betas, fused=True)


def lazily(lr: float, betas: tuple[float, float], every: int) -> tuple[float, tuple[float, float]]:
    """Learning rate and betas for k + 1 steps in the place of k, where regularisation adds one to every k.

    The player goes as far as it would have gone without it (StyleGAN2, arXiv 1912.04958, appendix B).

    Args:
        lr, betas: as they are without regularisation.
        every: k; 0: there is none.
    """
    if not every:
        return lr, betas
    share = every / (every + 1)
    return lr * share, (betas[0] ** share, betas[1] ** share)


def compile_regions(model: MaskedAutoencoder) -> None:
    """Compile encoder and decoder, a region each, in place; names in the state dict stay as they are.

    For steps that learn only: pictures and validation come in other batch sizes, each of which would compile anew.
    """

    def when_learning(region: Callable[..., Any]) -> Callable[..., Any]:
        compiled = torch.compile(region)

        def choose(*inputs: Any) -> Any:
            return compiled(*inputs) if torch.is_grad_enabled() else region(*inputs)

        return choose

    model.encode_patches = when_learning(model.encode_patches)  # type: ignore[method-assign]
    model.decode = when_learning(model.decode)  # type: ignore[method-assign]


def trained_model(run: RunFolder) -> tuple[MaskedAutoencoder, int]:
    """The model of a run as its newest whole checkpoint has it, in eval mode on the CPU, and the steps it trained for.

    Raises:
        PmaeError: the run has no checkpoint that can be read.
    """
    model = build_model(run.config)
    damages: list[tuple[Path, str]] = []
    for found in newest(run.checkpoints):
        if isinstance(found, Checkpoint):
            for path, reason in damages:
                _log.warning("%s: %s", run.path, damage(path, reason))
            model.load_state_dict(found.networks["model"])
            return model.eval(), found.step
        damages.append(found)
    if damages:
        named = "; ".join(f"{path.name}: {reason}" for path, reason in damages)
        raise PmaeError(f"{run.path} has no checkpoint that is whole ({named})")
    raise PmaeError(f"{run.path} has no checkpoint yet: train it with `pmae pretrain`")
