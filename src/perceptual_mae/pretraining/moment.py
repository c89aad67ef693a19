"""What an observer of a run is shown: pictures, validation and monitors hang on here, from the floors above."""

from dataclasses import dataclass
from typing import Protocol

from perceptual_mae.data import Source
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.training.schedule import Clock


@dataclass(frozen=True)
class Moment:
    """A run between two steps.

    Attributes:
        clock: its step is the number of steps done.
        total: steps of the whole run.
        model: the network that is trained; an observer leaves it as it found it.
        train: the training images.
        validation: the validation images, where there are any.
        run: the run's folder and configuration.
    """

    clock: Clock
    total: int
    model: MaskedAutoencoder
    train: Source
    validation: Source | None
    run: RunFolder

    @property
    def step(self) -> int:
        """Steps done."""
        return self.clock.step


class Observer(Protocol):
    """Looks at a run now and then and may return numbers for its log. Draws on no random state but its own."""

    def due(self, moment: Moment) -> bool:
        """Whether to look now; a function of the step alone, so that a resumed run logs as an uninterrupted one."""
        ...

    def __call__(self, moment: Moment) -> dict[str, float]:
        """Look, and return named numbers for the line of `metrics.jsonl`."""
        ...


def every_epochs(moment: Moment, epochs: float) -> bool:
    """Whether a multiple of `epochs` epochs ends here, or the run does; 0 is never."""
    if epochs <= 0 or moment.step == 0:
        return False
    interval = max(1, round(epochs * moment.clock.steps_per_epoch))
    return moment.step % interval == 0 or moment.step == moment.total
