"""Memory of a training process: what it keeps for its next step, and how much it took."""

import ctypes
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's `M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` (mallopt(3))."""
_NEVER, _GIB = -1, 1 << 30
OUT_OF_MEMORY = (
    "the memory is full: the same batch in more pieces (--optimizer.accumulate 2) takes half of it; "
    "a smaller --batch-size or --image-size less still"
)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch could not allocate a tensor, on a GPU or in main memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def keep_freed_memory() -> bool:
    """Tell glibc not to hand freed memory back to the kernel after each step, for as long as the process lives.

    Every step frees and allocates the same activations and gradients. By default glibc unmaps them, and the kernel maps
    and clears new pages: tens of thousands of page faults a step for a small model on a CPU.

    Returns:
        whether that was possible: other C libraries have no such setting, and need none.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, _GIB)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))


def peak_memory(device: torch.device) -> float | None:
    """GiB that this process has held at most: on a GPU what PyTorch has allocated there, else in main memory.

    None where the system does not tell: only Linux does.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        # Not `getrusage`, whose peak a process inherits from the one that started it.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM")), None)
