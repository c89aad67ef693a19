"""Settings that every training run has. Imports no torch."""

import re
from dataclasses import dataclass
from typing import Literal, Protocol

from perceptual_mae.errors import UsageError
from perceptual_mae.settings import free

Tracker = Literal["wandb", "mlflow", "trackio"]


@dataclass(frozen=True)
class LoaderConfig:
    """Reading images.

    Attributes:
        max_pixels: images with more pixels are skipped unread (decompression bombs).
        lanes: shards of a stream that are read side by side; best a multiple of the number of processes.
        shuffle_buffer: images among which a stream draws the next, over all lanes.
        cache: folder for fetched shards; default: perceptual-mae/stream in the user's cache folder.
        cache_gib: how large it may become, in GiB; the shards unused for longest make room.
        timeout: seconds without an answer after which a connection is given up.
        retries: attempts in a row that bring nothing new before a shard is given up and its images are skipped.
    """

    max_pixels: int = free(100_000_000)
    lanes: int = 16
    shuffle_buffer: int = 16384
    cache: str | None = free(None)
    cache_gib: float = free(50.0)
    timeout: float = free(30.0)
    retries: int = free(8)


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints beside those of `--save-every`.

    Attributes:
        minutes: also save when so many minutes have passed since the last checkpoint.
        keep: how many of the newest checkpoints stay.
        milestones: the checkpoint at the end of every so many epochs is kept for ever, beside those; 0: none.
    """

    minutes: float = free(10.0)
    keep: int = free(2)
    milestones: int = free(0)


@dataclass(frozen=True)
class SpikeConfig:
    """Steps whose loss or gradient is not finite.

    Attributes:
        patience: so many in a row put the weights back to those of the last checkpoint; fewer are skipped and counted.
            0: the first one ends the run.
        rollbacks: times that the weights are put back, with no progress saved between, before the run ends.
    """

    patience: int = free(3)
    rollbacks: int = free(2)


def image_side(image_size: int | str) -> tuple[int, int]:
    """The setting `image_size` as `(height, width)` in pixels.

    Raises:
        UsageError: it is neither a number nor HEIGHTxWIDTH.
    """
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", str(image_size))
    if not match:
        raise UsageError(f"--image-size {image_size!s:.40}: give one side such as 224, or HEIGHTxWIDTH such as 192x256")
    return int(match[1]), int(match[2] or match[1])


class OptimizerSettings(Protocol):
    """AdamW as a run has it; None: as its recipe has it."""

    @property
    def betas(self) -> tuple[float, float] | None:
        """Decay rates of its moments."""
        ...

    @property
    def weight_decay(self) -> float | None:
        """Decay of weights."""
        ...

    @property
    def warmup_epochs(self) -> float | None:
        """Epochs of linear warm-up."""
        ...

    @property
    def clip_grad(self) -> float | None:
        """Largest norm of the gradient."""
        ...


def betas_rule(flag: str, betas: tuple[float, float] | None) -> tuple[bool, str]:
    """Whether decay rates of Adam's moments can be right, and what to say if not."""
    fine = betas is None or all(0 <= beta < 1 for beta in betas)
    return fine, f"--{flag} {list(betas or ())}: must lie between 0 and 1 (1 excluded)"


def common_rules(seed: int, optimizer: OptimizerSettings) -> list[tuple[bool, str]]:
    """Whether what every run has can be right, and what to say if not."""
    decay, warmup, clip = optimizer.weight_decay, optimizer.warmup_epochs, optimizer.clip_grad
    return [
        (abs(seed) < 2**63, f"--seed {seed}: must have less than 64 bits"),
        betas_rule("optimizer.betas", optimizer.betas),
        (decay is None or decay >= 0, f"--optimizer.weight-decay {decay}: must be 0 or more"),
        (warmup is None or warmup >= 0, f"--optimizer.warmup-epochs {warmup}: must be 0 or more"),
        (clip is None or clip > 0, f"--optimizer.clip-grad {clip}: must be positive"),
    ]


class LogSettings(Protocol):
    """What a run says of its log."""

    @property
    def every(self) -> int:
        """Steps between lines of metrics.jsonl."""
        ...

    @property
    def tensorboard(self) -> bool:
        """Whether TensorBoard files are written."""
        ...

    @property
    def trackers(self) -> tuple[Tracker, ...]:
        """Which trackers are told as well."""
        ...

    @property
    def project(self) -> str:
        """What trackers file the run under."""
        ...


class TrainingSettings(Protocol):
    """What the loop of a run wants to know."""

    @property
    def out(self) -> str:
        """The run folder."""
        ...

    @property
    def total_epochs(self) -> int:
        """Passes over the images."""
        ...

    @property
    def max_steps(self) -> int | None:
        """Steps after which the run ends, if that is earlier."""
        ...

    @property
    def seed(self) -> int:
        """Of everything random."""
        ...

    @property
    def workers(self) -> int | Literal["auto"]:
        """Processes that read images."""
        ...

    @property
    def device(self) -> str:
        """auto, cpu or cuda."""
        ...

    @property
    def precision(self) -> str:
        """auto, fp32 or bf16."""
        ...

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""
        ...

    @property
    def log(self) -> LogSettings:
        """What the run writes down."""
        ...

    @property
    def checkpoint(self) -> CheckpointConfig:
        """Checkpoints beside those of `save_every`."""
        ...

    @property
    def spikes(self) -> SpikeConfig:
        """Steps whose loss is not finite."""
        ...

    def warmup_share(self, epochs: float) -> float:
        """Share of a run of so many epochs that is warm-up."""
        ...

    def check(self) -> None:
        """Refuse settings that cannot be right, with a `UsageError`."""
        ...
