"""The mask that a person paints: patches of a board that lies over the image, and what of it each run hides."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from perceptual_mae.augment.crops import Box
from perceptual_mae.models.masking import draw_noise, mask_from_noise
from perceptual_mae.seeds import Stream, generator

LEAST = 0.05
"""Share of a patch's side that has to be painted over: crops of other shapes end between pixels, which is no touch."""


@dataclass(frozen=True)
class Board:
    """Patches that lie over a part of an image.

    Attributes:
        grid: `(rows, columns)` of patches.
        box: that part: top, left, height, width in pixels of the image.
    """

    grid: tuple[int, int]
    box: Box


def random_mask(grid: tuple[int, int], mask_ratio: float, seed: int) -> Tensor:
    """Patches to hide at random, `(rows, columns)` bool: the first mask that `pmae reconstruct` draws for this seed.

    Args:
        grid: `(rows, columns)`.
        mask_ratio: share of patches to hide, in [0, 1); at least one stays visible.
        seed: of the mask.
    """
    noise = draw_noise(1, grid[0] * grid[1], generator(seed, Stream.EVALUATION_MASKS), torch.device("cpu"))
    return mask_from_noise(noise, mask_ratio).mask.reshape(grid)


def to_text(mask: Tensor) -> str:
    """`(rows, columns)` bool as the page has it: rows of 0 and 1 (hidden), with a comma between them."""
    return ",".join("".join("1" if hidden else "0" for hidden in row) for row in mask.tolist())


def from_text(text: str, grid: tuple[int, int]) -> Tensor | None:
    """The same backwards, `(rows, columns)` bool; None where it is no mask of that grid."""
    rows, columns = grid
    if not re.fullmatch(f"[01]{{{columns}}}(,[01]{{{columns}}}){{{rows - 1}}}", text):
        return None
    return torch.tensor([[letter == "1" for letter in row] for row in text.split(",")])


def touched(painted: Tensor, board: Board, other: Board) -> Tensor:
    """Which patches of another board, over the same image, the hidden patches of a board touch.

    Args:
        painted: bool of the board's grid, True = hidden.
        board: where it was painted.
        other: a board of any grid, over any part of the image.

    Returns:
        bool of the other's grid. What lies outside of the first board is not touched.
    """
    rows = _overlap(other.box[0], other.box[2], other.grid[0], board.box[0], board.box[2], board.grid[0])
    columns = _overlap(other.box[1], other.box[3], other.grid[1], board.box[1], board.box[3], board.grid[1])
    return rows.double() @ painted.double() @ columns.double().T > 0


def as_noise(hidden: Tensor) -> tuple[Tensor, float]:
    """Noise and mask ratio with which a `MaskedAutoencoder` hides exactly these patches.

    Args:
        hidden: `(rows, columns)` bool, at least one of them False.

    Returns:
        noise `(1, N)`, and the ratio.
    """
    N, kept = hidden.numel(), int((~hidden).sum())
    # Half a patch more than are kept, so that no rounding of the ratio ever takes one away.
    return hidden.reshape(1, N).float(), max(0.0, 1 - (kept + 0.5) / N)


def _overlap(start: int, length: int, count: int, start_of: int, length_of: int, count_of: int) -> Tensor:
    """Which of `count` equal pieces of a stretch lie over which of `count_of` pieces of another: `(count, count_of)`.

    Two pieces that share less than `LEAST` of the shorter one are neighbours and not over each other.
    """
    piece, piece_of = length / count, length_of / count_of
    first = (start + piece * torch.arange(count, dtype=torch.float64))[:, None]
    first_of = (start_of + piece_of * torch.arange(count_of, dtype=torch.float64))[None]
    shared = torch.minimum(first + piece, first_of + piece_of) - torch.maximum(first, first_of)
    return shared > LEAST * min(piece, piece_of)
