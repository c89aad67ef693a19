"""Ctrl-C and SIGTERM end a run after the current step, with everything saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from perceptual_mae.errors import PmaeError


class Interrupted(PmaeError):  # noqa: N818  (it is no error: the user asked for it)
    """A run that was asked to stop, and did so with everything saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class StopNow(BaseException):
    """Ends what can be done again, because the run was asked to stop."""


class StopRequest:
    """Remembers the first signal; a second Ctrl-C interrupts at once. Use as a context manager.

    SIGUSR1 is one: Slurm sends it where it is told to say so before it ends a job.

    Attributes:
        signal: number of the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._previous: dict[int, signal.Handlers] = {}
        self._hurries = False

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            try:
                self._previous[number] = signal.signal(number, self._remember)  # type: ignore[assignment]
            except ValueError:
                # Not the main thread (a notebook server, a web page): whoever owns that thread handles signals.
                break
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def hurries(self) -> Iterator[None]:
        """For what takes long and can be done again: a signal ends it.

        Raises:
            StopNow: one came within, or had come before.
        """
        if self.signal:
            raise StopNow
        self._hurries = True
        try:
            yield
        finally:
            self._hurries = False

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if self._hurries:
            self._hurries = False
            raise StopNow
