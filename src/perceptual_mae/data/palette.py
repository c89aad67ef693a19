"""Colours of classes: the same in a mask that is written and in a picture that shows it."""

import numpy as np

# After Sasha Trubetskoy's twenty simple, distinct colours; those that are told apart best come first.
_BASE = (
    "4363d8 f58231 3cb44b e6194b 911eb4 42d4f4 ffe119 f032e6 9a6324 469990 "
    "bfef45 fabed4 000075 800000 aaffc3 00552b b388ff 5c7000 fff3b0 a9a9a9"
)


def class_colours(count: int) -> np.ndarray:
    """A colour for each of `count` classes, `(count, 3)` uint8.

    Twenty are told apart well. The next twenty are darker, twenty more are paler; then they begin anew.
    """
    base = np.array([list(bytes.fromhex(colour)) for colour in _BASE.split()], np.float64)
    rounds = np.concatenate([base, 0.6 * base, 127.5 + 0.5 * base])
    return np.rint(rounds[np.arange(count) % len(rounds)]).astype(np.uint8)
