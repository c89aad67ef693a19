"""The folder of a pre-training run."""

from typing import Any

from perceptual_mae.errors import UsageError
from perceptual_mae.pretrain.config import PretrainConfig
from perceptual_mae.settings import from_dict
from perceptual_mae.training.folder import TrainingFolder


class RunFolder(TrainingFolder[PretrainConfig]):
    """A pre-training run on disk."""

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> PretrainConfig:
        """See `TrainingFolder.parse`."""
        if "task" in settings:
            raise UsageError(f"this is a run of `pmae finetune {settings['task']}`, not one of `pmae pretrain`")
        return from_dict(PretrainConfig, settings)
