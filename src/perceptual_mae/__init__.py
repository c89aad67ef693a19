"""Perceptual MAE: masked autoencoding with perceptual and adversarial losses (arXiv 2212.14504).

import perceptual_mae as pm

run = pm.pretrain(data="./images", out="runs/mine", model="small")
run.reconstructions()
pm.evaluate(run, data="./labelled").scores
encoder = pm.load_encoder("runs/mine")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perceptual_mae.encoders import load_encoder
    from perceptual_mae.errors import PmaeError, UsageError
    from perceptual_mae.methods import METHODS
    from perceptual_mae.pretraining.config import PretrainConfig
    from perceptual_mae.python_api import Evaluation, Run, evaluate, pretrain
    from perceptual_mae.transfer.saved import load_finetuned

__all__ = [
    "METHODS",
    "Evaluation",
    "PmaeError",
    "PretrainConfig",
    "Run",
    "UsageError",
    "__version__",
    "evaluate",
    "load_encoder",
    "load_finetuned",
    "pretrain",
]
__version__ = "0.1.0"

_WHERE = {
    "METHODS": "methods",
    "Evaluation": "python_api",
    "PmaeError": "errors",
    "PretrainConfig": "pretraining.config",
    "Run": "python_api",
    "UsageError": "errors",
    "evaluate": "python_api",
    "load_encoder": "encoders",
    "load_finetuned": "transfer.saved",
    "pretrain": "python_api",
}


def __getattr__(name: str) -> Any:
    """What is offered here is imported when it is asked for: it brings torch, which takes seconds."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
