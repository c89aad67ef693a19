"""torch-export: a program of `torch.export`, which needs neither this package nor timm to run."""

from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from perceptual_mae.errors import PmaeError
from perceptual_mae.export.any_size import AnySize
from perceptual_mae.export.check import Check, compare, fixed_images
from perceptual_mae.export.libraries import quietly
from perceptual_mae.export.source import Source

PROGRAM = "encoder.pt2"
INPUT, OUTPUT = "images", "tokens"
TOLERANCE = 1e-5

_LARGEST = 65_536
"""Images of a batch, and patches of a side; PyTorch 2.7 finds no graph for batches without an end."""


def takes_any_size(source: Source) -> bool:
    """Whether the graph takes images of any size; else it takes those of the encoder's own size alone.

    `torch.export` does not count a side of one patch among sides of any length.
    """
    return source.plain_vit is not None and min(source.encoder.grid) > 1


def program(source: Source) -> ExportedProgram:
    """The encoder as a graph: `images` `(B, C, H, W)` in [0, 1] to `tokens` `(B, 1 + N, D)`.

    B can be anything from 1 to 65,536; H and W, of a plain Vision Transformer, multiples of the patch size from two
    patches on.

    Raises:
        PmaeError: PyTorch cannot make a graph of it.
    """
    encoder, batch = source.encoder, Dim("batch", min=1, max=_LARGEST)
    sides = {}
    module: nn.Module = encoder
    size = encoder.image_size
    if takes_any_size(source):
        patch = encoder.patch_size
        module = AnySize(encoder)
        # The numbers of the example are not in the graph: a small one is traced faster.
        size = (3 * patch, 4 * patch)
        sides = {2: patch * Dim("rows", min=2, max=_LARGEST), 3: patch * Dim("columns", min=2, max=_LARGEST)}
    images = fixed_images(2, encoder.in_channels, size)
    try:
        with quietly(), torch.no_grad():
            return torch.export.export(module.eval(), (images,), dynamic_shapes=({0: batch, **sides},))
    except Exception as error:  # each network has its own way to say so
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PmaeError(f"{encoder.name} cannot be made a graph by torch.export: {reason[:200]}") from error


def write(source: Source, folder: Path) -> None:
    """Fill a folder."""
    with quietly():
        torch.export.save(program(source), folder / PROGRAM)


@torch.no_grad()
def check(source: Source, folder: Path) -> list[Check]:
    """Load the program, and run it on images of every shape that it is said to take."""
    with quietly():
        module = torch.export.load(folder / PROGRAM).module()
    checks = []
    for batch, size in shapes(source):
        images = fixed_images(batch, source.encoder.in_channels, size)
        checks.append(compare(words(batch, size), module(images), ours(source, size)(images), TOLERANCE))
    return checks


def shapes(source: Source) -> list[tuple[int, tuple[int, int]]]:
    """Batches and sizes to try: batches of 1 and 7, and another size where any is taken."""
    own = source.encoder.image_size
    if not takes_any_size(source):
        return [(1, own), (7, own)]
    patch = source.encoder.patch_size
    return [(1, own), (7, own), (2, (own[0] + 2 * patch, own[1] + patch)), (1, (2 * patch, 3 * patch))]


def ours(source: Source, size: tuple[int, int]) -> nn.Module:
    """Our encoder for images of a size."""
    return source.at(size) if takes_any_size(source) else source.encoder


def words(batch: int, size: tuple[int, int]) -> str:
    """`7 images of 64 x 64`."""
    return f"{batch} {'image' if batch == 1 else 'images'} of {size[0]} x {size[1]}"
