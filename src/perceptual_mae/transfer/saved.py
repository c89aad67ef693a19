"""A fine-tuned network as one file: weights, and in the metadata everything that builds the network again."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models import VisionTransformer

from perceptual_mae import __version__
from perceptual_mae.encoders.fit import fit
from perceptual_mae.errors import PmaeError, UsageError, printable
from perceptual_mae.files import write_atomically
from perceptual_mae.models.task_network import TaskNetwork
from perceptual_mae.paths import user_path
from perceptual_mae.pretraining.folder import is_run
from perceptual_mae.transfer.folder import MODEL
from perceptual_mae.transfer.task import Learnt
from perceptual_mae.weight_files import encoder_metadata

_LARGEST = 100_000
"""Classes, channels, pixels of a side or layers of a network; it has far fewer."""
_LABELS = ("category_ids", "max_pixels")
"""Of a description: integers that nothing is built of."""


def save_finetuned(learnt: Learnt, path: Path, measured: Mapping[str, float]) -> Path:
    """Write a fine-tuned network; `measured` is what was measured of it."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in learnt.network.state_dict().items()}
    metadata = {
        "format": "pt",
        "perceptual_mae": __version__,
        "task": learnt.task,
        "classes": json.dumps(learnt.classes),
        "description": json.dumps(learnt.description),
        "measured": json.dumps(dict(measured)),
    }
    return write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def save_encoder(network: TaskNetwork, description: Mapping[str, Any], path: Path) -> None:
    """Write the encoder of a fine-tuned network under timm's names, if it is a plain Vision Transformer."""
    encoder = network.encoder
    if not isinstance(encoder, VisionTransformer):
        return
    heads = ("head.", "fc_norm.")
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in encoder.state_dict().items()
        if not name.startswith(heads)
    }
    size, mean, std = (description[name] for name in ("image_size", "mean", "std"))
    first: Any = encoder.blocks[0]
    metadata = encoder_metadata(size, mean, std, first.attn.num_heads)
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_finetuned(path: Path | str, device: str | torch.device = "cpu") -> Learnt:
    """A fine-tuned network, ready to predict.

    Args:
        path: a run of `pmae finetune`, of which the best network is taken, or a file that it wrote.
        device: where it computes.

    Raises:
        UsageError: there is no such run or file, or it is of another kind.
        PmaeError: it is damaged.
    """
    path = user_path(path)
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        if is_run(path):
            raise UsageError(f"{path} is a run of `pmae pretrain`: teach its encoder a task with `pmae finetune` first")
        if path.is_dir() and (path / "config.yaml").is_file():
            raise UsageError(f"{path} holds no fine-tuned network yet: its first evaluation writes {MODEL}")
        raise UsageError(f"{path} is no run of `pmae finetune` and no file that one wrote")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError) as error:
        raise PmaeError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    task = metadata.get("task")
    if task not in _builders():
        raise UsageError(f"{file} holds no fine-tuned network: give the {MODEL} of a run of `pmae finetune`")
    try:
        description = json.loads(metadata["description"])
        _check_labels([*description.get("category_ids", []), description.get("max_pixels", 1)])
        _check_numbers({name: value for name, value in description.items() if name not in _LABELS})
        network = _builders()[task](description)
        fit(network, tensors)
        classes = tuple(map(str, json.loads(metadata["classes"])))
    except Exception as error:  # what timm makes of a description that is none is anybody's guess
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PmaeError(f"{file} is damaged: {printable(reason)[:200]}") from error
    network.eval().requires_grad_(False)
    return Learnt(task, network.to(device), classes, description)


def _check_labels(numbers: list[Any]) -> None:
    """Raises ValueError where one is no integer of 64 bits."""
    for number in numbers:
        if type(number) is not int or abs(number) >= 2**63:
            raise ValueError(f"{' or '.join(_LABELS)} in its description holds {number!r}, no integer of 64 bits")


def _check_numbers(description: Any) -> None:
    """Refuse what would keep timm building for days: a network of millions of blocks.

    Raises:
        ValueError: there is such a number.
    """
    if isinstance(description, dict | list):
        for part in description.values() if isinstance(description, dict) else description:
            _check_numbers(part)
    elif isinstance(description, int | float) and not abs(description) <= _LARGEST:
        raise ValueError(f"a number in its description is larger than {_LARGEST}")


def _builders() -> dict[str, Callable[[Mapping[str, Any]], TaskNetwork]]:
    """By task, what builds a network of a description; each imports what it needs when it is asked."""

    def classifier(description: Mapping[str, Any]) -> TaskNetwork:
        from perceptual_mae.models.classifier import Classifier

        return Classifier.from_description(description)

    def detector(description: Mapping[str, Any]) -> TaskNetwork:
        from perceptual_mae.models.detector import Detector

        return Detector.from_description(description)

    def segmenter(description: Mapping[str, Any]) -> TaskNetwork:
        from perceptual_mae.transfer.segmentation import segmenter_class

        return segmenter_class().from_description(description)

    return {"classification": classifier, "detection": detector, "segmentation": segmenter}
