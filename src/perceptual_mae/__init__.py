"""Perceptual MAE: masked autoencoding with perceptual and adversarial losses (arXiv 2212.14504)."""

__version__ = "0.1.0"
