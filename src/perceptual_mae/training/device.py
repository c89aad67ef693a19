"""Where a run computes, and in which precision: accelerate set up from the settings."""

import os
import platform
import re
import shutil
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

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
    # Accelerate remembers the first precision it was given for the life of the process; a notebook has many runs.
    AcceleratorState._reset_state()
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


def is_lost_process(error: RuntimeError) -> bool:
    """Whether what several processes did together failed because one of them is not there any more."""
    gloo = "gloo" in str(error) and re.search("onnection|imed out|eer", str(error)) is not None
    return isinstance(error, torch.distributed.DistError) or gloo


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
