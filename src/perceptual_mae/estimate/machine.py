"""What a step takes on a machine: seconds, bytes on a GPU, bytes between GPUs. Pure arithmetic; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from perceptual_mae.estimate.hardware import CONTEXT, LAUNCH, LINK_SHARE, UNCACHED, USABLE

if TYPE_CHECKING:
    from perceptual_mae.estimate.cost import StepCost

GENERATOR = "model"
Sharding = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Range:
    """A number that is known to lie between two."""

    low: float
    high: float

    def __post_init__(self) -> None:
        assert self.low <= self.high, (self.low, self.high)

    def times(self, factor: float) -> "Range":
        """Both, so many times."""
        return Range(self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Machine:
    """What is to be computed on.

    Attributes:
        title: for people.
        rate: FLOP/s of matrix products, at best.
        share: of that rate which a step reaches, at least and at most.
        bandwidth: bytes/s of a GPU's memory; None: what steps reach is known as a whole.
        memory: bytes that there are on each GPU or in the machine; None: not known.
        taken: bytes of them that are taken by something else than tensors.
        usable: share of the memory that can be filled.
        link: bytes/s from one GPU to the others of its node.
        network: bytes/s from one node to the others.
        gpus, per_node: how many GPUs there are, and how many in a node.
    """

    title: str
    rate: float
    share: Range
    bandwidth: float | None = None
    memory: float | None = None
    taken: float = CONTEXT
    usable: float = USABLE
    link: float = float("inf")
    network: float = float("inf")
    gpus: int = 1
    per_node: int = 8


def images_per_gpu(batch: int, gpus: int, pieces: int) -> int:
    """Images in a micro-batch on the GPU that has the most."""
    return -(-batch // (gpus * pieces))


# -- memory ------------------------------------------------------------------------------------------------------------


def memory(cost: "StepCost", machine: Machine, sharding: Sharding, images: int, pieces: int) -> float:
    """Bytes on a GPU at most.

    Args:
        cost: of a step on one device.
        machine: where.
        sharding: how several GPUs hold the generator.
        images: in a micro-batch.
        pieces: micro-batches in a step, all of which are on the device; one at a time is turned into floats.
    """
    held = machine.taken + cost.peak(images) + pieces * images * cost.image
    if machine.gpus == 1:
        return held
    generator = cost.weights[GENERATOR]
    others = cost.gradients - generator
    if sharding == "ddp":
        return held + cost.gradients  # the buckets in which gradients travel
    # Each GPU has its share of weights and moments. Gradients are left as they were counted, because the peak may or
    # may not hold them; between micro-batches they are whole.
    spared = (1 - 1 / machine.gpus) * (generator + cost.moments[GENERATOR])
    return held + others - spared + cost.block + (generator if pieces > 1 else 0)


def fits(cost: "StepCost", machine: Machine, sharding: Sharding, images: int, pieces: int) -> bool:
    """Whether that is no more than there is; true where it is not known how much there is."""
    there = machine.memory
    return there is None or memory(cost, machine, sharding, images, pieces) <= machine.usable * there


def largest(cost: "StepCost", machine: Machine, sharding: Sharding, pieces: int) -> int:
    """Images of the largest micro-batch that fits; 0: not even one."""
    low, high = 0, 1
    while high < 1 << 24 and fits(cost, machine, sharding, high, pieces):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(cost, machine, sharding, middle, pieces) else (low, middle)
    return low


# -- time --------------------------------------------------------------------------------------------------------------


def compute_seconds(cost: "StepCost", machine: Machine, images: int, pieces: int) -> Range:
    """Seconds that a GPU computes in a step of `pieces` micro-batches of so many images.

    What bounds it is the slowest of three: products at a share of the peak rate, bytes through the memory, and the
    starting of one operation after another. At best they overlap, at worst products and bytes do not.
    """
    products = pieces * cost.flop.at(images) / machine.rate
    best, worst = products / machine.share.high, products / machine.share.low
    if machine.bandwidth is None:
        return Range(best, worst)
    # The optimiser's part of the traffic comes once a step; it is the larger part of what does not depend on images.
    through = (cost.traffic.fixed + pieces * cost.traffic.per_image * images) / machine.bandwidth
    starts = pieces * cost.operations
    low = max(best, UNCACHED[0] * through, LAUNCH[0] * starts)
    return Range(low, max(worst, best + UNCACHED[1] * through, LAUNCH[1] * starts))


def gradient_traffic(cost: "StepCost", gpus: int, sharding: Sharding, pieces: int, every: Mapping[str, int]) -> float:
    """Bytes that each GPU sends in a step, in the mean: gradients, and where it is cut the generator's weights.

    Args:
        cost: of a step.
        gpus: how many there are.
        sharding: how they hold the generator.
        pieces: micro-batches in a step.
        every: steps between penalties whose gradients travel by themselves, by network.
    """
    once = (gpus - 1) / gpus
    generator = cost.weights[GENERATOR]
    # A ring sends everything twice around: once to add up, once to tell (Patarasuk and Yuan, 2009).
    sent = 2 * once * (cost.gradients - generator)
    # Cut: weights are gathered forward and backward in each micro-batch, gradients are scattered once.
    sent += 2 * once * generator if sharding == "ddp" else once * generator * (2 * pieces + 1)
    for name, steps in every.items():
        if steps and (name != GENERATOR or sharding == "ddp"):
            sent += 2 * once * cost.weights[name] / steps
    return sent


def link_seconds(machine: Machine, sent: float) -> Range:
    """Seconds that so many bytes from every GPU take, within nodes and between them."""
    inside = 0.0 if machine.gpus == 1 else sent / machine.link
    # Between nodes a ring crosses each node's network once, whatever the GPUs in it.
    between = 0.0 if machine.gpus <= machine.per_node else sent / machine.network
    return Range((inside + between) / LINK_SHARE[1], (inside + between) / LINK_SHARE[0])


def step_seconds(compute: Range, links: Range) -> Range:
    """Seconds of a step: at best gradients travel while the rest is computed, at worst after it."""
    return Range(max(compute.low, links.low), compute.high + links.high)
