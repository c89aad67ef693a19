"""What a person sees while a run trains: a bar in a terminal, a line now and then in a log file."""

import importlib.util
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def shows_bars(console: Console) -> bool:
    """Whether what is drawn again and again is seen as one thing: in a terminal, and in a notebook with widgets."""
    return console.is_terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)


class ProgressDisplay:
    """Steps, loss, images per second and the time left. Use as a context manager.

    Args:
        console: where to show it; None shows nothing (processes beside the main one).
        total: steps of the run.
        done: steps already done.
    """

    LINE_SECONDS = 30.0

    def __init__(self, console: Console | None, total: int, done: int) -> None:
        self.console, self.total, self.done = console, total, done
        self._bar: Progress | None = None
        self._rate, self._loss = 0.0, float("nan")
        self._begun, self._first = time.monotonic(), done
        self._last_line = self._begun

    def __enter__(self) -> "ProgressDisplay":
        if self.console is not None and shows_bars(self.console):
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]:>5.1f}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("loss [bold]{task.fields[loss]:.4f}[/]"),
                TextColumn("{task.fields[rate]:,.0f} images/s"),
                TimeElapsedColumn(),
                TextColumn("<"),
                TimeRemainingColumn(),
                console=self.console,
                transient=False,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                "", total=self.total, completed=self.done, epoch=0.0, loss=float("nan"), rate=0.0
            )
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, done: int, epoch: float, loss: float | None, rate: float | None = None) -> None:
        """Show that `done` steps are done; the last of them had this loss, or was skipped."""
        self._rate = rate or self._rate
        if loss is not None:
            # The bar shows a smoothed loss: single steps jump.
            self._loss = loss if self._loss != self._loss else 0.9 * self._loss + 0.1 * loss
        if self._bar is not None:
            self._bar.update(self._task, completed=done, epoch=epoch, loss=self._loss, rate=self._rate)
        elif self.console is not None and (
            time.monotonic() - self._last_line > self.LINE_SECONDS or done in (self._first + 1, self.total)
        ):
            self._last_line = time.monotonic()
            left = (self.total - done) * (self._last_line - self._begun) / (done - self._first)
            self.console.print(
                f"step {done}/{self.total}  epoch {epoch:.2f}  loss {self._loss:.4f}  "
                + (f"{self._rate:,.0f} images/s  {_clock(left)} left" if self._rate else ""),
                highlight=False,
            )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
