"""Runs that take a second, of every kind that differs in what can be exported, and transformers that take a moment."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer
from torch import Tensor, nn

from perceptual_mae.api import pretrain
from perceptual_mae.pretraining.build import build_model
from perceptual_mae.pretraining.config import LogConfig, PixelConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.training.checkpoint import Checkpoint, save

Runs = Callable[..., Path]
WriteVit = Callable[..., Path]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, config_for: Callable[..., Any]) -> Runs:
    """`runs("mse", channels=1, image_size="32x48")`: a run folder as it is at its first checkpoint, without training.

    Weights are moved away from where they begin: what is nought in the beginning could be lost unseen.
    """
    made: dict[str, Path] = {}

    def make(method: str = "mse", channels: int = 3, norm_pix_loss: bool = False, **settings: Any) -> Path:
        key = json.dumps([method, channels, norm_pix_loss, settings])
        if key not in made:
            folder = tmp_path_factory.mktemp("runs") / "mine"
            pixels = PixelConfig(channels=channels, norm_pix_loss=norm_pix_loss)
            run = RunFolder.claim(config_for(folder, method=method, pixels=pixels, **settings))
            model = build_model(run.config)
            torch.manual_seed(1)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.rand_like(parameter))
            save(run.checkpoints, Checkpoint(2, {"model": model.state_dict()}, {}), keep=1)
            run.close()
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, config_for: Callable[..., Any]) -> Path:
    """A run of two steps with a picture."""
    folder = tmp_path_factory.mktemp("trained") / "mine"
    log = LogConfig(pictures=1, picture_images=2, tensorboard=False)
    return pretrain(config_for(folder, max_steps=2, batch_size=4, log=log))


@pytest.fixture
def write_vit(tmp_path: Path) -> WriteVit:
    """`write_vit(channels=4, image_size=(16, 24), reg_tokens=2)`: a file of a transformer, no two layers alike."""

    def write(channels: int = 3, image_size: tuple[int, int] = (32, 32), depth: int = 1, **settings: Any) -> Path:
        torch.manual_seed(1)
        shape: dict[str, Any] = {"img_size": image_size, "in_chans": channels, "depth": depth, "num_classes": 0}
        shape |= {"patch_size": 8, "embed_dim": 64, "num_heads": 1, "norm_layer": partial(nn.LayerNorm, eps=1e-6)}
        network = VisionTransformer(**(shape | settings)).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.rand_like(parameter))
        mean, std = [0.1 * (i + 1) for i in range(channels)], [0.2 + 0.1 * i for i in range(channels)]
        facts = {"image_size": list(image_size), "mean": mean, "std": std}
        file = tmp_path / "weights.safetensors"
        save_file(network.state_dict(), file, {name: json.dumps(value) for name, value in facts.items()})
        return file

    return write


def images(batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    """`(B, C, H, W)` in [0, 1], others than those that an export is checked with."""
    return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(7))
