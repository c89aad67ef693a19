"""What the commands do, as functions: pre-train, draw reconstructions, write the report, run the demonstration."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from perceptual_mae import __version__
from perceptual_mae.credentials import without_credentials
from perceptual_mae.data import (
    Source,
    StreamSettings,
    first_readable,
    fixed_images,
    open_source,
    open_validation_or_all,
    to_float,
)
from perceptual_mae.encoders.initial import start_from
from perceptual_mae.errors import UsageError, said_of
from perceptual_mae.evaluation.reconstruction import expected_losses, look
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.models.cost import count_parameters, training_gflop
from perceptual_mae.models.masking import kept_patches
from perceptual_mae.observers import observers_for
from perceptual_mae.paths import user_path
from perceptual_mae.pretraining.build import build_model, trained_model
from perceptual_mae.pretraining.config import CropConfig, LogConfig, OptimizerConfig, PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.pretraining.loop import Trainer
from perceptual_mae.pretraining.remarks import remark_on_brightness, remarks
from perceptual_mae.report.figures import before_after_grid, reconstruction_grid, save
from perceptual_mae.report.finetuned import write_finetuned_report
from perceptual_mae.report.html import write_report
from perceptual_mae.report.run_folder import is_finetuning
from perceptual_mae.settings import to_dict
from perceptual_mae.training.device import choose_device, describe_machine
from perceptual_mae.training.trackers import track_picture
from perceptual_mae.training.whole import accelerator_for, open_until_the_end, train_and_report

EXPECTATION_IMAGES = 256
"""Images that the loss of a model that has learnt nothing is measured on."""


def pretrain(config: PretrainConfig, console: Console | None = None) -> Path:
    """Pre-train, or go on with the run that is in `config.out`.

    Returns:
        the run folder, with weights, metrics, figures and `report.html`.

    Raises:
        UsageError: settings that cannot be right, or a folder that belongs to another run.
        PmaeError: data that cannot be read, a loss that is not finite, an interruption (everything is saved).
    """
    accelerator = accelerator_for(config, compiled=config.compile)
    main = accelerator.is_main_process
    with accelerator.main_process_first():
        train, validation = open_data(config)
    run = RunFolder.claim(config, write=main)
    with open_until_the_end(run, accelerator):
        pictured, names = some_images(config, validation or train, config.log.picture_images)
        observers = observers_for(config.log, pictured, names, partial(track_picture, accelerator))
        trainer = Trainer(run, train, validation, accelerator, observers, console)
        said = "; ".join(filter(None, (trainer.resume(), begin(trainer))))
        if console is not None and main:
            source = without_credentials(config.data)
            what = f"{config.model} / {config.method} on {len(train):,} images of {source} -> {run.path}"
            told = remarks(config, len(train), trainer.plan.steps_per_epoch)
            told += remark_on_brightness(float(to_float(pictured).mean())) if len(pictured) else []
            console.print("\n".join(filter(None, (what, said, *told))), highlight=False, markup=False)
        model = trainer.whole_model()
        if model is not None:
            run.describe(**facts(trainer, model, train, validation, accelerator))
        train_and_report(trainer, partial(report, run.path))
    return run.path


def begin(trainer: Trainer) -> str:
    """Give a run that has no checkpoint the weights that it is to start from, where the settings name some.

    Returns:
        what was loaded, for the user.

    Raises:
        UsageError, PmaeError: see `encoders.initial.start_from`.
    """
    config = trainer.config
    if config.init is None or trainer.step:
        return ""
    with trainer.accelerator.main_process_first():  # the others find in the hub's cache what the first has fetched
        model, own = build_model(config), config.pixels.mean is not None or config.pixels.std is not None
        told = start_from(model, config.init, own_pixels=own)
    trainer.start_from(model)
    return told


def open_data(config: PretrainConfig) -> tuple[Source, Source | None]:
    """The training images, at least one of which can be read, and the validation images where there are any.

    Raises:
        UsageError, PmaeError: there is no such data, or nothing in it can be read.
    """
    channels, stream = config.pixels.channels, StreamSettings.of(config.loader)
    train = open_source(config.data, "train", channels=channels, stream=stream)
    if train is None:
        raise UsageError(f"--data {config.data}: there are no training images")
    first_readable(train, channels, config.loader.max_pixels)
    if config.val_data is None:
        validation = open_source(config.data, "validation", channels=channels, stream=stream)
    else:
        with said_of("--val-data"):
            validation = open_validation_or_all(config.val_data, channels=channels, stream=stream)
    if config.log.knn_every and not (train.classes and validation is not None and validation.classes):
        raise UsageError("--log.knn-every: k-NN needs training and validation images with labels; this data has none")
    return train, validation


def some_images(config: PretrainConfig, source: Source, count: int) -> tuple[Tensor, list[str]]:
    """A choice of images that depends on the seed alone: `(n, C, H, W)` uint8, and their names."""
    return fixed_images(
        source,
        count,
        image_size=config.size,
        channels=config.pixels.channels,
        seed=config.seed,
        max_pixels=config.loader.max_pixels,
    )


def facts(
    trainer: Trainer, model: MaskedAutoencoder, train: Source, validation: Source | None, accelerator: Accelerator
) -> dict[str, Any]:
    """`run.json`: what a reader of the report wants to know beside the settings."""
    config = trainer.config
    losses = [(term.name, term.loss) for term in trainer.take_step.terms if term.through == "pixels"]
    sample, _ = some_images(config, validation or train, EXPECTATION_IMAGES)
    opponents = [name for name in trainer.players if name != "model"]
    with torch.device("meta"):  # nothing is allocated or initialised; and the model in training may be compiled
        shape_only = build_model(config)
    return {
        "version": __version__,
        **describe_machine(accelerator),
        "model": {
            "name": config.model,
            "parameters": count_parameters(model),
            "encoder_parameters": sum(t.numel() for t in model.encoder_state_dict().values()) - model.pos_embed.numel(),
            "gflop_per_image": round(training_gflop(shape_only, config.mask_ratio), 4),
            "grid": list(model.grid),
            "tokens": model.num_patches,
            "visible_tokens": kept_patches(model.num_patches, config.mask_ratio),
            **{f"{name}_parameters": count_parameters(trainer.players[name].module) for name in opponents},
        },
        "data": {
            "images": len(train),
            "validation_images": len(validation) if validation is not None else 0,
            "classes": list(train.classes),
            "pictures_from": "training" if validation is None else "validation",
        },
        "expected": expected_losses(model, sample, losses, config.mask_ratio),
        "steps": trainer.total,
        "state": "running",
        "message": "",
    }


def report(run: Path | str) -> Path:
    """Write `report.html` of a run folder anew, of a pre-training run or of a fine-tuning run.

    Raises:
        UsageError: it is no run folder.
    """
    folder = user_path(run)
    if is_finetuning(folder):
        return write_finetuned_report(folder)
    return write_report(folder, defaults=to_dict(PretrainConfig(data="")))


def reconstruct(
    run: Path | str,
    data: str | None = None,
    out: Path | str | None = None,
    count: int = 8,
    mask_ratio: float | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Write what `draw_reconstructions` draws to `out`, a PNG; default: `figures/reconstruct.png` in the run folder.

    Returns:
        the picture's path.

    Raises:
        UsageError, PmaeError: no run, no checkpoint, no readable image.
    """
    figure = draw_reconstructions(run, data, count, mask_ratio, seed, device)
    return save(figure, user_path(out) if out else RunFolder.read(run).figures / "reconstruct.png")


