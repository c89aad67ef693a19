"""Ctrl-C, SIGTERM and a closed terminal end a run after the current step, with everything saved."""

import os
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


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Slurm sends SIGUSR1 where it is told to say so before it ends a job; SIGHUP comes when a terminal or a connection to
another machine is closed, unless `nohup` keeps it away."""


class StopRequest:
    """Remembers the first signal; a second Ctrl-C interrupts at once. Use as a context manager.

    Attributes:
        signal: number of the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._previous: dict[int, signal.Handlers] = {}
        self._hurries = False
        self._terminals: list[int] = []

    def __enter__(self) -> "StopRequest":
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        for number in STOPPING:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
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
        if number == signal.SIGHUP:
            self._speak_to_nobody()
        self.signal = number
        if self._hurries:
            self._hurries = False
            raise StopNow

    def _speak_to_nobody(self) -> None:
        """Whatever is said on a terminal that is gone would be an error, and end the run before it has saved."""
        for stream in self._terminals:
            if not os.isatty(stream):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)
