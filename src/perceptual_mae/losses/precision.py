"""Losses are sums of many small numbers: bf16 is not enough for them."""

import torch
from torch import Tensor


def full(tensor: Tensor) -> Tensor:
    """A tensor in float32, or in float64 if it is so already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
