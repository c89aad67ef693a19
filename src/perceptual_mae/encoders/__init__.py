"""Encoders from wherever they are: a run, a file of anybody's weights, timm, the hub."""

from perceptual_mae.encoders.open import load_encoder, open_encoder

__all__ = ["load_encoder", "open_encoder"]
