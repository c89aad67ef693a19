"""Randomness as a pure function of a seed and of what it is for: nothing to save, so a run resumes exactly."""

import numpy as np
import torch


def mixed(seed: int, *purpose: int) -> int:
    """A 64-bit seed from a run's seed and numbers that say what it is for (a stream, a step, ...).

    Uses NumPy's `SeedSequence`, so that neighbouring steps or seeds give unrelated streams.
    """
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1, np.uint64)[0] >> 1)


def generator(seed: int, *purpose: int) -> torch.Generator:
    """A CPU generator seeded with `mixed`."""
    return torch.Generator().manual_seed(mixed(seed, *purpose))
