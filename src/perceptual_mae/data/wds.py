"""WebDataset shards: `wds:shards/{000..127}.tar`, `wds:shards/*.tar`, `wds:shards`."""

import glob
import os
import re
from pathlib import Path

from perceptual_mae.data.arrow import ArrowSource
from perceptual_mae.data.folder import find_files
from perceptual_mae.data.load import as_strings, load
from perceptual_mae.data.splits import pick_files
from perceptual_mae.errors import UsageError

SUFFIXES = frozenset({".tar"})


def open_shards(spec: str, split: str) -> ArrowSource | None:
    """Open the shards of one split; None where there is no validation split.

    The words `train` and `validation` (`val`, `test`, ...) in the shards' paths, from the first folder that differs,
    tell the splits. The first use writes the images to the cache of `datasets`, so that each can be reached directly.

    Raises:
        UsageError: no such shard.
        PmaeError: a damaged shard.
    """
    pattern = os.path.expanduser(spec.removeprefix("wds:"))
    if os.path.isdir(pattern):
        root = Path(pattern)
        files = sorted(find_files(root, SUFFIXES))
    else:
        found = [path for one in expand_braces(pattern) for path in _matching(spec, one)]
        root = Path(os.path.commonpath([os.path.dirname(path) or "." for path in found])) if found else Path()
        files = sorted({os.path.relpath(path, root) for path in found})
    if not files:
        raise UsageError(f"{spec} names no .tar file: give wds:FOLDER, wds:FOLDER/*.tar or wds:FOLDER/{{000..127}}.tar")
    picked = pick_files(root, files, split)
    if picked is None:
        return None
    advice = "every sample must be KEY.jpg (png, webp, ...), with KEY.cls for its class"
    dataset = load(spec, "webdataset", advice, data_files=as_strings(picked), split="train")
    return ArrowSource(spec, dataset)


def _matching(spec: str, pattern: str) -> list[str]:
    if glob.has_magic(pattern):
        return glob.glob(pattern)
    if not os.path.isfile(pattern):
        raise UsageError(f"{spec}: there is no file {pattern}")
    return [pattern]


def expand_braces(pattern: str) -> list[str]:
    """`a{00..02}` to `a00, a01, a02` and `a{b,c}` to `ab, ac`, as a shell does."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span:
        first, last = span[1], span[2]
        choices = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        choices = match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [whole for choice in choices for whole in expand_braces(before + choice + after)]
