"""What a step of a run costs, as a function of the images in it: counted, not guessed (see `account.py`)."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from perceptual_mae.augment.ada import draw_ada
from perceptual_mae.errors import UsageError
from perceptual_mae.estimate.account import Accountant, accounting
from perceptual_mae.methods import METHODS
from perceptual_mae.models.dvae import DvaeEncoder
from perceptual_mae.models.fixed_network import FixedNetwork
from perceptual_mae.models.timm_features import TimmFeatures
from perceptual_mae.pretraining.cast import Cast, build_cast
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.player import MicroBatch
from perceptual_mae.training.device import make_accelerator
from perceptual_mae.training.schedule import Clock

COUNTED_AT = (4, 32, 256)
"""Images of the steps through which lines are drawn. Few: gradients and moments are the most there is; many:
activations are. Tensors without numbers are as quick at any size."""
GENERATOR = "model"


@dataclass(frozen=True)
class Line:
    """A number that grows with the images: `fixed + per_image * images`."""

    fixed: float
    per_image: float

    def at(self, images: float) -> float:
        """The number for so many images."""
        return self.fixed + self.per_image * images


@dataclass(frozen=True)
class StepCost:
    """What a step takes on one device.

    Attributes:
        flop: floating-point operations, in the mean over steps with and without regularisation.
        traffic: bytes that operations read and write, likewise.
        operations: how many there are, likewise, whatever the images.
        peaks: bytes at most, of the images in a micro-batch: the highest of these lines.
        weights: bytes of the weights that learn, by network; their gradients take as many.
        moments: bytes of the optimisers' moments, by network.
        saved: bytes of a checkpoint.
        block: bytes of the weights that a generator which is cut over GPUs puts together at a time.
        image: bytes of an image on the device as it waits for its turn, 8 bits a pixel, with its random numbers.
    """

    flop: Line
    traffic: Line
    operations: float
    peaks: tuple[Line, ...]
    weights: Mapping[str, int]
    moments: Mapping[str, int]
    saved: int
    block: int
    image: int

    @property
    def gradients(self) -> int:
        """Bytes of all gradients together."""
        return sum(self.weights.values())

    def peak(self, images: float) -> float:
        """Bytes at most with so many images in a micro-batch: weights, gradients, moments, and all that is made."""
        return max(line.at(images) for line in self.peaks)


def count(config: PretrainConfig, precision: str) -> StepCost:
    """Count what a step of a run costs. No weights are read or made; it takes seconds, for any size.

    Args:
        config: the run; its batch, data and device do not matter.
        precision: fp32 or bf16.

    Raises:
        UsageError: settings that do not fit each other, or a loss network that there is not.
    """
    config = replace(config, device="cpu", precision=precision, compile=False, sharding="ddp")  # type: ignore[arg-type]
    if METHODS[config.method].adversary is not None:  # as it is half-way: with augmentations at work
        config = replace(config, ada=replace(config.ada, start=0.3))
    accelerator = make_accelerator("cpu", precision)
    with accounting() as accountant:
        cast = build_cast(config, accelerator, fixed=loss_network(config))
        taken = _Steps(config, cast, accountant)
        kinds, patient, few, many = kinds_of(cast), patience_of(cast), COUNTED_AT[0], COUNTED_AT[-1]
        plain = min(kinds)
        first = taken.step(plain, few, max(1, patient - 1))  # after it the optimisers have their moments
        counted = {(plain, images): taken.step(plain, images) for images in COUNTED_AT}
        others = [kind for kind in kinds if kind != plain]
        counted |= {(kind, images): taken.step(kind, images) for kind in others for images in (few, many)}
        weights = {name: _bytes(player.module.parameters()) for name, player in cast.players.items()}
        moments = {
            name: _bytes(value for slots in player.optimizer.state.values() for value in slots.values())
            for name, player in cast.players.items()
        }
        saved = sum(_bytes(module.state_dict().values()) for module in cast.modules.values()) + sum(moments.values())
        model = cast.model
        parts: list[nn.Module] = [*model.blocks, *model.decoder_blocks]
        # As FSDP does it: a block and the next one, and what belongs to no block.
        block = 2 * max(_bytes(part.parameters()) for part in parts) + (
            weights[GENERATOR] - sum(_bytes(part.parameters()) for part in parts)
        )
        waiting = micro_batch(config, cast, 1)
        image = _bytes(vars(replace(waiting, images=waiting.images.to(torch.uint8))).values())

    def mean(images: int) -> Counted:
        """Over the kinds of steps, and over epochs in which the patient terms act and those in which they do not."""
        whole = [counted[kind, images].times(share) for kind, share in kinds.items()]
        less = [counted[plain, few].times(1 / patient - 1), first.times(1 - 1 / patient)]
        return reduce(Counted.plus, whole + [one.times(images / few) for one in less])

    at_few, at_many = mean(few), mean(many)
    peaks = [_through(*((n, counted[plain, n].peak) for n in pair)) for pair in pairwise(COUNTED_AT)]
    peaks += [_through(*((n, counted[kind, n].peak) for n in (few, many))) for kind in others]
    return StepCost(
        _through((few, at_few.flop), (many, at_many.flop)),
        _through((few, at_few.traffic), (many, at_many.traffic)),
        at_few.operations,
        tuple(peaks),
        weights,
        moments,
        saved,
        block,
        image,
    )


@dataclass(frozen=True)
class Counted:
    """A step's account."""

    flop: float
    traffic: float
    operations: float
    peak: float

    def times(self, factor: float) -> "Counted":
        """Of so many steps; the peak is left out."""
        return Counted(self.flop * factor, self.traffic * factor, self.operations * factor, 0)

    def plus(self, other: "Counted") -> "Counted":
        """Of both; the peak is left out."""
        sums = self.flop + other.flop, self.traffic + other.traffic, self.operations + other.operations
        return Counted(*sums, 0)


