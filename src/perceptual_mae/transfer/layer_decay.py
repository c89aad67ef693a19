"""Layer-wise learning rates: what was learnt first changes least (arXiv 2106.08254; MAE's fine-tuning)."""

import re
from typing import Any

from timm.models import group_parameters
from torch import nn

from perceptual_mae.models.task_network import TaskNetwork

_WITH_PREVIOUS = (99999,)
"""How timm's matchers say that a part belongs to the block before it, where MAE counts it to the head."""


def parameter_groups(network: TaskNetwork, layer_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """A network's parameters in groups for AdamW, each with the `lr_scale` that its learning rate is multiplied with.

    As in MAE: embeddings are layer 0 and block i is layer i + 1; whatever comes after the blocks, and everything
    outside of the encoder, is the layer L above them. Layer l has the scale `layer_decay ** (L - l)`. Biases, norms,
    tokens and position embeddings have no weight decay.

    Returns:
        groups with `params`, their `names`, `lr_scale` and `weight_decay`, from the lowest layer up.
    """
    encoder: Any = network.encoder
    layers, top = layers_of(encoder)
    where = {id(parameter): layers[name] for name, parameter in encoder.named_parameters()}
    undecayed = set(encoder.no_weight_decay()) if hasattr(encoder, "no_weight_decay") else set()
    exempt = {id(parameter) for name, parameter in encoder.named_parameters() if name in undecayed}

    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = where.get(id(parameter), top)
        decays = parameter.ndim > 1 and id(parameter) not in exempt
        group = groups.setdefault(
            (layer, decays),
            {
                "params": [],
                "names": [],
                "lr_scale": layer_decay ** (top - layer),
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def layers_of(encoder: nn.Module) -> tuple[dict[str, int], int]:
    """The layer of each of an encoder's parameters by name, and the number of the layer above the blocks.

    What a layer is, timm says of each of its networks. One that it says nothing of has no layers: all is the top.
    """
    if not hasattr(encoder, "group_matcher"):
        return {name: 0 for name, _ in encoder.named_parameters()}, 0
    matcher = {part: _alone(patterns) for part, patterns in encoder.group_matcher(coarse=False).items()}  # type: ignore[operator]
    patterns = [pattern[0] for part in matcher.values() for pattern in part]
    found = group_parameters(encoder, matcher, reverse=True)
    below = {name: layer for name, layer in found.items() if any(re.match(pattern, name) for pattern in patterns)}
    top = max(below.values(), default=-1) + 1
    return {name: below.get(name, top) for name in found}, top


def _alone(patterns: Any) -> list[tuple[str, Any]]:
    """The patterns of a part without those that go with the block before."""
    listed = patterns if isinstance(patterns, list | tuple) else [(patterns, None)]
    return [(pattern, suffix) for pattern, suffix in listed if suffix != _WITH_PREVIOUS]
