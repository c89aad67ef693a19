"""The folder of a fine-tuning run."""

from typing import Any

from perceptual_mae.training.folder import TrainingFolder
from perceptual_mae.transfer.config import FinetuneConfig, config_of

MODEL = "model.safetensors"
"""File in the folder: the best network so far, with everything that is needed to use it."""


class FinetuneFolder(TrainingFolder[FinetuneConfig]):
    """A fine-tuning run on disk."""

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> FinetuneConfig:
        """See `TrainingFolder.parse`."""
        return config_of(settings)
