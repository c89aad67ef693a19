"""What a model costs: parameters and floating-point operations."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from perceptual_mae.models.mae import MaskedAutoencoder


def count_parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def training_gflop(model: MaskedAutoencoder, mask_ratio: float = 0.75) -> float:
    """GFLOP of a forward and backward pass over one image, counted by PyTorch; a multiply-add is two.

    The backward pass is taken as twice the forward one. Nothing is computed: the model is copied to the meta device.
    """
    twin = copy.deepcopy(model).to("meta")
    images = torch.empty(1, model.in_channels, *model.image_size, device="meta")
    noise = torch.empty(1, model.num_patches, device="meta")
    with FlopCounterMode(display=False) as counter, nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        twin(images, mask_ratio, noise)
    return 3 * counter.get_total_flops() / 1e9
