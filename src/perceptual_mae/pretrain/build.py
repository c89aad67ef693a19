"""From names in `methods.py` and settings to networks, losses and optimisers."""

from collections.abc import Callable
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.losses.pixel import masked_mse
from perceptual_mae.losses.term import LossTerm
from perceptual_mae.methods import METHODS
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.pretrain.checkpoint import Checkpoint, newest
from perceptual_mae.pretrain.config import OptimizerConfig, PretrainConfig
from perceptual_mae.pretrain.folder import RunFolder

ARCHITECTURES: dict[str, Callable[..., MaskedAutoencoder]] = {"mae": MaskedAutoencoder.from_size}
LOSSES: dict[str, LossTerm] = {"masked-mse": masked_mse}


def build_model(config: PretrainConfig) -> MaskedAutoencoder:
    """The generator of a run with its initial weights, the same ones for the same seed on every machine.

    Raises:
        UsageError: settings that do not fit each other.
    """
    pixels = config.pixels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            return ARCHITECTURES[METHODS[config.method].architecture](
                config.model,
                image_size=config.size,
                patch_size=config.patch_size,
                in_channels=pixels.channels,
                mean=pixels.mean,
                std=pixels.std,
                norm_pix_loss=pixels.norm_pix_loss,
            )
        except ValueError as error:
            raise UsageError(str(error)) from None


def build_optimizer(network: nn.Module, config: OptimizerConfig, lr: float) -> torch.optim.AdamW:
    """AdamW as in section 4 of the paper: weight decay for matrices, none for biases and norms."""
    groups: list[dict[str, Any]] = param_groups_weight_decay(network, config.weight_decay)
    # One kernel for all parameters; PyTorch has it for CPU and CUDA.
    return torch.optim.AdamW(groups, lr=lr, betas=config.betas, fused=True)


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
    for found in newest(run.checkpoints):
        if isinstance(found, Checkpoint):
            model.load_state_dict(found.networks["model"])
            return model.eval(), found.step
    raise PmaeError(f"{run.path} has no checkpoint yet: train it with `pmae pretrain`")
