"""Every row of the paper's Table 2: it trains, and goes on exactly after any interruption."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from power_cut import pretrain_until_power_cut
from safetensors.torch import load_file, save_file

from perceptual_mae.api import pretrain, report
from perceptual_mae.methods import METHODS
from perceptual_mae.models.dvae import DvaeEncoder
from perceptual_mae.pretraining.build import trained_model
from perceptual_mae.pretraining.cast import build_cast
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.pretraining.lens import FixedLens
from perceptual_mae.pretraining.loss_config import AdaConfig, DiscriminatorConfig, PathConfig
from perceptual_mae.pretraining.player import MicroBatch
from perceptual_mae.training.checkpoint import checkpoints
from perceptual_mae.training.device import make_accelerator

MakeConfig = Callable[..., PretrainConfig]
ROWS = [(name, architecture) for name, method in METHODS.items() for architecture in method.rows]


@pytest.fixture(scope="module")
def loss_networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, str | None]:
    """`--loss-network` for the kinds that methods ask for: small networks with random weights."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    encoder = DvaeEncoder(n_hid=16, n_blk_per_group=1, vocab_size=8)
    save_file(encoder.state_dict(), folder / "dvae.safetensors")
    save_file(timm.create_model("test_efficientnet").state_dict(), folder / "timm.safetensors")
    return {
        None: None,
        "dvae": f"dvae:{folder / 'dvae.safetensors'}",
        "timm": f"timm:test_efficientnet:{folder / 'timm.safetensors'}",
    }


@pytest.fixture
def settings(few_photos: Path, loss_networks: dict[str | None, str | None]) -> Callable[..., dict[str, Any]]:
    """Settings of a run in which everything that a method has acts: 5 epochs of 3 steps on twelve photographs."""

    def choose(method: str, architecture: str | None = None) -> dict[str, Any]:
        return {
            "method": method,
            "architecture": architecture,
            "data": str(few_photos),
            "batch_size": 4,
            "max_steps": 14,
            "epochs": 5,
            "save_every": 3,
            "loss_network": loss_networks[METHODS[method].loss_network],
            "discriminator": DiscriminatorConfig(channel_base=256, r1_every=5),
            "ada": AdaConfig(images=64, target=-1.0, every=4),  # p moves, and is never 0 for long
            "path": PathConfig(every=4),
        }

    return choose


