"""Randomness as a pure function of a seed and of what it is for: nothing to save, so a run resumes exactly."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What random numbers are for: each purpose has a stream of its own for every seed."""

    PERMUTATION = 1
    CROPS = 2
    STAND_INS = 3
    PICTURES = 4
    MASKS = 5
    STEP = 6
    EVALUATION_MASKS = 7
    SAMPLE = 8
    DISCRIMINATOR = 9
    AUGMENTATION = 10
    PATH_LENGTH = 11
    HELD_OUT = 12
    VIEWS = 13
    LABELLED_VIEWS = 14
    MIXING = 15
    HEAD = 16
    UNITS = 17
    WINDOWS = 18
    SHARDS = 19


def mixed(seed: int, stream: Stream, *place: int) -> int:
    """A 63-bit seed from a run's seed, a stream, and numbers that say where in it (an epoch, a step, ...).

    Uses NumPy's `SeedSequence`, so that neighbouring steps or seeds give unrelated numbers.
    """
    words = [number & 0xFFFFFFFFFFFFFFFF for number in (seed, stream, *place)]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 1


def generator(seed: int, stream: Stream, *place: int) -> torch.Generator:
    """A CPU generator for PyTorch, seeded with `mixed`."""
    return torch.Generator().manual_seed(mixed(seed, stream, *place))


def permutation(length: int, seed: int, stream: Stream, *place: int) -> np.ndarray:
    """A permutation of `length` numbers, int64."""
    return np.random.default_rng(mixed(seed, stream, *place)).permutation(length)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, the generators of Python, NumPy and PyTorch (on the CPU) start from a seed; after, they are as before.

    For other people's augmentations, which draw from them.
    """
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  (it is theirs that is drawn from)
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
