"""Who plays in a run: generator, opponent or fixed network, and their regularisation, as the method's row has them."""

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import nn

from perceptual_mae.augment.ada import twice_differentiable
from perceptual_mae.augment.ada_control import AdaController
from perceptual_mae.errors import UsageError
from perceptual_mae.losses.path_length import PathLength
from perceptual_mae.methods import METHODS
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.models.fixed_network import FixedNetwork
from perceptual_mae.pretraining.build import (
    build_discriminator,
    build_discriminator_optimizer,
    build_model,
    build_optimizer,
    build_terms,
    compile_regions,
)
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.lens import FixedLens, Lens
from perceptual_mae.pretraining.loss_network import open_loss_network
from perceptual_mae.pretraining.opponent import Opponent
from perceptual_mae.pretraining.player import Player
from perceptual_mae.pretraining.regularise import R1, PerceptualPath
from perceptual_mae.pretraining.step import TrainingStep
from perceptual_mae.training.sharded import cut


@dataclass(frozen=True)
class Cast:
    """Everything of a run that learns or remembers.

    Attributes:
        model: the generator.
        players: networks with optimisers, by the name of their file in a checkpoint.
        modules: whatever has a state, by the name of its file in a checkpoint; players among them.
        step: how they learn.
    """

    model: MaskedAutoencoder
    players: dict[str, Player[Any]]
    modules: dict[str, nn.Module]
    step: TrainingStep


def build_cast(
    config: PretrainConfig, accelerator: Accelerator, images: int | None = None, fixed: FixedNetwork | None = None
) -> Cast:
    """Networks on their device with initial weights, optimisers and the step of a run.

    Args:
        config: of the run.
        accelerator: devices, precision and processes.
        images: of a step over all processes, which are fewer than the settings' batch where the data has not so many;
            default: that batch.
        fixed: the loss network of a method that has one, if it is not to be opened; what it looks like to those who
            only count.

    Raises:
        UsageError: settings that do not fit each other, or a loss network that is not there.
        PmaeError: weights of a loss network that cannot be read.
    """
    method, device = METHODS[config.method], accelerator.device
    adversary = method.adversary
    regularised = adversary is not None and adversary.regularised
    path_every = config.path.every if regularised and config.path.weight else 0
    images = config.batch_size if images is None else images
    r1_gamma = config.r1_gamma(images)
    r1_every = config.discriminator.r1_every if regularised and r1_gamma else 0

    model = build_model(config).to(device)
    if config.compile:
        compile_regions(model)
    if config.sharding == "fsdp" and accelerator.num_processes > 1:
        cut(model, [*model.blocks, *model.decoder_blocks], ["decode"], accelerator)
    optimizer = build_optimizer(model, config.optimizer, config.learning_rate)
    generator = Player.prepare(accelerator, model, optimizer)
    players: dict[str, Player[Any]] = {"model": generator}
    modules: dict[str, nn.Module] = {"model": model}
    game = nn.ModuleDict()
    lens: Lens | None = None
    if adversary is not None:
        network = build_discriminator(config, model.scales).to(device)
        player = Player.prepare(accelerator, network, build_discriminator_optimizer(network, config, r1_every))
        players["discriminator"], modules["discriminator"] = player, network
        ada = None
        if regularised and config.ada.enabled:
            game["ada"] = ada = AdaController(config.ada.target, config.ada.images, config.ada.every, config.ada.start)
        alternating = config.discriminator.update == "alternating"
        lens = Opponent(accelerator, player, model.scales, alternating, ada)
    elif method.loss_network:
        asked = (config.loss_network, method.loss_network, config.size, config.pixels.channels)
        fixed = (fixed or open_loss_network(*asked, config.loss_network_size)).to(device)
        modules["loss_network"] = fixed
        lens = FixedLens(accelerator, fixed)
    path = None
    if path_every:
        game["path"] = state = PathLength(config.path.decay).to(device)
        exact = config.path.estimator == "exact"
        if exact and "ada" in game and not twice_differentiable(device):
            raise UsageError(
                "--path.estimator exact: this version of PyTorch cannot differentiate the resampling of ADA twice; use "
                "finite-difference, --ada.enabled false, or a newer PyTorch"
            )
        path = PerceptualPath(state, config.path.weight, path_every, exact)
    if len(game):
        modules["game"] = game
    step = TrainingStep(
        accelerator,
        generator,
        build_terms(config),
        images,
        config.mask_ratio,
        config.optimizer.clip_grad,
        lens,
        R1(r1_gamma, r1_every) if r1_every else None,
        path,
    )
    return Cast(model, players, modules, step)
