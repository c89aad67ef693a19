"""An evaluation, part by part, in a folder.

Each part is written to `results.json` as soon as it is measured, under a key of everything that it depends on: an
evaluation that was interrupted goes on, and one that is repeated with another flag measures only what is new.
"""

import json
import os
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perceptual_mae import __version__
from perceptual_mae.credentials import without_credentials
from perceptual_mae.data import fixed_images
from perceptual_mae.encoders.open import Opened
from perceptual_mae.errors import UsageError
from perceptual_mae.evaluation.config import EvaluateConfig
from perceptual_mae.evaluation.reconstruction import look
from perceptual_mae.evaluation.scores import NothingToClassify
from perceptual_mae.files import alone
from perceptual_mae.measure.parts import Measurements, mask_ratio
from perceptual_mae.measure.results import Results, picture_of
from perceptual_mae.measure.subject import Images, open_images, open_subject
from perceptual_mae.measure.telling import telling
from perceptual_mae.paths import folder_name, user_path
from perceptual_mae.pretraining.folder import is_run
from perceptual_mae.report.confusion import confusion_figure
from perceptual_mae.report.evaluation import summary
from perceptual_mae.report.figures import reconstruction_grid, save
from perceptual_mae.training.device import choose_device
from perceptual_mae.training.memory import keep_freed_memory

PICTURED = 8
"""Images in the picture of reconstructions."""


def evaluate(
    config: EvaluateConfig,
    console: Console | None = None,
    *,
    val_data: str | None = None,
    max_pixels: int | None = None,
) -> Path:
    """Measure an encoder on a person's images; what was measured before, the same way, is not measured again.

    Args:
        config: what to measure, and on what.
        console: where it is shown how far it is; None: nowhere.
        val_data: images to test on, see `open_images`.
        max_pixels: larger images are skipped unread; default: those that are too large for the encoder, see `Opened`.

    Returns:
        the folder with `results.json`, `results.md` and pictures.

    Raises:
        UsageError: settings that cannot be right.
        PmaeError: an encoder or images that cannot be had.
    """
    config.check()
    console = console or Console(quiet=True)
    if choose_device(config.device) == "cpu":
        keep_freed_memory()
    subject = open_subject(config)
    if max_pixels is not None:
        subject = replace(subject, max_pixels=max_pixels)
    images = open_images(config, subject, val_data)
    folder = results_folder(config)
    # Two that write the same results would each keep its own parts alone.
    with alone(folder / ".lock", f"--out {folder}"), telling(console) as tell:
        measurements = Measurements(config, subject, images, folder, tell)
        results = Results.open(folder)
        results.begin(describe(config, subject, images), missing(config, subject, images), measurements)
        for line in (f"{subject.encoder.name}: {subject.matched}", *results.content["notes"]):
            console.print(line, highlight=False, markup=False)
        kept = f"to {results.beside.name}; --out FOLDER keeps both"
        if results.let_go:
            names = ", ".join(sorted(results.let_go))
            said = f"{names} in {folder} are of other images, weights or image size: they go {kept}"
            console.print(said, highlight=False, markup=False)
        for part in measurements:
            if results.has(part):
                continue
            if results.replaces(part):
                said = f"{part.name} in {folder} was measured another way: it goes {kept}"
                console.print(said, highlight=False, markup=False)
            started = time.monotonic()
            tell(f"{part.name}: {images.spec}", 0, 0)
            try:
                results.add(part, part.measure(), time.monotonic() - started)
            except NothingToClassify as reason:
                results.leave_out(part, str(reason))
        results.write()
        draw(results.content, subject, images, config, folder)
    return folder


def results_folder(config: EvaluateConfig) -> Path:
    """Where an evaluation is written.

    Raises:
        UsageError: the name is taken by a file.
    """
    if config.out is not None:
        folder = user_path(config.out)
    elif is_run(run := user_path(config.encoder)):
        folder = run / "evaluation"
    else:
        folder = folder_of(Path("evaluation"), config.encoder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder}: this is a file; name a folder")
    return folder


def folder_of(parent: Path, spec: str) -> Path:
    """The folder in `parent` for results of an encoder: named like it, with a hash where those of another one are."""
    folder = parent / folder_name(spec)
    found = measured_in(folder)
    if found is None or _as_path(found) == _as_path(without_credentials(spec)):
        return folder
    return folder.with_name(f"{folder.name}-{sha256(spec.encode()).hexdigest()[:8]}")


def measured_in(folder: Path) -> str | None:
    """The encoder that the results in a folder are of, as it was typed; None: there are none."""
    try:
        return str(json.loads((folder / "results.json").read_text(encoding="utf-8"))["encoder"]["spec"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _as_path(spec: str) -> str:
    """The same for every way to write the path of a file."""
    return os.path.abspath(os.path.expanduser(spec))


def table(folder: Path) -> Table:
    """The short table of an evaluation, for a terminal."""
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    shown = Table(box=None, pad_edge=False, show_header=False)
    for name, value, of in summary(content):
        shown.add_row(Text(name), Text(value, "bold"), Text(of, "dim"))
    return shown


def describe(config: EvaluateConfig, subject: Opened, images: Images) -> dict[str, Any]:
    """What was measured, for the reader of the numbers."""
    encoder, run = subject.encoder, subject.run
    return {
        "version": __version__,
        "encoder": {
            "spec": without_credentials(config.encoder),
            "name": encoder.name,
            "method": run.config.method if run else None,
            "matched": subject.matched,
            "parameters": encoder.parameter_count,
            "embed_dim": encoder.embed_dim,
            "depth": encoder.depth,
            "patch_size": encoder.patch_size,
            "image_size": list(encoder.image_size),
        },
        "data": {
            "spec": without_credentials(images.spec),
            "train_images": len(images.train) if images.train is not None else 0,
            "test_images": len(images.test),
            "test": images.split,
            "classes": list(images.train.classes) if images.train is not None else [],
        },
    }


def missing(config: EvaluateConfig, subject: Opened, images: Images) -> list[str]:
    """What is not measured although it was asked for, and why."""
    notes = list(images.notes) if {"knn", "linear"} & set(config.parts) else []
    if "reconstruction" in config.parts and subject.autoencoder is None:
        notes.append("reconstruction is left out: it takes a decoder, which only a run folder has")
    return notes


def draw(content: dict[str, Any], subject: Opened, images: Images, config: EvaluateConfig, folder: Path) -> None:
    """Pictures beside the numbers: what the model makes of masked images, and who is taken for whom."""
    model = subject.autoencoder
    if model is not None and "reconstruction" in config.parts:
        some, names = fixed_images(
            images.test,
            PICTURED,
            image_size=model.image_size,
            channels=model.in_channels,
            max_pixels=subject.max_pixels,
            seed=config.seed,
        )
        seen = look(model, some, mask_ratio(config, subject), config.seed)
        figure = reconstruction_grid(seen.originals, seen.masks, seen.reconstructions, seen.pasted, captions=names)
        save(figure, folder / picture_of("reconstruction"))
    for name, part in content["parts"].items():
        if name.startswith("linear/") and images.train is not None:
            figure = confusion_figure(torch.tensor(part["result"]["confusion"]), images.train.classes)
            save(figure, folder / picture_of(name))
