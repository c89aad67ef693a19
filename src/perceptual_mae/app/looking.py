"""Where an encoder looks, from one patch of an image or from its class token."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perceptual_mae.app.photograph import Photograph, View, to_batch
from perceptual_mae.encoders import open_encoder
from perceptual_mae.errors import UsageError
from perceptual_mae.evaluation.attention import attention_layer, cls_attention, patch_attention
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.training.device import choose_device


@dataclass(frozen=True)
class Looker:
    """An encoder under the name that the page gives it.

    Attributes:
        name: unique on the page.
        encoder: in eval mode, on its device.
        blocks: how many have attention to look at; 0: it is no Vision Transformer.
    """

    name: str
    encoder: Encoder
    blocks: int

    @property
    def view(self) -> View:
        """How it wants its images."""
        return View(self.encoder.in_channels, self.encoder.image_size)


def open_lookers(specs: Sequence[str], names: Sequence[str], device: str = "auto") -> list[Looker]:
    """Open encoders.

    Args:
        specs: encoder arguments: runs, weights files, `timm:NAME`, `hub:USER/NAME`.
        names: of the first of them on the page; of the others what was typed.
        device: auto, cpu or cuda.

    Raises:
        UsageError, PmaeError: no such encoder.
    """
    place = choose_device(device)
    shown = [*names, *specs[len(names) :]]
    lookers: list[Looker] = []
    for spec, name in zip(specs, shown, strict=True):
        if name in {looker.name for looker in lookers}:
            raise UsageError(f"ENCODER {name}: it is named twice")
        encoder = open_encoder(spec, None, place)[0]
        lookers.append(Looker(name, encoder, _blocks(encoder)))
    return lookers


def to_patch(text: str, grid: tuple[int, int]) -> tuple[int, int] | None:
    """`row,column` from 0 as the page has it; None where it is no patch of that grid."""
    found = re.fullmatch(r"(\d{1,5}),(\d{1,5})", text)
    if not found:
        return None
    row, column = int(found[1]), int(found[2])
    return (row, column) if row < grid[0] and column < grid[1] else None


def heads_of(looker: Looker, photograph: Photograph, patch: tuple[int, int] | None, block: int) -> Tensor:
    """The attention of each head of a block, `(heads, rows, columns)` float32 on the CPU.

    Args:
        looker: one that attends.
        photograph: seen for its view.
        patch: row and column of the patch that looks; None: the class token, or where there is none, all patches.
        block: counted from 0.

    Raises:
        ValueError: no such block or patch, or an image that this encoder cannot see.
    """
    crop = photograph.crops[looker.view]
    if isinstance(crop, str):
        raise ValueError(f"{looker.name} cannot read the image: {crop}")
    images = to_batch(crop, looker.encoder.mean.device)
    with torch.inference_mode():
        if patch is None:
            return cls_attention(looker.encoder, images, block)[0].cpu()
        return patch_attention(looker.encoder, images, patch, block)[0].cpu()


def _blocks(encoder: Encoder) -> int:
    try:
        attention_layer(encoder, -1)
    except ValueError:
        return 0
    return len(encoder.network.blocks)
