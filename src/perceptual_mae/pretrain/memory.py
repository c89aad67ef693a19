"""Memory that a training process keeps for its next step."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's `M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` (mallopt(3))."""
_NEVER, _GIB = -1, 1 << 30


def keep_freed_memory() -> bool:
    """Tell glibc not to hand freed memory back to the kernel after each step, for as long as the process lives.

    Every step frees and allocates the same activations and gradients. By default glibc unmaps them, and the kernel maps
    and clears new pages: tens of thousands of page faults a step for a small model on a CPU.

    Returns:
        whether that was possible: other C libraries have no such setting, and need none.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, _GIB)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
