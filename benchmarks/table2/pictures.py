"""What the runs of cells draw of the same masked images, and where they look: pictures for docs/results.md."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.table2.judge import run_of
from perceptual_mae.errors import UsageError
from perceptual_mae.measure.pictures import draw_side_by_side

IMAGES = Path(__file__).parents[2] / "docs" / "images" / "results"


def draw(runs: Path, names: Sequence[str], target: Path) -> list[Path]:
    """Draw runs side by side.

    Args:
        runs: the folder of a table's runs.
        names: of cells, such as `mse-15ep-seed0` or, with what stands over its column, `TITLE=mse-15ep-seed0`.
        target: the pictures are called `TARGET-reconstructions.webp` and `TARGET-attention.webp`.

    Returns:
        the pictures.

    Raises:
        UsageError: no cell is named, or one was not trained here.
    """
    if not names:
        raise UsageError("--cells is missing: name those to draw, such as mse-15ep-seed0")
    found: dict[str, Path] = {}
    for named in names:
        title, _, name = named.rpartition("=")
        found[title or name] = run_of(runs, name)
    scratch = runs / "pictures"
    target.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for shown, name in draw_side_by_side(scratch, found, "auto").items():
        written.append(target.with_name(f"{target.name}-{shown}.webp"))
        with Image.open(scratch / name) as picture:
            picture.save(written[-1], quality=80, method=6)
    return written
