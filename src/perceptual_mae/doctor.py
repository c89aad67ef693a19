"""What a person needs to know of their machine before a run: versions, devices, what is missing and how to get it."""

import importlib.metadata
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass

from perceptual_mae import __version__

SHOWN = ("torch", "torchvision", "timm", "accelerate", "datasets", "safetensors", "pillow", "jsonargparse")
"""Packages whose version is always shown; of the others that the project needs, those that are missing."""
EXTRAS = {
    "detection": "pmae finetune detection",
    "segmentation": "pmae finetune segmentation",
    "transformers": "pmae export --to transformers",
    "onnx": "pmae export --to onnx",
    "app": "pmae app",
    "trackers": "--log.trackers",
    "stream": "shards on S3 and Google Cloud",
}
"""What each extra of the package is for."""


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
    needed = requirements()
    findings += [_package(name) for name in SHOWN]
    findings += [_package(name) for name in needed[""] if name not in SHOWN and version_of(name) is None]
    findings += _devices()
    findings += [_extra(extra, needed.get(extra, []), purpose) for extra, purpose in EXTRAS.items()]
    return findings


def requirements() -> dict[str, list[str]]:
    """What the installed package declares: packages by extra; under the empty name what it always needs."""
    found: dict[str, list[str]] = {"": []}
    for line in importlib.metadata.requires("perceptual-mae") or []:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"]([\w.-]+)", line)
        assert name is not None
        found.setdefault(extra[1] if extra else "", []).append(name[0])
    return found


def version_of(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Finding:
    version = version_of(name)
    return Finding(name, version) if version else Finding(name, "missing", f"pip install {name}")


def _extra(extra: str, names: Sequence[str], purpose: str) -> Finding:
    """The packages of an extra, and the line that installs those that are missing."""
    versions = {name: version_of(name) for name in names}
    there = [f"{name} {version}" for name, version in versions.items() if version]
    missing = [name for name, version in versions.items() if not version]
    found = ", ".join(there + [f"{name} not installed" for name in missing])
    return Finding(f"[{extra}]", f"{found} ({purpose})", f"pip install 'perceptual-mae[{extra}]'" if missing else "")


def _devices() -> list[Finding]:
    import torch

    from perceptual_mae.data import cores
    from perceptual_mae.training.device import find_compiler, has_bf16

    own = f"{cores()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    findings = [Finding("CPU", own)]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if has_bf16("cuda") else "no bf16"
            findings.append(Finding(f"GPU {index}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {bf16}"))
    elif torch.version.cuda:
        findings.append(Finding("GPU", "none found", "with an NVIDIA card, check that `nvidia-smi` works"))
    else:
        findings.append(Finding("GPU", "this PyTorch is built without CUDA", "reinstall torch for your GPU"))
    compiler = find_compiler()
    missing = Finding("C++ compiler", "none (needed only for --compile true on a CPU)", "apt install g++")
    return [*findings, Finding("C++ compiler", compiler) if compiler else missing]
