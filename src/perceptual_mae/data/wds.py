"""WebDataset shards: `wds:shards/{000..127}.tar`, `wds:shards/*.tar`, `wds:shards`."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from perceptual_mae.data.arrow import ArrowSource, image_columns
from perceptual_mae.data.folder import find_files
from perceptual_mae.data.load import as_strings, load
from perceptual_mae.data.shard_fields import features_of
from perceptual_mae.data.splits import pick_files
from perceptual_mae.data.streaming.tar import is_empty
from perceptual_mae.errors import UsageError, printable, refused_by_system

SUFFIXES = frozenset({".tar"})
_MOST = 100_000
"""Shards that braces may come to: ImageNet-21k has two thousand."""
_DIGITS = 18


def open_shards(spec: str, split: str) -> ArrowSource | None:
    """Open the shards of one split; None where there is no validation split.

    The words `train` and `validation` (`val`, `test`, ...) in the shards' paths, from the first folder that differs,
    tell the splits. The first use writes the images to the cache of `datasets`, so that each can be reached directly.

    Raises:
        UsageError: no such shard.
        PmaeError: a damaged shard.
    """
    try:
        pattern = os.path.expanduser(spec.removeprefix("wds:"))
    except ValueError:  # a zero byte or half a character after `~`
        raise UsageError(f"{printable(spec)}: no file can have this name") from None
    if os.path.isdir(pattern):
        root = Path(pattern)
        files = sorted(find_files(root, SUFFIXES))
    else:
        # A file is meant as it is called, whatever its name would stand for as a pattern.
        patterns = [pattern] if os.path.isfile(pattern) else expand_braces(pattern)
        found = [path for one in patterns for path in _matching(spec, one)]
        root = Path(os.path.commonpath([os.path.dirname(path) or "." for path in found])) if found else Path()
        files = sorted({os.path.relpath(path, root) for path in found})
    if not files:
        raise UsageError(f"{spec} names no .tar file: give wds:FOLDER, wds:FOLDER/*.tar or wds:FOLDER/{{000..127}}.tar")
    picked = pick_files(root, files, split)
    if picked is None:
        return None
    advice = "every sample must be KEY.jpg (png, webp, ...), with KEY.cls for its class"
    picked = [file for file in picked if not _is_empty(file)]  # `datasets` refuses all where the first one is
    if not picked:
        raise UsageError(f"{spec}: the shards of the {split} split are empty")
    features = features_of(picked)
    dataset = load(spec, "webdataset", advice, data_files=as_strings(picked), split="train", features=features)
    return ArrowSource(spec, dataset, image_columns(spec, dataset.features) if features else ())


def _is_empty(file: Path) -> bool:
    with refused_by_system(f"{file} cannot be read"), open(file, "rb") as opened:
        return is_empty(opened.fileno())


def _matching(spec: str, pattern: str) -> list[str]:
    try:
        if glob.has_magic(pattern) and not os.path.isfile(pattern):
            return glob.glob(pattern)
    except ValueError:  # a zero byte or half a character, which no file can have in its name
        return []
    if not os.path.isfile(pattern):
        raise UsageError(f"{spec}: there is no file {pattern}")
    return [pattern]


def expand_braces(pattern: str) -> list[str]:
    """`a{00..02}` to `a00, a01, a02` and `a{b,c}` to `ab, ac`, as a shell does.

    Raises:
        UsageError: it comes to more than a hundred thousand names.
    """
    expanded: list[str] = []
    waiting = [pattern]
    while waiting:
        one = waiting.pop()
        match = re.search(r"\{([^{}]*)\}", one)
        if not match:
            expanded.append(one)
            continue
        choices = _choices(match[1])
        if len(expanded) + len(waiting) + len(choices) > _MOST:
            raise UsageError(f"{printable(pattern)[:80]}: the braces come to more than {_MOST} names")
        before, after = one[: match.start()], one[match.end() :]
        waiting += [f"{before}{choice}{after}" for choice in reversed(choices)]
    return expanded


def _choices(text: str) -> Sequence[str]:
    """What stands between braces, `00..02` or `b,c`; of a span that is too long as many names as are too many."""
    span = re.fullmatch(r"(\d+)\.\.(\d+)", text, re.ASCII)
    if not span:
        return text.split(",")
    first, last = span[1], span[2]
    if max(len(first), len(last)) > _DIGITS:
        return [text] * (_MOST + 1)
    numbers = range(int(first), int(last) + 1)[: _MOST + 1]
    return [str(number).zfill(len(first)) for number in numbers]
