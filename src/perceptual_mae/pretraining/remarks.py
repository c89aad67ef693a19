"""What of its settings a run cannot follow with the data that it has, in words. Imports no torch."""

from perceptual_mae.methods import METHODS
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.training.schedule import total_steps

FEW_STEPS = 1000
"""With fewer, random weights have hardly begun to learn: a linear probe is 4 points above them after 468 steps, and 11
after 3,588 (docs/results.md)."""
DARK = 0.02
"""Mean brightness below which most images are not as they are meant: 12-bit values in 16-bit files reach 1/16."""


def remarks(config: PretrainConfig, images: int, steps_per_epoch: int) -> list[str]:
    """Sentences for the user before a run begins; most often none.

    Args:
        config: of the run.
        images: that there are to learn from.
        steps_per_epoch: what a pass over them takes.
    """
    found = []
    if images < config.batch_size:
        found.append(
            f"There are fewer images ({images:,}) than --batch-size {config.batch_size:,}: each step has all of them, "
            "and an epoch is one step; lower it (the learning rate follows)."
        )
    every, total = config.losses.perceptual_every, total_steps(config.epochs, steps_per_epoch, config.max_steps)
    if any(term.patient for term in METHODS[config.method].terms) and total <= (every - 1) * steps_per_epoch:
        found.append(
            f"{config.method} matches features in epochs divisible by {every}, and this run ends before the first of "
            "them: they never are; --losses.perceptual-every 1 matches them from the beginning."
        )
    if total < FEW_STEPS and config.max_steps is None and config.init is None:
        found.append(
            f"This run has only {total:,} steps, in which little is learnt from random weights; a smaller --batch-size "
            "makes more of them out of the same images, and so do more --epochs."
        )
    return found


def remark_on_brightness(mean: float) -> list[str]:
    """A sentence for the user where images are nearly black.

    Args:
        mean: of some images, in [0, 1].
    """
    if mean >= DARK:
        return []
    return [
        f"The images are nearly black (mean brightness {mean:.2%}); if they should not be: 12-bit values in 16-bit "
        "files have to be brought to 0 .. 65535 first."
    ]
