"""The plan of a run: what it will take, number by number, each with how it is known."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from perceptual_mae.credentials import public
from perceptual_mae.data import stream
from perceptual_mae.estimate.config import IMAGENET_BYTES, PlanConfig
from perceptual_mae.estimate.cost import StepCost, count
from perceptual_mae.estimate.hardware import GPUS, SHARE, SHARE_CPU, USABLE_CPU
from perceptual_mae.estimate.machine import (
    GENERATOR,
    Machine,
    Range,
    Sharding,
    compute_seconds,
    fits,
    gradient_traffic,
    images_per_gpu,
    largest,
    link_seconds,
    memory,
    step_seconds,
)
from perceptual_mae.estimate.measured import (
    Calibration,
    Images,
    calibrate,
    decode_rate,
    device_title,
    free_memory,
    look_up,
    matmul_rate,
)
from perceptual_mae.estimate.warnings import warnings_of
from perceptual_mae.methods import METHODS
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.training.device import choose_device
from perceptual_mae.training.schedule import total_steps

IMAGENET = 1_281_167
"""Training images of ImageNet-1k."""
CORES = 12
"""CPU cores beside each GPU (assumed): clouds rent A100s with 12 and H100s with 24."""
Basis = Literal["measured", "counted", "assumed"]


@dataclass(frozen=True)
class Figure:
    """A number of the plan.

    Attributes:
        key: for programs.
        name: for people.
        low, high: between which it lies; the same where there is no doubt but the basis's own.
        unit: of both.
        basis: measured here; counted, operation by operation; or at least in part assumed.
        how: where it is from, in words.
    """

    key: str
    name: str
    low: float
    high: float
    unit: str
    basis: Basis
    how: str


@dataclass(frozen=True)
class Given:
    """What a plan is made of, beside its settings.

    Attributes:
        cost: of a step on one device.
        machine: what it is to run on.
        rate_basis, rate_words: how it is known what the machine reaches.
        images: what there is to learn from.
        decode: images/s that a core reads; measured here.
        cores: beside each GPU.
        cores_words: how that is known.
        here: whether the machine is the one that this runs on.
    """

    cost: StepCost
    machine: Machine
    rate_basis: Basis
    rate_words: str
    images: Images
    decode: float
    cores: int
    cores_words: str
    here: bool


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        title: the run and its machine, in a line.
        figures: numbers, in the order in which they are shown.
        warnings: what will not go well, and what to do, a sentence each.
        notes: how the numbers are to be read.
    """

    title: str
    figures: tuple[Figure, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def figure(self, key: str) -> Figure:
        """The number with a key."""
        return next(figure for figure in self.figures if figure.key == key)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return public(asdict(self))


def plan(config: PlanConfig, told: Callable[[str], None] = lambda _: None) -> Plan:
    """Make the plan of a run.

    Args:
        config: what to plan.
        told: called with what is done now, in words.

    Raises:
        UsageError: settings that cannot be right.
        PmaeError: data that cannot be read.
    """
    config.check()
    return make(config, gather(config, told))


def gather(config: PlanConfig, told: Callable[[str], None] = lambda _: None) -> Given:
    """Count, measure and look up what a plan is made of; see `plan`."""
    told("counting what a step costs")
    cost = count(config.pretrain, config.precision)
    calibration: Calibration | None = None
    if config.measure:
        told("measuring real steps")
        calibration = calibrate(config.pretrain, _precision_here(config), cost)
    told("measuring how fast images are read")
    images = look_up(config.data, config.pretrain.pixels.channels) if config.data else None
    decode = decode_rate(config.pretrain)
    machine, basis, words = machine_of(config, calibration)
    cores, cores_words = _cores(config)
    here = config.gpu is None
    return Given(cost, machine, basis, words, _images(config, images), decode, cores, cores_words, here)


def machine_of(config: PlanConfig, calibration: Calibration | None) -> tuple[Machine, Basis, str]:
    """What the run is to compute on, how its rate is known, and that in words."""
    share = None if calibration is None else Range(calibration.least, calibration.most)
    if config.gpu is not None:
        gpu = GPUS[config.gpu]
        words = f"{gpu.source}; a share of {SHARE[0]:.0%} to {SHARE[1]:.0%} of its rate is assumed"
        if share is not None and calibration is not None:
            words = f"{gpu.source}; the share of the rate is that of {calibration.what}: {calibration.share:.0%}"
        machine = Machine(
            f"{config.gpus} x {gpu.title}",
            gpu.rate(config.precision),
            share or Range(*SHARE),
            gpu.bandwidth * 1e9,
            gpu.memory * 1e9,
            link=gpu.link * 1e9,
            network=config.network * 1e9 / 8,
            gpus=config.gpus,
            per_node=config.gpus_per_node,
        )
        return machine, "assumed", words
    device = choose_device(config.pretrain.device)
    rate = matmul_rate(device, config.precision)
    there, taken = free_memory(device)
    assumed, usable = (SHARE, 1.0) if device == "cuda" else (SHARE_CPU, USABLE_CPU)
    machine = Machine(device_title(device), rate, share or Range(*assumed), memory=there, taken=taken, usable=usable)
    if calibration is not None:
        return machine, "measured", f"the share of the rate is that of {calibration.what}: {calibration.share:.0%}"
    words = f"matrix products were measured, {rate / 1e9:.0f} GFLOP/s; a share of {assumed[0]:.0%} to {assumed[1]:.0%}"
    return machine, "assumed", f"{words} of that is assumed (--measure true measures it)"


def make(config: PlanConfig, given: Given) -> Plan:
    """The plan of what was gathered: arithmetic, and nothing else."""
    run, cost, machine, pieces = config.pretrain, given.cost, given.machine, config.pieces
    batch = min(run.batch_size, given.images.count)
    images = images_per_gpu(batch, machine.gpus, pieces)
    sharding = choose_sharding(config, cost, machine, images)
    steps = _steps(run, given.images.count)

    compute = compute_seconds(cost, machine, images, pieces)
    sent = gradient_traffic(cost, machine.gpus, sharding, pieces, _by_themselves(run))
    links = link_seconds(machine, sent)
    step = step_seconds(compute, links)
    reading = given.decode * given.cores * machine.gpus
    rate = Range(min(batch / step.high, reading), min(batch / step.low, reading))
    hours = Range(steps * batch / rate.high / 3600, steps * batch / rate.low / 3600)
    held = memory(cost, machine, sharding, images, pieces)
    most = largest(cost, machine, sharding, pieces)
    cores = Range(rate.low / machine.gpus / given.decode, rate.high / machine.gpus / given.decode)
    basis, gib, mega = given.rate_basis, 2**30, given.images.bytes_each / 1e6
    reader: Basis = "measured" if given.here else "assumed"
    figures = (
        _between("hours", "wall time", hours, "h", basis, f"{steps:,} steps of {batch:,} images"),
        _between("images_per_second", "images/s, all GPUs", rate, "/s", basis, given.rate_words),
        _between("step_seconds", "a step", step, "s", basis, _flop_words(cost, images * pieces)),
        _exactly("memory", "memory per GPU", held / gib, "GiB", _memory_words(given, sharding)),
        _exactly("largest", "largest batch per GPU", most * pieces, "images", _fit_words(machine)),
        _between("read", "read from storage", rate.times(mega), "MB/s", basis, _file_words(given)),
        _between("cores", "cores per GPU to read", cores, "", reader, _core_words(given)),
        _exactly("sent", "gradients, each GPU", sent / 1e6, "MB/step", f"{sharding}, GPUs: {machine.gpus}"),
        _between("link_seconds", "their time", links, "s/step", "assumed", _link_words(config)),
        _exactly("checkpoint", "a checkpoint", cost.saved / gib, "GiB", _saved_words(run)),
    )
    warned = warnings_of(config, given, sharding, images, most, compute, links)
    title = f"{run.method} / {run.model}, {run.size[0]} x {run.size[1]}, {config.precision}, on {machine.title}"
    return Plan(title, figures, tuple(warned), _notes(config, given))


def choose_sharding(config: PlanConfig, cost: StepCost, machine: Machine, images: int) -> Sharding:
    """How several GPUs hold the model: as asked for, or whole where that fits or where the run cannot be cut."""
    if config.sharding != "auto":
        return config.sharding
    whole = machine.gpus == 1 or fits(cost, machine, "ddp", images, config.pieces)
    return "ddp" if whole or config.cannot_be_cut else "fsdp"


def _between(key: str, name: str, found: Range, unit: str, basis: Basis, how: str) -> Figure:
    return Figure(key, name, found.low, found.high, unit, basis, how)


def _exactly(key: str, name: str, found: float, unit: str, how: str) -> Figure:
    return Figure(key, name, found, found, unit, "counted", how)


# -- parts of a plan ---------------------------------------------------------------------------------------------------


def _steps(run: PretrainConfig, images: int) -> int:
    """Steps of a run; see `SamplePlan`."""
    return total_steps(run.epochs, max(1, images // run.batch_size), run.max_steps)


def _by_themselves(run: PretrainConfig) -> Mapping[str, int]:
    """Steps between penalties whose gradients travel by themselves, by network."""
    adversary = METHODS[run.method].adversary
    if adversary is None or not adversary.regularised:
        return {}
    return {
        GENERATOR: run.path.every if run.path.weight else 0,
        "discriminator": run.discriminator.r1_every if run.r1_gamma(run.batch_size) else 0,
    }


def _images(config: PlanConfig, found: Images | None) -> Images:
    """What there is to learn from: what was said goes before what was found, and that before ImageNet."""
    base = found or Images(IMAGENET, IMAGENET_BYTES, "of the size of ImageNet's (assumed)")
    return Images(
        base.count if config.images is None else int(config.images),
        base.bytes_each if config.image_bytes is None else config.image_bytes,
        base.what if config.image_bytes is None else "as --image-bytes says",
    )


def _cores(config: PlanConfig) -> tuple[int, str]:
    if config.cores is not None:
        return config.cores, "as --cores says"
    if config.gpu is not None:
        return CORES, "assumed"
    return stream.cores(), "of this machine"


def _precision_here(config: PlanConfig) -> str:
    """Of the steps that are measured: the run's own, where the device that is here is the one that is planned for."""
    return config.precision if config.gpu is None or choose_device(config.pretrain.device) == "cuda" else "fp32"


def _flop_words(cost: StepCost, images: int) -> str:
    return f"{cost.flop.at(images) / images / 1e9:,.3g} GFLOP per image, counted"


def _memory_words(given: Given, sharding: Sharding) -> str:
    cost = given.cost
    weights = (cost.gradients * 2 + sum(cost.moments.values())) / 2**30
    return (
        f"{sharding}: {weights:.3g} GiB of weights, gradients and moments, cut or not; the rest for images and kernels"
    )


def _fit_words(machine: Machine) -> str:
    if machine.memory is None:
        return "it is not known how much memory there is"
    return f"in {machine.usable:.0%} of {machine.memory / 2**30:.1f} GiB, by the same account"


def _file_words(given: Given) -> str:
    files = f"{given.images.count:,} files of {given.images.bytes_each / 1e3:,.0f} KB"
    return f"{files}, {given.images.what}; all nodes together"


def _core_words(given: Given) -> str:
    return f"{given.decode:,.0f} images/s a core, measured here; {given.cores} there are ({given.cores_words})"


def _link_words(config: PlanConfig) -> str:
    if config.gpus == 1:
        return "one GPU sends nothing"
    if config.gpus <= config.gpus_per_node:
        return "over the links within a node, from the data sheet"
    return f"{config.network:g} Gbit/s between nodes of {config.gpus_per_node} (--network)"


def _saved_words(run: PretrainConfig) -> str:
    return f"weights and moments; {run.checkpoint.keep} are kept, one every {run.save_every:,} steps"


def _notes(config: PlanConfig, given: Given) -> tuple[str, ...]:
    notes = ["Validation, pictures and the writing of checkpoints are not in the wall time."]
    if not given.here:
        notes.append(
            f"No {GPUS[config.gpu or ''].title} was used for this: its rows are estimates, from its data sheet."
        )
    if config.measure and not given.here:
        notes.append(
            "That a share of the peak which was measured on another device is reached there too is an assumption."
        )
    return tuple(notes)


def rounded(value: float) -> str:
    """Three digits, as a person writes them."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
