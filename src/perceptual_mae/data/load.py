"""`datasets.load_dataset`, with errors in one line."""

import errno
import glob
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perceptual_mae.errors import PmaeError, printable

if TYPE_CHECKING:
    from datasets import Dataset


def load(spec: str, builder: str, advice: str, **options: Any) -> "Dataset":
    """Load one split, images undecoded.

    Raises:
        PmaeError: whatever went wrong, named by its first line, with `advice`.
    """
    from datasets import load_dataset

    from perceptual_mae.data.arrow import without_decoding

    with quietly():
        try:
            return without_decoding(load_dataset(builder, **options))
        except Exception as error:  # the network, the disk and a dozen file formats meet here
            cause = root_cause(error)
            if isinstance(cause, OSError) and cause.errno in {errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT}:
                advice = "HF_HOME names the folder of its cache, which must be writable and have room"
            raise PmaeError(f"{spec} could not be loaded ({first_line(error)}): {advice}") from error


@contextmanager
def quietly() -> Iterator[None]:
    """Progress bars at a terminal only, and no log of what the libraries try again: what fails is said once, here."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    no_bars = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if no_bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if no_bars:
            datasets.enable_progress_bars()


def root_cause(error: BaseException) -> BaseException:
    """The error at the bottom of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_line(error: BaseException) -> str:
    """The first line of the error at the bottom of a chain: the one that names the cause."""
    lines = str(root_cause(error)).strip().splitlines()
    return printable(lines[0].strip().rstrip(".:"))[:300] if lines else type(error).__name__


def as_strings(paths: list[Path]) -> list[str]:
    """Paths as `datasets` takes them: as patterns."""
    return [glob.escape(str(path.resolve())) for path in paths]
