"""A frozen convolutional network, made quicker without changing what it computes."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norms(network: nn.Module, example: Tensor) -> int:
    """Take the batch normalisations of a network in eval mode into the convolutions before them.

    Which convolution a normalisation follows is not in the modules but in their code. Where a convolution stands just
    before one of as many channels, it is taken to be the one; whether the network still computes the same says if that
    was right, and if not everything is put back.

    Args:
        network: frozen; changed in place.
        example: an input, to compare by.

    Returns:
        how many were folded: all pairs or none.
    """
    pairs = [(parent, names) for parent in network.modules() for names in _pairs(parent)]
    if not pairs:
        return 0
    before = _outputs(network, example)
    undo = []
    for parent, (first, second) in pairs:
        conv, norm = getattr(parent, first), getattr(parent, second)
        undo.append((parent, second, norm, conv, conv.weight, conv.bias))
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # timm's normalisations have the activation after them in themselves.
        setattr(parent, second, getattr(norm, "act", None) or nn.Identity())
    if all(map(_alike, before, _outputs(network, example))):
        return len(pairs)
    for parent, second, norm, conv, weight, bias in undo:
        setattr(parent, second, norm)
        conv.weight, conv.bias = weight, bias
    return 0


def _pairs(parent: nn.Module) -> list[tuple[str, str]]:
    return [
        (first, second)
        for (first, conv), (second, norm) in pairwise(parent._modules.items())
        if isinstance(conv, nn.Conv2d)
        and isinstance(norm, _BatchNorm)
        and norm.running_mean is not None
        and norm.num_features == conv.out_channels
    ]


@torch.no_grad()
def _outputs(network: nn.Module, example: Tensor) -> list[Tensor]:
    outputs = network(example)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _alike(before: Tensor, after: Tensor) -> bool:
    """Equal but for rounding, which is relative to the largest values of a map."""
    return bool((before - after).abs().max() <= 1e-4 * before.abs().max())
