"""What rows of a table draw of the same masked images, and where they look: pictures for docs/results.md."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.table2.cell import Cell
from perceptual_mae.measure.pictures import draw_side_by_side

IMAGES = Path(__file__).parents[2] / "docs" / "images" / "results"


def draw(cells: Sequence[Cell], runs: Path, drawn: Path = IMAGES) -> list[Path]:
    """Draw the rows that have been trained here, side by side.

    Args:
        cells: of one table, one a row.
        runs: the folder that they were trained in.
        drawn: the folder of pictures.

    Returns:
        the pictures.
    """
    found: dict[str, Path] = {}
    for cell in cells:
        for run in sorted(cell.folder(runs).glob("runs/*")):
            found.setdefault(cell.method, run)
    if not found:
        return []
    scratch = runs / "pictures"
    drawn.mkdir(parents=True, exist_ok=True)
    written = []
    for shown, name in draw_side_by_side(scratch, found, "auto").items():
        target = drawn / f"{cells[0].images}-{cells[0].model}-{shown}.webp"
        Image.open(scratch / name).save(target, quality=80, method=6)
        written.append(target)
    return written
