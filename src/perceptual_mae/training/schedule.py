"""When things happen: the clock of a run and its learning rate, functions of the step: there is nothing to save."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """A moment of a run.

    Attributes:
        step: steps done before this one; the first step has 0.
        steps_per_epoch: steps in a pass over the images.
    """

    step: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 1 as the paper does."""
        return self.step // self.steps_per_epoch + 1

    def epoch_is_due(self, every: int) -> bool:
        """Whether the current epoch is divisible by `every`."""
        return self.epoch % every == 0

    def step_is_due(self, every: int) -> bool:
        """Whether the coming step, counted from 1, is divisible by `every`."""
        return (self.step + 1) % every == 0


def total_steps(epochs: int, steps_per_epoch: int, max_steps: int | None) -> int:
    """Length of a run in steps."""
    return min(epochs * steps_per_epoch, max_steps or math.inf)  # type: ignore[return-value]


def learning_rate(step: int, total: int, peak: float, warmup_share: float) -> float:
    """Linear warm-up to `peak`, then half a cosine to 0 (MAE, arXiv 2111.06377, appendix A), step by step.

    Args:
        step: steps done, from 0.
        total: steps of the whole run.
        peak: the highest rate.
        warmup_share: share of the run that is warm-up, in [0, 1].
    """
    warmup = warmup_share * total
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1.0, total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def spread(total: int, count: int, first: int = 20) -> list[int]:
    """About `count` steps up to `total`, from `first` on in equal ratios: most of the learning is early."""
    if count < 1 or total < 1:
        return []
    first = min(first, total)
    ratios = [i / max(1, count - 1) for i in range(count)]
    return sorted({round(first * (total / first) ** ratio) for ratio in ratios} | {total})
