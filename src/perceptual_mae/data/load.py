"""`datasets.load_dataset`, with errors in one line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from perceptual_mae.errors import PmaeError

if TYPE_CHECKING:
    from datasets import Dataset


def load(spec: str, builder: str, advice: str, **options: Any) -> "Dataset":
    """Load one split, images undecoded.

    Raises:
        PmaeError: whatever went wrong, named by its first line, with `advice`.
    """
    from datasets import load_dataset

    from perceptual_mae.data.arrow import without_decoding

    try:
        return without_decoding(load_dataset(builder, **options))
    except Exception as error:  # the network, the disk and a dozen file formats meet here
        raise PmaeError(f"{spec} could not be loaded ({first_line(error)}): {advice}") from error


def first_line(error: BaseException) -> str:
    """The first line of the error at the bottom of a chain: the one that names the cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".:") if lines else type(error).__name__


def as_strings(paths: list[Path]) -> list[str]:
    """Paths as `datasets` takes them."""
    return [str(path.resolve()) for path in paths]
