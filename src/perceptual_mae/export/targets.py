"""The formats in which an encoder leaves the house, as data."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perceptual_mae.export import onnx_format, program, timm_format, transformers_format, vit_mae, weights_file
from perceptual_mae.export.check import Check
from perceptual_mae.export.source import Source


@dataclass(frozen=True)
class Target:
    """A format.

    Attributes:
        write: fills a folder; of `safetensors`, which is one file, writes it.
        check: opens what was written with the target's library and compares it with ours.
        needs: libraries that not everybody has.
        extra: of this package, which installs them.
        refuse: raises a `UsageError` for an encoder that the format has no place for.
        notes: what of the source it has no place for, a sentence each.
        is_file: whether it is one file and no folder.
    """

    write: Callable[[Source, Path], None]
    check: Callable[[Source, Path], list[Check]]
    needs: tuple[str, ...] = ()
    extra: str = ""
    refuse: Callable[[Source], None] = lambda source: None
    notes: Callable[[Source], list[str]] = lambda source: []
    is_file: bool = False


def _without_decoder(source: Source) -> list[str]:
    why = vit_mae.why_not(source)
    return [f"Without {vit_mae.FOLDER}, which draws reconstructions: {why}."] if why else []


def _check_timm(source: Source, folder: Path) -> list[Check]:
    return [*timm_format.check(source, folder), *weights_file.check(source, folder / timm_format.WEIGHTS)]


TARGETS: dict[str, Target] = {
    "timm": Target(timm_format.write, _check_timm),
    "safetensors": Target(weights_file.write, weights_file.check, is_file=True),
    "transformers": Target(
        transformers_format.write,
        transformers_format.check,
        needs=("transformers",),
        extra="transformers",
        refuse=transformers_format.refuse,
        notes=_without_decoder,
    ),
    "onnx": Target(onnx_format.write, onnx_format.check, needs=("onnx", "onnxscript", "onnxruntime"), extra="onnx"),
    "torch-export": Target(program.write, program.check),
    "hub": Target(timm_format.write, _check_timm),
}
