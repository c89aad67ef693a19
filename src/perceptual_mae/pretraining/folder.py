"""The folder of a pre-training run."""

from pathlib import Path
from typing import Any

import yaml

from perceptual_mae import plain_yaml
from perceptual_mae.errors import UsageError
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.settings import from_dict
from perceptual_mae.training.folder import TrainingFolder


class RunFolder(TrainingFolder[PretrainConfig]):
    """A pre-training run on disk."""

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> PretrainConfig:
        """See `TrainingFolder.parse`."""
        if "task" in settings:
            raise UsageError(f"this is a run of `pmae finetune {settings['task']!s:.40}`, not one of `pmae pretrain`")
        config = from_dict(PretrainConfig, settings)
        config.check()
        return config


def is_run(path: Path | str) -> bool:
    """Whether a path is a folder of pre-training, of any state; a fine-tuned one is none."""
    try:
        settings = plain_yaml.load((Path(path) / "config.yaml").read_text(encoding="utf-8"))
    except OSError:
        return False
    except (ValueError, yaml.YAMLError):
        return True  # a damaged one: whoever opens it is told so
    return not (isinstance(settings, dict) and "task" in settings)
