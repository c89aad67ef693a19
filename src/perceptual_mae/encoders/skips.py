"""Whether an encoder was pre-trained to say something in several of its maps, and not in the last one alone."""

from pathlib import Path

import torch

from perceptual_mae.models.msg_mae import MultiScaleAutoencoder
from perceptual_mae.paths import user_path
from perceptual_mae.pretraining.build import build_model
from perceptual_mae.pretraining.folder import RunFolder, is_run


def has_skips(spec: str | Path) -> bool:
    """Whether an ENCODER argument is a run whose generator is MSG-MAE, which joins maps of the encoder's blocks to its
    decoder.

    Raises:
        UsageError: a run folder whose settings cannot be read.
    """
    path = user_path(spec)
    if not is_run(path):
        return False
    with torch.device("meta"):  # what it is, without its weights
        model = build_model(RunFolder.read(path).config)
    return isinstance(model, MultiScaleAutoencoder) and bool(model.skip_blocks)