@dataclass
class _Steps:
    """Takes steps of a run, and counts them."""

    config: PretrainConfig
    cast: Cast
    accountant: Accountant

    def step(self, kind: int, images: int, epoch: int = 0) -> Counted:
        """The account of the step with a number in the cycle; by default in an epoch where all terms act."""
        cycle, epoch = cycle_of(self.cast), epoch or patience_of(self.cast)
        part = micro_batch(self.config, self.cast, images)
        self.accountant.begin()
        self.cast.step([part], Clock((epoch - 1) * cycle + kind, cycle))
        taken = self.accountant
        return Counted(taken.flop, taken.traffic, taken.operations, taken.peak)


def micro_batch(config: PretrainConfig, cast: Cast, images: int, device: str = "cpu") -> MicroBatch:
    """Images that are noise, with all that a step wants to know of them."""
    pixels = torch.rand(images, config.pixels.channels, *config.size, device=device)
    noise = torch.rand(images, cast.model.num_patches, device=device)
    augmentation = draw_ada(images, None).to(device) if cast.step.augments else None
    return MicroBatch(pixels, noise, augmentation, torch.zeros(images, dtype=torch.int64))


def cycle_of(cast: Cast) -> int:
    """Steps after which regularisation comes again as before."""
    step = cast.step
    return math.lcm(step.path.every if step.path else 1, step.r1.every if step.r1 else 1)


def kinds_of(cast: Cast) -> dict[int, float]:
    """A step of each kind in the cycle, by its number, and the share of such steps."""
    step, cycle = cast.step, cycle_of(cast)

    def kind(number: int) -> tuple[bool, bool]:
        clock = Clock(number, cycle)
        path = step.path is not None and clock.step_is_due(step.path.every)
        return path, step.r1 is not None and clock.step_is_due(step.r1.every)

    kinds = Counter(kind(number) for number in range(cycle))
    first = {kind(number): number for number in reversed(range(cycle))}
    return {first[one]: count / cycle for one, count in kinds.items()}


def patience_of(cast: Cast) -> int:
    """Epochs between those in which all terms act."""
    return math.lcm(*(term.every_epochs for term in cast.step.terms))


def loss_network(config: PretrainConfig, *, quick: bool = False) -> FixedNetwork | None:
    """The loss network of a run in its shape; whose weights it would have does not matter.

    Args:
        config: the run.
        quick: as a run has it, for which it must compute; what is only counted has no values to compare.
    """
    kind = METHODS[config.method].loss_network
    size = config.size if config.loss_network_size is None else (config.loss_network_size,) * 2
    if kind == "dvae":
        return FixedNetwork(DvaeEncoder(input_channels=config.pixels.channels).features, size)
    if kind == "timm":
        name = (config.loss_network or "").removeprefix("timm:").partition(":")[0]
        try:
            network = TimmFeatures(name, size)
        except ValueError as error:
            raise UsageError(f"--loss-network {config.loss_network}: {error}") from error
        if quick:
            network.quicken()
        return FixedNetwork(network, size)
    return None


def _through(first: tuple[int, float], second: tuple[int, float]) -> Line:
    """The line through two points."""
    slope = (second[1] - first[1]) / (second[0] - first[0])
    return Line(first[1] - slope * first[0], slope)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, torch.Tensor))