def draw_reconstructions(
    run: Path | str,
    data: str | None = None,
    count: int = 8,
    mask_ratio: float | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Figure:
    """Original / masked / reconstruction / pasted of some images (figure 2 of the paper).

    Args:
        run: a run folder.
        data: a data argument; default: the validation images of the run, or its training images.
        count: images.
        mask_ratio: share of patches removed; default: the run's.
        seed: of the choice of images and of the masks.
        device: auto, cpu or cuda.

    Raises:
        UsageError, PmaeError: no run, no checkpoint, no readable image.
    """
    folder = RunFolder.read(run)
    config = folder.config
    if count < 1:
        raise UsageError(f"--count {count}: must be at least 1")
    ratio = config.mask_ratio if mask_ratio is None else mask_ratio
    if not 0 <= ratio < 1:
        raise UsageError(f"--mask-ratio {ratio}: must lie between 0 and 1 (1 excluded)")
    model, _ = trained_model(folder)
    spec = data or config.val_data or config.data
    channels, limit = config.pixels.channels, config.loader.max_pixels
    source = open_validation_or_all(spec, channels=channels, stream=StreamSettings.of(config.loader))
    first_readable(source, channels, limit)
    images, names = fixed_images(source, count, image_size=config.size, channels=channels, seed=seed, max_pixels=limit)
    seen = look(model.to(choose_device(device)), images, ratio, seed)
    return reconstruction_grid(seen.originals, seen.masks, seen.reconstructions, seen.pasted, captions=names)


def demo_config(out: str) -> PretrainConfig:
    """The demonstration: `micro` on the built-in photographs, about three minutes on two CPU cores."""
    return PretrainConfig(
        data="photos",
        out=out,
        model="micro",
        image_size=64,
        patch_size=8,
        epochs=22,
        batch_size=64,
        lr=1.5e-3,
        save_every=250,
        optimizer=OptimizerConfig(warmup_epochs=2),
        crop=CropConfig(scale=(0.4, 1.0)),
        log=LogConfig(every=20, pictures=10, knn_every=5),
    )


def demo(out: str = "runs/demo", console: Console | None = None) -> Path:
    """Pre-train `micro` on real photographs and draw what it makes of hidden patches before and after.

    Returns:
        the run folder.
    """
    config = demo_config(out)
    path = pretrain(config, console)
    folder = RunFolder.read(path)
    train, validation = open_data(config)
    images, _ = some_images(config, validation or train, config.log.picture_images)
    after, _ = trained_model(folder)
    untrained = look(build_model(config).eval(), images, config.mask_ratio, config.seed)
    trained = look(after, images, config.mask_ratio, config.seed)
    figure = before_after_grid(trained.originals, trained.masks, untrained.pasted, trained.pasted)
    save(figure, folder.figures / "before-after.png")
    report(path)
    return path
