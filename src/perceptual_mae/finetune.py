"""`pmae finetune`, as a function: a labelled task is learnt, evaluated, drawn and reported."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console

from perceptual_mae import __version__
from perceptual_mae.credentials import without_credentials
from perceptual_mae.models.cost import count_parameters
from perceptual_mae.report.finetuned import Pictures, write_finetuned_report
from perceptual_mae.training.device import describe_machine
from perceptual_mae.training.trackers import track_picture
from perceptual_mae.training.whole import accelerator_for, open_until_the_end, train_and_report
from perceptual_mae.transfer.config import FinetuneConfig
from perceptual_mae.transfer.folder import FinetuneFolder
from perceptual_mae.transfer.loop import FinetuneLoop
from perceptual_mae.transfer.task import Task
from perceptual_mae.transfer.tasks import open_task


def finetune(config: FinetuneConfig, console: Console | None = None) -> Path:
    """Teach an encoder a labelled task, or go on with the run that is in `config.out`.

    Returns:
        the run folder, with the best network (`model.safetensors`), metrics, pictures of predictions, `report.html`.

    Raises:
        UsageError: settings that cannot be right, or a folder that belongs to another run.
        PmaeError: an encoder or data that cannot be read, a loss that is not finite, an interruption (all is saved).
    """
    accelerator = accelerator_for(config)
    main = accelerator.is_main_process
    with accelerator.main_process_first():
        task, told = open_task(config)
    run = FinetuneFolder.claim(config, write=main)
    with open_until_the_end(run, accelerator):
        observers = [Pictures(config.log.pictures, config.seed, partial(track_picture, accelerator))]
        loop = FinetuneLoop(run, task, accelerator, observers, console)
        said = loop.resume()
        if main:
            if console is not None:
                what = (
                    f"{config.task} on {len(task.train):,} images of {without_credentials(config.data)} -> {run.path}"
                )
                console.print("\n".join(filter(None, (what, *told, said))), highlight=False, markup=False)
            run.describe(**facts(loop, task, told, accelerator))
            run.skip((problem.name, problem.reason) for problem in problems(task))
        train_and_report(loop, partial(write_finetuned_report, run.path))
    return run.path


def problems(task: Task) -> list[Any]:
    """What of the data was left out when it was opened, and why; not every kind of data can say."""
    return [problem for source in (task.train, task.validation) for problem in getattr(source, "problems", [])]


def facts(loop: FinetuneLoop, task: Task, told: Sequence[str], accelerator: Accelerator) -> dict[str, Any]:
    """`run.json`: what a reader of the report wants to know beside the settings."""
    encoder = task.network.encoder
    return {
        "version": __version__,
        **describe_machine(accelerator),
        "model": {
            "encoder": told[0] if told else loop.config.encoder,
            "parameters": count_parameters(task.network),
            "encoder_parameters": sum(parameter.numel() for parameter in encoder.parameters()),
            "image_size": list(task.description["image_size"]),
        },
        "data": {
            "images": len(task.train),
            "validation_images": len(task.validation),
            "classes": list(task.train.classes),
        },
        "notes": list(told[1:]),
        "metric": task.metric,
        "steps": loop.total,
        "state": "running",
        "message": "",
    }
