"""What a person needs to know of their machine before a run: versions, devices, what is missing and how to get it."""

import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import dataclass

from perceptual_mae import __version__

REQUIRED = ("torch", "torchvision", "timm", "accelerate", "datasets", "safetensors", "pillow", "jsonargparse")
OPTIONAL = {
    # module: (what it is for, the line that installs it)
    "tensorboard": ("curves in TensorBoard", "pip install tensorboard"),
    "faster_coco_eval": ("detection: average precision", "pip install 'perceptual-mae[detection]'"),
    "pycocotools": ("detection: COCO's masks", "pip install 'perceptual-mae[detection]'"),
    "transformers": (
        "segmentation: UperNet; export to it",
        "pip install 'perceptual-mae[segmentation]'",
    ),
    "gradio": ("the local page, pmae app", "pip install 'perceptual-mae[app]'"),
    "onnxruntime": ("pmae export --to onnx", "pip install 'perceptual-mae[onnx]'"),
    "wandb": ("--log.trackers wandb", "pip install 'perceptual-mae[trackers]'"),
    "mlflow": ("--log.trackers mlflow", "pip install 'perceptual-mae[trackers]'"),
    "trackio": ("--log.trackers trackio", "pip install 'perceptual-mae[trackers]'"),
    "tifffile": ("TIFF images with many channels", "pip install tifffile"),
}


@dataclass(frozen=True)
class Finding:
    """A line of the doctor's report.

    Attributes:
        topic: what it is about.
        found: what was found.
        advice: what to do, if anything.
    """

    topic: str
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at versions, devices, compilers and optional packages."""
    findings = [
        Finding("perceptual-mae", __version__),
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
    ]
    findings += [_package(name) for name in REQUIRED]
    findings += _devices()
    findings += [_optional(name, *row) for name, row in OPTIONAL.items()]
    return findings


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", f"pip install {name}")


def _optional(module: str, purpose: str, line: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(module, f"not installed ({purpose})", line)
    return Finding(module, f"{_package(module).found} ({purpose})")


def _devices() -> list[Finding]:
    import torch

    from perceptual_mae.training.device import find_compiler

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    findings = [
        Finding("CPU", f"{cores} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    ]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            findings.append(Finding(f"GPU {index}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {bf16}"))
    elif torch.version.cuda:
        findings.append(Finding("GPU", "none found", "with an NVIDIA card, check that `nvidia-smi` works"))
    else:
        findings.append(Finding("GPU", "this PyTorch is built without CUDA", "reinstall torch for your GPU"))
    compiler = find_compiler()
    missing = Finding("C++ compiler", "none (needed only for --compile true on a CPU)", "apt install g++")
    return [*findings, Finding("C++ compiler", compiler) if compiler else missing]
