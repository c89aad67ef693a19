"""What is counted against PyTorch's own counter, against tensors that are really made, and against real runs."""

import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from perceptual_mae.estimate.account import accounting
from perceptual_mae.estimate.cost import StepCost, count, cycle_of, kinds_of, micro_batch, patience_of
from perceptual_mae.estimate.machine import Machine, memory
from perceptual_mae.methods import METHODS
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.models.cost import count_parameters, training_gflop
from perceptual_mae.pretraining.cast import build_cast
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.loss_config import AdaConfig
from perceptual_mae.training.device import make_accelerator
from perceptual_mae.training.schedule import Clock

NO_NETWORK = [name for name, method in METHODS.items() if not method.loss_network]


def config(**settings: Any) -> PretrainConfig:
    defaults: dict[str, Any] = {"data": "", "model": "micro", "image_size": 32, "patch_size": 8, "device": "cpu"}
    return PretrainConfig(**(defaults | settings))


def test_bytes_that_are_held_and_let_go() -> None:
    with accounting() as account:
        first = torch.zeros(1000)
        view = first.view(10, 100)
        assert account.live == 4000
        second = view + 1
        assert (account.live, account.peak) == (8000, 8000)
        del first
        assert account.live == 8000, "the view holds it"
        del view
        gc.collect()
        assert account.live == 4000
        account.begin()
        assert account.peak == 4000
        third = second.to(torch.bfloat16)
        assert account.live == 6000
        assert account.traffic == 4000 + 2000
        assert float((second @ third.float().t()).sum()) == 0.5, "a number where the code asks for one"
        assert account.flop == 2 * 10 * 10 * 100


def test_activations_wait_for_the_backward_pass() -> None:
    layer = torch.nn.Linear(64, 64, bias=False)
    with accounting() as account:
        images = torch.rand(100, 64)
        made = layer(images).relu()
        held = account.live
        made.sum().backward()
        del made
        assert held == 2 * 100 * 64 * 4, "what came in and what came out; what is between is let go"


@pytest.mark.parametrize("model", ["micro", "tiny"])
def test_flop_of_the_generator_against_pytorchs_counter(model: str) -> None:
    cost = count(config(model=model, image_size=64), "fp32")
    generator = MaskedAutoencoder.from_size(model, image_size=64, patch_size=8)
    images, noise = torch.rand(4, 3, 64, 64), torch.rand(4, generator.num_patches)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        generator(images, 0.75, noise).predictions[-1].sum().backward()
    # Fused attention computes its scores again on the way back: a product more than the other five.
    assert counter.get_total_flops() <= 4 * cost.flop.per_image <= 1.05 * counter.get_total_flops()
    assert cost.flop.per_image / 1e9 == pytest.approx(training_gflop(generator), rel=0.08)
    assert cost.flop.fixed == pytest.approx(0, abs=1)


@pytest.mark.parametrize("method", NO_NETWORK)
def test_flop_of_every_method_against_real_steps(method: str) -> None:
    """The same formulas on real tensors, through whole cycles of regularisation and epochs."""
    from benchmarks.measure import Flop

    settings = config(method=method, ada=AdaConfig(start=0.3))
    cost = count(settings, "fp32")
    accelerator = make_accelerator("cpu", "fp32")
    cast = build_cast(settings, accelerator)
    kinds, cycle, patience = kinds_of(cast), cycle_of(cast), patience_of(cast)
    part, total = micro_batch(settings, cast, 4), 0.0
    for kind, share in kinds.items():
        for epoch in range(1, patience + 1):
            with Flop() as counter, sdpa_kernel(SDPBackend.MATH):
                cast.step([part], Clock((epoch - 1) * cycle + kind, cycle))
            total += share / patience * counter.total
    assert cost.flop.at(4) == pytest.approx(total, rel=0.06)
    assert cost.weights == {name: 4 * count_parameters(player.module) for name, player in cast.players.items()}


@pytest.fixture(scope="module")
def costs() -> dict[str, StepCost]:
    return {method: count(config(method=method), "fp32") for method in ("mse", "stylegan2-ada-p")}


