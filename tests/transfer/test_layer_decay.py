"""Layer-wise learning rates against MAE's own grouping, written out again from its description."""

import re

import pytest
import timm
import torch
from torch import nn

from perceptual_mae.models.architecture import Architecture
from perceptual_mae.models.classifier import Classifier
from perceptual_mae.models.task_network import TaskNetwork
from perceptual_mae.transfer.layer_decay import layers_of, parameter_groups

PIXELS = ((0.5,) * 3, (0.25,) * 3)
BASE = Architecture("vit", {"img_size": (224, 224)})


@pytest.fixture(scope="module")
def base() -> Classifier:
    """ViT-B/16 with a classifier on its mean token; no weights."""
    with torch.device("meta"):
        return Classifier(BASE, (224, 224), *PIXELS, classes=1000)


def mae_layer(name: str, depth: int) -> int:
    """MAE's `get_layer_id_for_vit`, in words: embeddings 0, block i is i + 1, all else is above the blocks."""
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed."):
        return 0
    block = re.match(r"blocks\.(\d+)\.", name)
    return int(block[1]) + 1 if block else depth + 1


def test_every_parameter_of_vit_base_is_grouped_as_in_mae(base: Classifier) -> None:
    groups = parameter_groups(base, 0.65, 0.05)
    found = {
        name.removeprefix("encoder."): (group["lr_scale"], group["weight_decay"])
        for group in groups
        for name in group["names"]
    }
    expected = {}
    for name, parameter in base.encoder.named_parameters():
        decay = 0.0 if parameter.ndim == 1 or name in ("pos_embed", "cls_token") else 0.05
        expected[name] = (pytest.approx(0.65 ** (13 - mae_layer(name, 12)), rel=1e-12), decay)
    assert found == expected
    assert len(found) == 12 * 12 + 4 + 4  # blocks; two tokens and the projection; fc_norm and head


def test_the_mean_pool_case_by_name(base: Classifier) -> None:
    """The table that people who know MAE look for."""
    scale = {name: group["lr_scale"] for group in parameter_groups(base, 0.65, 0.05) for name in group["names"]}
    table = {
        "encoder.patch_embed.proj.weight": 0.65**13,
        "encoder.cls_token": 0.65**13,
        "encoder.blocks.0.attn.qkv.weight": 0.65**12,
        "encoder.blocks.11.mlp.fc2.bias": 0.65,
        "encoder.fc_norm.weight": 1.0,
        "encoder.head.bias": 1.0,
    }
    assert {name: scale[name] for name in table} == pytest.approx(table, rel=1e-12)
    assert "encoder.norm.weight" not in scale


def test_each_parameter_is_in_one_group_and_groups_rise(base: Classifier) -> None:
    groups = parameter_groups(base, 0.65, 0.05)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in base.parameters())
    scales = [group["lr_scale"] for group in groups]
    assert scales == sorted(scales)


class WithHead(TaskNetwork):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Conv2d(8, 2, 1)


def test_a_head_outside_and_the_final_norm_are_above_the_blocks() -> None:
    """As for detection: the encoder's own norm counts to the head in MAE, where timm counts it to the last block."""
    with torch.device("meta"):
        network = WithHead(BASE.build())
    groups = parameter_groups(network, 0.5, 0.1)
    scale = {name: (group["lr_scale"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert scale["encoder.norm.weight"] == (1.0, 0.0)
    assert scale["head.weight"] == (1.0, 0.1)
    assert scale["head.bias"] == (1.0, 0.0)
    assert scale["encoder.blocks.11.norm1.weight"] == (0.5, 0.0)
    assert scale["encoder.pos_embed"] == (0.5**13, 0.0)


def test_frozen_parameters_are_left_out() -> None:
    with torch.device("meta"):
        network = WithHead(BASE.build())
    network.encoder.requires_grad_(False)
    assert {name for group in parameter_groups(network, 0.5, 0.1) for name in group["names"]} == {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "convnext_atto"])
def test_convolutional_networks_have_layers_too(name: str) -> None:
    with torch.device("meta"):
        encoder = timm.create_model(name, num_classes=3)
    layers, top = layers_of(encoder)
    assert set(layers) == {name for name, _ in encoder.named_parameters()}
    head = encoder.get_classifier()
    assert {layers[name] for name, parameter in encoder.named_parameters() if parameter is head.weight} == {top}
    first = next(iter(layers))
    assert layers[first] == 0
    assert 4 <= top == max(layers.values())


def test_a_network_without_layers_is_all_top() -> None:
    layers, top = layers_of(nn.Linear(2, 3))
    assert top == 0
    assert layers == {"weight": 0, "bias": 0}
