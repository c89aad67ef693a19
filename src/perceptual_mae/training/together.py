"""What the processes of a run agree on, and how one notices that another is gone."""

import re
from pathlib import Path

import torch
from accelerate import Accelerator

from perceptual_mae.errors import PmaeError


def largest(accelerator: Accelerator, *numbers: int) -> list[int]:
    """The largest that any process has of each: all stop together, or none."""
    if accelerator.num_processes == 1:
        return list(numbers)
    mine = torch.tensor([[int(number) for number in numbers]], device=accelerator.device)
    return accelerator.gather(mine).amax(dim=0).tolist()


def check_same_step(accelerator: Accelerator, folder: Path, step: int) -> None:
    """All processes go on from the same checkpoint, or none does: their weights would differ ever after.

    Args:
        folder: of the checkpoints.
        step: of the one that this process has found; -1: it has found none.

    Raises:
        PmaeError: others have found another.
    """
    last, first = largest(accelerator, step, -step)
    if last != -first:
        raise PmaeError(
            f"processes see different checkpoints in {folder} (of step {-first} and {last}): it must be one folder, "
            "which all of them can read"
        )


def is_lost_process(error: RuntimeError) -> bool:
    """Whether what several processes did together failed because one of them is not there any more."""
    gloo = "gloo" in str(error) and re.search("onnection|imed out|eer", str(error)) is not None
    return isinstance(error, torch.distributed.DistError) or gloo