def test_moments_and_checkpoints(costs: dict[str, StepCost]) -> None:
    for cost in costs.values():
        for name, weights in cost.weights.items():
            assert 2 * weights <= cost.moments[name] <= 2 * weights + 5000, "two moments, and a step for each tensor"
        assert cost.saved >= 3 * cost.gradients


def test_micro_batches_wait_with_8_bits_a_pixel(costs: dict[str, StepCost]) -> None:
    machine = Machine("", rate=1.0, share=(1.0, 1.0))
    one, four = (memory(costs["mse"], machine, "ddp", images=8, pieces=pieces) for pieces in (1, 4))
    assert four - one == 3 * 8 * (3 * 32 * 32 + 16 * 4 + 8)  # of each the image, its mask's numbers, and a seed


def test_the_size_of_a_checkpoint(costs: dict[str, StepCost], make_config: Any) -> None:
    from perceptual_mae.api import pretrain

    run = pretrain(make_config(method="stylegan2-ada-p", max_steps=2))
    newest = max((run / "checkpoints").glob("step-*"))
    size = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
    assert size == pytest.approx(costs["stylegan2-ada-p"].saved, rel=0.1)  # names and archives come on top


MEASURED = """
import sys, json, torch
from dataclasses import replace
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.loss_config import AdaConfig
from perceptual_mae.pretraining.cast import build_cast
from perceptual_mae.estimate.cost import cycle_of, kinds_of, micro_batch, patience_of
from perceptual_mae.estimate.measured import free_memory
from perceptual_mae.training.device import make_accelerator
from perceptual_mae.training.memory import peak_memory
from perceptual_mae.training.schedule import Clock
method, images = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
config = PretrainConfig(data="", method=method, model="micro", image_size=64, patch_size=8, ada=AdaConfig(start=0.3))
accelerator = make_accelerator("cpu", "fp32")
def take(cast, images):
    part, cycle = micro_batch(config, cast, images), cycle_of(cast)
    for kind in kinds_of(cast):
        cast.step([part], Clock((patience_of(cast) - 1) * cycle + kind, cycle))
take(build_cast(config, accelerator), 2)  # whatever libraries take for themselves
before = free_memory("cpu")[1]
take(build_cast(config, accelerator), images)
print(json.dumps(peak_memory(torch.device("cpu")) * 2**30 - before))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mse", "ls-gan-p", "stylegan2-ada-p"])
def test_memory_of_a_real_process(method: str) -> None:
    """What tensors take at once, within 10 %: kernels have workspace of their own.

    glibc is told to hand back at once what was freed: how much of it stays in pieces (up to 40 %, most where sizes are
    many) depends on the machine.
    """
    images = 128
    command = [sys.executable, "-c", MEASURED, method, str(images)]
    prompt = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    ran = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | prompt)
    taken = json.loads(ran.stdout)
    counted = count(config(method=method, image_size=64), "fp32").peak(images)
    assert counted == pytest.approx(taken, rel=0.1)


def test_lines_bend_upward(costs: dict[str, StepCost]) -> None:
    for cost in costs.values():
        assert cost.peak(0) >= cost.gradients * 3, "weights and moments at least"
        assert cost.peak(1000) - cost.peak(999) >= cost.peak(2) - cost.peak(1)


def test_precision_halves_activations_and_not_the_optimiser(costs: dict[str, StepCost]) -> None:
    half = count(config(), "bf16")
    assert half.weights == costs["mse"].weights
    assert half.moments == costs["mse"].moments
    assert half.peak(1000) < 0.9 * costs["mse"].peak(1000)


def test_a_loss_network_is_counted_without_its_weights() -> None:
    plain = count(config(), "fp32")
    through = count(config(method="timm-p", loss_network="timm:resnet18"), "fp32")
    assert through.flop.per_image > plain.flop.per_image
    assert through.weights == plain.weights
    looked = replace(config(), method="dvae-p")
    assert count(looked, "fp32").flop.per_image > through.flop.per_image
    assert Path("dvae.safetensors").exists() is False
