"""Where commands speak: messages on stderr, results on stdout; in a file, no line of either is broken."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

WIDE = 10_000
"""Columns of what is no terminal: rich would take 80, break paths in logs and cut the tables of a pipe."""


def messages(*, quiet: bool = False) -> Console:
    """For what a person reads while a command works.

    Args:
        quiet: nothing is shown, as of processes beside the main one.
    """
    return _whole_lines(Console(stderr=True, quiet=quiet))


def results() -> Console:
    """For what a command was asked for: it can be piped to another program."""
    return _whole_lines(Console())


def show_path(console: Console, what: str) -> None:
    """Print a line that names a path; on a narrow terminal it stays one line, so that it can be copied."""
    console.print(what, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def counting(console: Console) -> Iterator[Callable[[int, int | None], None]]:
    """A bar of how many are done, and of how many where that is known; nothing where there is no terminal.

    Yields:
        what is called with these two numbers.
    """
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _whole_lines(console: Console) -> Console:
    if not (console.is_terminal or console.is_jupyter or "COLUMNS" in os.environ):
        console.width = WIDE
    return console
