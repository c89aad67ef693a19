"""How a game of generator and discriminator stands, in words: read off what was logged, by the loop and by reports."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

LONG = 10
"""Log lines that must agree before a game is called lost: noise is over sooner."""
CERTAIN = 0.99
"""Share of right verdicts from which a discriminator counts as saturated..."""
SILENT = 0.01
"""...and its gradient on the reconstruction, relative to that of the pixel loss, up to which it counts as vanished."""
GUESSING = 0.52
"""Share of right verdicts up to which a discriminator only guesses."""


@dataclass(frozen=True)
class Health:
    """The state of a game.

    Attributes:
        state: `balanced`; `collapsed`: the discriminator knows everything and has nothing more to say to the
            generator; `guessing`: it cannot tell real from generated.
        words: a sentence or two for the user.
    """

    state: Literal["balanced", "collapsed", "guessing"]
    words: str


def health(records: Iterable[Mapping[str, Any]]) -> Health | None:
    """How the game stood in the last log lines; None without an adversary, or before there is enough to tell.

    Args:
        records: lines of `metrics.jsonl`, oldest first.
    """
    keys = ("d_real", "d_fake", "d_accuracy", "pull/pixels", "pull/adversarial", "pull_share/adversarial")
    told = [[float(record[key]) for key in keys] for record in records if all(key in record for key in keys)]
    if not told:
        return None
    recent = told[-LONG:]
    real, fake, accuracy, pixels, network, counts = (sum(column) / len(recent) for column in zip(*recent, strict=True))
    weight = counts * network
    share = weight / (weight + pixels) if weight + pixels else 0.0
    scores = f"D(real) {real:.2f} and D(fake) {fake:.2f}, right in {accuracy:.0%} of its verdicts"
    if len(recent) == LONG and all(line[2] > CERTAIN and line[4] < SILENT * line[3] for line in recent):
        return Health(
            "collapsed",
            f"The game has collapsed: for {LONG} log lines the discriminator has told every real image from every "
            f"generated one ({scores}), and its gradient on the reconstruction is {share:.1%} of the whole: the "
            "generator learns from the pixel loss alone. A lower --discriminator.lr, a smaller "
            "--discriminator.channel-base or a larger --discriminator.r1-gamma (with another --out) may help.",
        )
    if len(recent) == LONG and all(line[2] < GUESSING for line in recent):
        return Health(
            "guessing",
            f"The discriminator has only guessed for {LONG} log lines ({scores}): the generator hears noise. "
            "A higher --discriminator.lr or a larger --discriminator.channel-base (with another --out) may help.",
        )
    return Health(
        "balanced",
        f"The game is balanced: {scores}. Of the gradient on the reconstruction {share:.0%} comes through it.",
    )