@pytest.mark.parametrize(("method", "architecture"), ROWS)
def test_a_row_trains_and_goes_on_exactly(
    make_config: MakeConfig,
    settings: Callable[..., dict[str, Any]],
    assert_same_run: Callable[[Path, Path], None],
    method: str,
    architecture: str,
) -> None:
    chosen = settings(method, architecture)
    whole = pretrain(make_config("whole", **chosen))
    # Saved after 6 steps: between adjustments of p, path lengths and R1 penalties.
    cut = make_config("cut", **chosen)
    run = pretrain_until_power_cut(cut, 8)
    assert checkpoints(run / "checkpoints")[-1].name == "step-00000006"
    pretrain(cut)
    assert_same_run(run, whole)

    records = RunFolder.read(whole).records()
    logged = {key for record in records for key in record}
    assert {f"loss/{term.name}" for term in METHODS[method].terms} <= logged
    # Terms that wait for the discriminator act in even epochs alone.
    for term in METHODS[method].terms:
        acted = {(record["step"] - 1) // 3 + 1 for record in records if f"loss/{term.name}" in record}
        assert acted == ({2, 4} if term.patient else {1, 2, 3, 4, 5})
    game = {"d_real", "d_fake", "d_accuracy", "ada_r", "loss/discriminator", "grad_norm/discriminator"}
    assert (game <= logged) == bool(METHODS[method].adversary)
    lazy = {"loss/r1", "loss/path_length", "path_length", "ada_p"}
    assert (lazy <= logged) == bool(METHODS[method].adversary and METHODS[method].adversary.regularised)
    trained_model(RunFolder.read(whole))
    report(whole)


@pytest.mark.parametrize(("method", "architecture"), ROWS)
def test_every_term_gives_the_decoder_a_gradient_and_what_it_looks_through_none(
    make_config: MakeConfig, settings: Callable[..., dict[str, Any]], method: str, architecture: str
) -> None:
    config = make_config(**settings(method, architecture))
    cast = build_cast(config, make_accelerator(config.device, config.precision))
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    part = MicroBatch(images, torch.rand(4, 16))
    for term in cast.step.terms:
        made = cast.model(part.images, 0.75, part.noise)
        leaf = made.cut()
        seen = cast.step.lens.look(leaf, part) if cast.step.lens else None
        loss, parts = term.loss(leaf, images, seen)
        assert not any(value.requires_grad for value in parts.values())
        gradients = torch.autograd.grad(loss, leaf.predictions, materialize_grads=True)
        cast.model.zero_grad()
        torch.autograd.backward(made.predictions, gradients)
        for name, parameter in cast.model.named_parameters():
            if name.startswith("decoder") and name.endswith("weight"):
                assert parameter.grad is not None, (term.name, name)
                assert parameter.grad.abs().max() > 0, (term.name, name)
    others = [module for name, module in cast.modules.items() if name != "model"]
    frozen = [p for module in others for p in module.parameters()]
    if isinstance(cast.step.lens, FixedLens):
        network = cast.step.lens.network.network
        assert network is not None
        frozen += list(network.parameters())
        assert not any(p.requires_grad for p in frozen)
    assert bool(frozen) == bool(METHODS[method].adversary or METHODS[method].loss_network)
    assert all(p.grad is None for p in frozen)


def test_what_a_game_remembers_is_in_the_checkpoint(
    make_config: MakeConfig, settings: Callable[..., dict[str, Any]]
) -> None:
    run = pretrain(make_config(**settings("stylegan2-ada-p")))
    newest = checkpoints(run / "checkpoints")[-1]
    assert {path.name for path in newest.iterdir()} == {
        "model.safetensors",
        "discriminator.safetensors",
        "game.safetensors",
        "training.pt",
        "manifest.json",
    }
    game = load_file(newest / "game.safetensors")
    assert game["ada.probability"] > 0
    assert game["ada.count"] == 2 * 4  # two steps since the adjustment in the twelfth
    assert game["path.mean"] > 0


def test_weights_of_a_fixed_network_are_not_copied_into_checkpoints(
    make_config: MakeConfig, settings: Callable[..., dict[str, Any]]
) -> None:
    run = pretrain(make_config(**settings("timm-p")))
    state = load_file(checkpoints(run / "checkpoints")[-1] / "loss_network.safetensors")
    assert state.keys() == {"scale", "batches"}
    assert int(state["batches"]) == 8


def test_a_run_of_one_method_is_not_continued_with_another(
    make_config: MakeConfig, settings: Callable[..., dict[str, Any]]
) -> None:
    from perceptual_mae.errors import UsageError

    config = make_config(**settings("msg-gan-p"))
    pretrain(replace(config, max_steps=1))
    with pytest.raises(UsageError, match="architecture"):
        pretrain(replace(config, architecture="mae"))


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("method", ["ms-ssim", "ls-gan-p", "stylegan2-ada-p"])
def test_other_channels_and_oblong_images(
    make_config: MakeConfig, settings: Callable[..., dict[str, Any]], method: str, channels: int
) -> None:
    from perceptual_mae.pretraining.config import PixelConfig

    chosen = settings(method) | {"image_size": "32x48", "pixels": PixelConfig(channels=channels), "max_steps": 6}
    records = RunFolder.read(pretrain(make_config(**chosen))).records()
    assert len(records) == 6


def test_alternating_updates_go_on_exactly(
    make_config: MakeConfig, settings: Callable[..., dict[str, Any]], assert_same_run: Callable[[Path, Path], None]
) -> None:
    chosen = settings("ls-gan-p")
    chosen["discriminator"] = DiscriminatorConfig(channel_base=256, update="alternating")
    whole = pretrain(make_config("whole", **chosen))
    run = pretrain_until_power_cut(make_config("cut", **chosen), 8)
    pretrain(make_config("cut", **chosen))
    assert_same_run(run, whole)
