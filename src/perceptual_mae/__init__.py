"""Perceptual MAE: masked autoencoding with perceptual and adversarial losses (arXiv 2212.14504)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perceptual_mae.encoders import load_encoder

__all__ = ["__version__", "load_encoder"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load_encoder` is imported when it is asked for: it brings torch, which takes seconds."""
    if name == "load_encoder":
        from perceptual_mae.encoders import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
