"""Where a run computes, and in which precision: accelerate set up from the settings."""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import distributed

from perceptual_mae.errors import UsageError


def make_accelerator(device: str, precision: str, *, compiled: bool = False) -> Accelerator:
    """Accelerate's view of this process, also under `torchrun` and `accelerate launch`.

    Args:
        device: auto, cpu or cuda.
        precision: auto, fp32 or bf16.
        compiled: whether the run is to be compiled.

    Raises:
        UsageError: the device or precision that was asked for is not there.
    """
    device = choose_device(device)
    precision = choose_precision(precision, device)
    if compiled and device == "cpu" and not find_compiler():
        raise UsageError("--compile true: there is no C++ compiler here (apt install g++); leave it out")
    # Accelerate remembers the first device and precision it was given for the life of the process; a notebook has many
    # runs. Where processes have met they stay together, on their device.
    AcceleratorState._reset_state(reset_partial_state=not (distributed.is_available() and distributed.is_initialized()))
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        step_scheduler_with_optimizer=False,
        # One process evaluates while the others wait: PyTorch's ten minutes are too few for a large validation set.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],
    )


def choose_device(asked: str) -> str:
    """`cpu` or `cuda`.

    Raises:
        UsageError: there is no such device.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no GPU here; try --device cpu, or `pmae doctor` to see why")
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return asked


def choose_precision(asked: str, device: str) -> str:
    """`fp32` or `bf16`: on GPUs that have it bf16 is faster at no cost in quality; on a CPU only large models gain.

    Raises:
        UsageError: the GPU has no bf16.
    """
    if asked == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    if asked == "bf16" and device == "cuda" and not has_bf16(device):
        raise UsageError("--precision bf16: this GPU does not have it; use --precision fp32")
    return asked


def has_bf16(device: str) -> bool:
    """Whether a device, `cuda` or another, is a GPU that computes in bf16; those before Ampere emulate it, slowly."""
    return device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@contextmanager
def tf32_products(accelerator: Accelerator) -> Iterator[None]:
    """Within, a GPU that computes in bf16 takes matrix products of float32 in TF32, as convolutions are by default.

    Factors are rounded to 10 bits behind the point, sums stay float32. What a step in bf16 keeps in float32 is a
    tenth as fast without it: Gram matrices, whose factors are bf16 numbers, which TF32 holds exactly, and path lengths
    (see `losses.path_length.EPSILON`). A run in fp32 is left alone.
    """
    if accelerator.device.type != "cuda" or accelerator.mixed_precision != "bf16":
        yield
        return
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # somebody has chosen by the newer settings of PyTorch, which do not mix with these
        yield
        return
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def find_compiler() -> str | None:
    """The C++ compiler that `torch.compile` would use on a CPU."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)


def describe_machine(accelerator: Accelerator) -> dict[str, Any]:
    """Facts about the machine for `run.json`."""
    if accelerator.device.type == "cuda":
        device = torch.cuda.get_device_name(accelerator.device)
    else:
        device = f"{_processor()}, {torch.get_num_threads()} threads"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": f"{accelerator.device.type} ({device})",
        "precision": "bf16" if accelerator.mixed_precision == "bf16" else "fp32",
        "processes": accelerator.num_processes,
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # no Linux: the name that Python knows will do
    return platform.processor() or platform.machine()
