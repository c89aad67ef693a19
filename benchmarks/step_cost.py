"""What a step of every method costs, relative to `mse` (the paper's table 4). Prints JSON.

The methods take turns on the same batch, each through whole cycles of its lazy regularisation; the term that acts in
even epochs only is always on. With the defaults: ViT-B/16 at 224 pixels.
"""

import argparse
import json
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.measure import Flop, seconds
from perceptual_mae.augment.ada import draw_ada
from perceptual_mae.methods import METHODS, parts_of
from perceptual_mae.models.cost import count_parameters
from perceptual_mae.models.fixed_network import FixedNetwork
from perceptual_mae.pretraining.cast import Cast, build_cast
from perceptual_mae.pretraining.config import LogConfig, PretrainConfig
from perceptual_mae.pretraining.loss_config import AdaConfig, DiscriminatorConfig
from perceptual_mae.pretraining.player import MicroBatch
from perceptual_mae.training.device import make_accelerator
from perceptual_mae.training.memory import keep_freed_memory, peak_memory
from perceptual_mae.training.schedule import Clock

PAPER = {"mse": 1.0, "ls-gan-p": 2.35, "stylegan2-ada-p": 4.35}
WANTED = {"ms-ssim": 1.1, "ls-gan-p": 1.6, "msg-gan-p": 1.8, "stylegan2-ada-p": 2.2}
CYCLE = 16


def settings(row: str, options: argparse.Namespace) -> PretrainConfig:
    """A row, METHOD or METHOD+ARCHITECTURE, as `pmae pretrain` runs it half-way through: with augmentations at work."""
    method, architecture = parts_of(row)
    return PretrainConfig(
        data="",
        method=method,
        architecture=architecture,
        model=options.model,
        image_size=options.image_size,
        patch_size=options.patch_size,
        batch_size=options.batch,
        precision=options.precision,
        discriminator=DiscriminatorConfig(channel_base=options.channel_base),
        ada=AdaConfig(start=0.3),
        log=LogConfig(tensorboard=False),
        loss_network=options.loss_network if METHODS[method].loss_network else None,
    )


def stepper(method: str, options: argparse.Namespace) -> tuple[Cast, Callable[[int], Any]]:
    """The players of a method, and a function that takes the step with a number."""
    config = settings(method, options)
    accelerator = make_accelerator(config.device, config.precision)
    cast = build_cast(config, accelerator)
    device, batch = accelerator.device, options.batch
    images = torch.rand(batch, 3, *config.size, device=device)
    noise = torch.rand(batch, cast.model.num_patches, device=device)
    part = MicroBatch(images, noise, draw_ada(batch, None).to(device), torch.arange(batch))
    network = cast.modules.get("loss_network")
    while isinstance(network, FixedNetwork) and not network.calibrated:  # which its first steps do else
        network.calibrate(network.measure([images]))
    # Even epochs, whose steps have the perceptual term; or odd and even ones in turn.
    begin, length = (0, 2 * CYCLE) if options.every_epoch else (CYCLE, CYCLE)
    return cast, lambda number: cast.step([part], Clock(begin + number % length, CYCLE))


def peak_of_cycle(method: str, options: argparse.Namespace) -> float:
    """GiB at most in a cycle, in a process of its own."""
    cast, step = stepper(method, options)
    for number in (0, 3, CYCLE - 1):  # plain, with path length, with R1 too
        step(number)
    return peak_memory(cast.model.mean.device) or float("nan")


def gflop(step: Callable[[int], Any], batch: int) -> float:
    """GFLOP an image of a step, forward and backward, mean over a cycle; a multiply-add is two."""
    counts = {}
    for number in (0, 3, CYCLE - 1):
        with Flop() as counter:
            step(number)
        counts[number] = counter.total / batch / 1e9
    return (12 * counts[0] + 3 * counts[3] + counts[CYCLE - 1]) / CYCLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=[name for name in METHODS if not METHODS[name].loss_network])
    parser.add_argument("--model", default="base")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--patch-size", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--channel-base", type=int, help="width of the discriminators; default: each method's")
    parser.add_argument("--loss-network", help="for methods with a fixed network")
    parser.add_argument("--every-epoch", action="store_true", help="odd epochs too, for a run's mean; with --cycles 2")
    parser.add_argument("--cycles", type=int, default=1, help=f"of {CYCLE} steps each")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.memory_of:
        print(peak_of_cycle(options.memory_of, options))
        return

    keep_freed_memory()
    names = ["mse", *(name for name in options.methods if name != "mse")]
    players = {name: stepper(name, options) for name in names}
    flops = {name: gflop(step, options.batch) for name, (_, step) in players.items()}  # warms up, too
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(CYCLE * options.cycles):
        for name, (_, step) in players.items():
            times[name].append(seconds(partial(settled, step, number)))
    rows = {}
    for name, (cast, _) in players.items():
        # Pair by pair: a machine that is shared changes its speed under a benchmark.
        ratio = statistics.fmean(times[name]) / statistics.fmean(times["mse"])
        rows[name] = {
            "relative": round(ratio, 3),
            "wanted": WANTED.get(name),
            "paper": PAPER.get(name),
            "seconds_per_step": round(statistics.fmean(times[name]), 4),
            "gflop_per_image": round(flops[name], 2),
            "peak_memory_gib": round(memory(name), 2),
            "parameters": {player: count_parameters(one.module) for player, one in cast.players.items()},
        }
    shape = {name: getattr(options, name) for name in ("model", "image_size", "patch_size", "batch", "precision")}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    print(json.dumps({"benchmark": "step_cost", "device": device, **shape, "methods": rows}))


def settled(step: Callable[[int], object], number: int) -> None:
    """Take a step, and wait for the device, which may still be at work."""
    step(number)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory(method: str) -> float:
    """`peak_of_cycle` in a fresh process with this one's options."""
    command = [sys.executable, "-m", "benchmarks.step_cost", *sys.argv[1:], "--memory-of", method]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    main()
