"""How far a measurement is: a bar in a terminal, a line for each new thing in a log file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from perceptual_mae.training.progress import shows_bars

Tell = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done, and how much there is; 0 and 0 where that is not known."""


@contextmanager
def telling(console: Console) -> Iterator[Tell]:
    """Show on a console what is told; on a quiet one, nothing."""
    current = ""
    if not shows_bars(console):

        def line(what: str, done: int, total: int) -> None:
            nonlocal current
            if what != current:
                current = what
                console.print(what, highlight=False, markup=False)

        yield line
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def move(what: str, done: int, total: int) -> None:
            nonlocal current
            if what != current:
                current = what
                bar.reset(task, description=what, total=total or None)
            bar.update(task, completed=done, total=total or None)

        yield move
