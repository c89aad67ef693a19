"""Networks: tensors in, tensors out."""

from perceptual_mae.models.mae import MaskedAutoencoder
from perceptual_mae.models.reconstruction import Reconstruction
from perceptual_mae.models.sizes import SIZES, Size
from perceptual_mae.models.weights import LoadReport

__all__ = ["SIZES", "LoadReport", "MaskedAutoencoder", "Reconstruction", "Size"]
