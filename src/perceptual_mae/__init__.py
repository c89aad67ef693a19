"""Perceptual MAE: masked autoencoding with perceptual and adversarial losses (arXiv 2212.14504)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perceptual_mae.encoders import load_encoder
    from perceptual_mae.transfer.saved import load_finetuned

__all__ = ["__version__", "load_encoder", "load_finetuned"]
__version__ = "0.1.0"

_WHERE = {"load_encoder": "perceptual_mae.encoders", "load_finetuned": "perceptual_mae.transfer.saved"}


def __getattr__(name: str) -> Any:
    """What is offered here is imported when it is asked for: it brings torch, which takes seconds."""
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
