"""Which files or splits are for training and which for validation, by the words in their names."""

import re
from collections.abc import Sequence
from pathlib import Path

from perceptual_mae.data.arrow import TRAIN_NAMES, VALIDATION_NAMES


def pick_files(root: Path, relative: Sequence[str], split: str) -> list[Path] | None:
    """The files of one split. None: no validation.

    Files without any such word in their paths are for training, and so are those for validation where there are no
    others. No file is in both splits.
    """
    others = [path for path in relative if not any(_says(path, name) for name in VALIDATION_NAMES)]
    train = _first_with(relative, TRAIN_NAMES) or others or list(relative)
    if split == "train":
        return [root / path for path in train]
    trained = set(train)
    validation = _first_with([path for path in relative if path not in trained], VALIDATION_NAMES)
    return [root / path for path in validation] or None


def pick_name(names: Sequence[str], split: str) -> str | None:
    """The split of a data set, by its names for them. A data set with one split only has it for training."""
    wanted = TRAIN_NAMES if split == "train" else VALIDATION_NAMES
    found = next((name for name in wanted if name in names), None)
    if found is None and split == "train" and len(names) == 1:
        return names[0]
    return None if split == "validation" and len(names) == 1 else found


def _first_with(paths: Sequence[str], words: Sequence[str]) -> list[str]:
    """The paths with the first of `words` that any path has."""
    for word in words:
        found = [path for path in paths if _says(path, word)]
        if found:
            return found
    return []


def _says(path: str, word: str) -> bool:
    return re.search(rf"(?<![a-z]){word}(?![a-z])", path.lower()) is not None
