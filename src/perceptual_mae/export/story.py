"""What a model card can say of an encoder: its data, its training, what was measured of it, and its pictures.

Cards are published. Of data on somebody's disk they name the last folder and nothing above it, and no address with what
is in its query; settings that are paths are left out.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from perceptual_mae.credentials import without_credentials
from perceptual_mae.evaluation.feature_cache import weights_digest
from perceptual_mae.export.source import Source
from perceptual_mae.methods import METHODS
from perceptual_mae.report.evaluation import summary
from perceptual_mae.report.results import read_results
from perceptual_mae.report.run_folder import RunRecord, is_finetuning, read_mapping, read_run
from perceptual_mae.report.words import compact, count, is_number, number

Row = tuple[str, str]
_DEEPEST = 3
"""Parts of an address that is no path on a disk: `hub:USER/NAME`."""


def data_name(spec: object) -> str:
    """What may be said of a data argument in public: `hub:USER/NAME` and plain names, of paths the last folder."""
    text = without_credentials(str(spec)).strip()
    kind, colon, rest = text.partition(":")
    if kind == "hub" and rest.count("/") < _DEEPEST:
        return text
    if "/" not in text and "\\" not in text:
        return text
    path = PurePosixPath((rest if colon else text).replace("\\", "/"))
    parts = [part for part in path.parts if part not in ("/", ".", "..", "~") and not _is_pattern(part)]
    last = parts[-1] if parts else "images"
    return f"{kind}:{last}" if kind in ("wds", "stream") else last


def _is_pattern(part: str) -> bool:
    """Whether a part of a path names files, such as `{000..099}.tar`, and no folder."""
    return any(mark in part for mark in "{}*?[]") or part.endswith((".tar", ".tgz"))


def read_record(source: Source) -> RunRecord | None:
    """The files of the run that an encoder comes from."""
    if source.folder is None:
        return None
    return read_run(source.folder, "predictions" if is_finetuning(source.folder) else "reconstruction")


def model_rows(source: Source) -> list[Row]:
    """The encoder itself."""
    encoder = source.encoder
    height, width = encoder.image_size
    network = source.plain_vit
    what = source.architecture.name
    if network is not None:
        heads = network.blocks[0].attn.num_heads
        what = f"Vision Transformer, width {encoder.embed_dim}, depth {encoder.depth}, {heads} heads"
    mean, std = source.pixels
    return [
        ("Encoder", what),
        ("Parameters", compact(encoder.parameter_count)),
        ("Images", f"{height} × {width} pixels, {count(encoder.in_channels)} channels"),
        ("A token stands for", f"{encoder.patch_size} × {encoder.patch_size} pixels, in {encoder.embed_dim} numbers"),
        ("Mean of pixels", ", ".join(f"{value:.4g}" for value in mean)),
        ("Deviation of pixels", ", ".join(f"{value:.4g}" for value in std)),
    ]


def data_rows(record: RunRecord) -> list[Row]:
    """What it was trained on."""
    config, data = record.config, record.section("data")
    rows = [("Trained on", data_name(config.get("data", "")))]
    if is_number(data.get("images")):
        rows.append(("Images", count(data["images"])))
    if is_number(data.get("validation_images")):
        rows.append(("Held out", f"{count(data['validation_images'])} images"))
    return rows


def training_rows(source: Source, record: RunRecord) -> list[Row]:
    """How it was trained: the settings that somebody needs to do it again."""
    return list(_pretraining(source, record) if source.run is not None else _finetuning(record))


def _pretraining(source: Source, record: RunRecord) -> Iterator[Row]:
    assert source.run is not None
    config, optimizer = source.run.config, source.run.config.optimizer
    method = METHODS[config.method]
    yield "Method", f"{config.method}: {method.summary}"
    yield "Autoencoder", method.row(config.architecture).generator
    if config.loss_network:
        kind, _, rest = config.loss_network.partition(":")
        yield "Loss network", f"{kind}:{rest.partition(':')[0]}" if kind == "timm" else "DALL-E's image tokeniser"
    yield "Steps", f"{count(source.step)} of {count(config.batch_size)} images"
    yield "Removed of each image", f"{config.mask_ratio:.0%} of the patches"
    yield "Targets", "patches normalised each by itself" if config.pixels.norm_pix_loss else "pixels"
    yield "Learning rate", number(config.learning_rate)
    yield "Optimiser", f"AdamW, betas {optimizer.betas}, weight decay {number(optimizer.weight_decay)}"
    low, high = config.crop.scale
    yield "Crops", f"{low:.0%} to {high:.0%} of an image, mirrored with probability {number(config.crop.flip)}"
    yield "Seed", count(config.seed)
    yield from _machine(record)


def _finetuning(record: RunRecord) -> Iterator[Row]:
    config = record.config
    yield "Task", f"{config.get('task', '')}; the head is not part of this export"
    if config.get("encoder"):
        yield "Began as", data_name(config["encoder"])
    for key, words in (
        ("epochs", "Epochs"),
        ("batch_size", "Images a step"),
        ("lr", "Learning rate"),
        ("seed", "Seed"),
    ):
        if is_number(config.get(key)):
            yield words, number(config[key])
    yield from _machine(record)


def _machine(record: RunRecord) -> Iterator[Row]:
    if record.info.get("precision"):
        yield "Precision", str(record.info["precision"])
    versions = [f"{name} {record.info[key]}" for name, key in _VERSIONS if record.info.get(key)]
    if versions:
        yield "Software", ", ".join(versions)


_VERSIONS = (("perceptual-mae", "version"), ("PyTorch", "torch"))


def measured(source: Source, record: RunRecord) -> tuple[str, list[tuple[str, str, str]]]:
    """What `pmae evaluate` or the fine-tuning measured, in a sentence and rows of (measure, value, of); often none."""
    if source.run is None:
        results = read_results(record.path, [])
        rows = [(name, number(value), "the network with its head") for name, value in results.metrics.items()]
        return "On the validation images, of the network that this encoder was the body of.", rows
    content = read_mapping(record.path / "evaluation" / "results.json", json.loads, [], "")
    try:
        rows, data = summary({"parts": _parts_of(source, content)}), content["data"]
        where = f"{data_name(data['spec'])}: {count(data['test_images'])} images ({data['test']})"
        learnt = f", learnt from {count(data['train_images'])} with labels" if data["train_images"] else ""
        return f"By pmae evaluate on {where}{learnt}.", rows
    except (KeyError, TypeError, AttributeError, ValueError):  # there is none, or it is damaged
        return "", []


def _parts_of(source: Source, content: Mapping[str, Any]) -> dict[str, Any]:
    """What of an evaluation was measured on the very weights that are exported: a run may have been trained further."""
    digest = weights_digest(source.encoder)
    # Those of before digests were written down name the step.
    step = re.search(r": step (\d+) of the run", content["encoder"]["matched"])
    same = step is not None and int(step[1]) == source.step
    same = same and tuple(content["encoder"]["image_size"]) == source.encoder.image_size
    found = {}
    for name, part in content["parts"].items():
        depends = part.get("depends") or {}
        weights = depends.get("weights", depends.get("model"))
        if same if weights is None else weights == digest:
            found[name] = part
    return found


def has_neighbours(rows: list[tuple[str, str, str]]) -> bool:
    """Whether k-NN is among what was measured, whose numbers are easily misread."""
    return any(name.startswith("k-NN") for name, _, _ in rows)


def pictures(record: RunRecord) -> Mapping[str, tuple[Path, str]]:
    """Pictures of the run, by the name that each is to have: the file and what it shows."""
    found: dict[str, tuple[Path, str]] = {}
    if record.pictures:
        last = record.pictures[-1]
        kind = last.path.name.partition("-")[0]
        what = "Reconstructions: original, masked, what is drawn" if kind == "reconstruction" else "Predictions"
        found[f"{kind}.png"] = (last.path, f"{what}, after {count(last.step)} steps")
    attention = record.path / "figures" / "attention.png"
    if attention.is_file():
        found["attention.png"] = (attention, "Where the encoder looks: attention of [CLS]")
    return found


def datasets(record: RunRecord | None) -> list[str]:
    """Data sets of the hub that it was trained on, as the hub calls them."""
    spec: Any = record.config.get("data") if record else None
    return [spec.split(":")[1]] if isinstance(spec, str) and spec.startswith("hub:") else []
