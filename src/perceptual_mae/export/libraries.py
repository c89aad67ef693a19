"""Libraries that only some targets need."""

import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from perceptual_mae.errors import PmaeError


def require(target: str, names: Sequence[str], extra: str) -> None:
    """Say which library is missing before anything is written.

    Raises:
        PmaeError: one is not installed, or not whole; with the line that installs it.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing = getattr(error, "name", None) or name
            raise PmaeError(
                f"--to {target} needs {missing}, which is not installed: pip install 'perceptual-mae[{extra}]'"
            ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Within, libraries say and warn of nothing: an export is a line or an error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
