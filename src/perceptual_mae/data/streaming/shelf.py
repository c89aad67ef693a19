"""The units that a process has open: those it needs, fetched ahead by a thread, and what has failed of late."""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from perceptual_mae.data.streaming.units import NOTED, OpenUnit
from perceptual_mae.data.types import BrokenImage
from perceptual_mae.errors import PmaeError

Open = Callable[[int, bool], OpenUnit | None]
"""Opens a unit by its number; False: None in place of waiting for another process. Raises BrokenImage."""

REMEMBERED = 300.0
"""Seconds for which a unit that could not be had is not asked for again."""
HOPELESS = 8
"""Units in a row that cannot be had, after which it is not them that are broken."""
_FEW = 8
_MOST = 256
"""Units open at a time, each with a file descriptor: systems allow a process 256 to 1024 of those."""
_POLL = 0.2


class Shelf:
    """Open units of one process; a forked process starts with an empty one.

    Args:
        name: of the source, for messages.
        open_unit: see `Open`.
    """

    def __init__(self, name: str, open_unit: Open) -> None:
        self._name, self._open = name, open_unit
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._units: OrderedDict[int, OpenUnit] = OrderedDict()
        self._failed: dict[int, tuple[float, str]] = {}
        self._failed_ahead: dict[int, float] = {}
        self._lost_in_a_row: set[int] = set()
        self._last_reason = ""
        self._expected: list[int] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def get(self, unit: int) -> OpenUnit:
        """A unit, waited for if it has to be fetched.

        Raises:
            BrokenImage: it cannot be had, with the reason.
            PmaeError: so many in a row could not that the reason must be another.
        """
        self._same_process()
        with self._changed:
            found = self._units.get(unit)
            if found is not None:
                self._units.move_to_end(unit)
                return found
        self._check_failed(unit)
        opened = self._try(unit, wait=True)
        if opened is None:
            self._check_failed(unit)
            return self.get(unit)  # the thread has got it in this moment
        return opened

    def expect(self, units: Sequence[int]) -> None:
        """Fetch these ahead, the first of them first, and let go of what is not among them."""
        self._same_process()
        wanted = list(units[:_MOST])
        with self._changed:
            if wanted == self._expected:
                return
            self._expected = wanted
            self._let_go()
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="stream", daemon=True)
                self._thread.start()

    def _same_process(self) -> None:
        if self._process != os.getpid():  # forked: the thread is not here, and a lock may be held by nobody
            self._begin()

    def _check_failed(self, unit: int) -> None:
        with self._changed:
            when, reason = self._failed.get(unit, (0.0, ""))
            hopeless = len(self._lost_in_a_row) >= HOPELESS
        if hopeless:
            raise PmaeError(
                f"{self._name}: {HOPELESS} shards in a row could not be read ({self._last_reason}); "
                "when that is put right, the same command goes on"
            )
        if reason and time.monotonic() - when < REMEMBERED:
            raise BrokenImage(reason)

    def _try(self, unit: int, wait: bool) -> OpenUnit | None:
        """Open a unit and keep it, or note why it cannot be had."""
        try:
            opened = self._open(unit, wait)
        except BrokenImage as broken:
            with self._changed:
                # What fails ahead of time may be there when it is needed.
                known = unit in self._failed
                if wait:
                    self._failed[unit] = time.monotonic(), str(broken)
                else:
                    self._failed_ahead[unit] = time.monotonic()
                # Missing for good, it says nothing new; and the good ones between, being open, end no row.
                if not known:
                    self._lost_in_a_row.add(unit)
                self._last_reason = str(broken)
            return None
        if opened is None:
            return None
        with self._changed:
            self._lost_in_a_row.clear()
            self._failed.pop(unit, None)
            first = self._units.setdefault(unit, opened)
            self._units.move_to_end(unit)
            self._let_go(keep=unit)
        if first is not opened:  # the other thread was quicker
            opened.close()
        return first

    def _let_go(self, keep: int | None = None) -> None:
        """Close the longest unused of the units that are not expected; a few of them may stay."""
        expected = {*self._expected, keep}
        others = [unit for unit in self._units if unit not in expected]
        for unit in others[: max(0, len(others) - _FEW)]:
            self._units.pop(unit)  # closed when the last reader has let go of it

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                missing = [unit for unit in self._expected if unit not in self._units and self._may_come(unit, now)]
                if not missing:
                    self._changed.wait()
                    continue
            for unit in missing:
                try:
                    if self._try(unit, wait=False) is not None:
                        break
                except PmaeError:  # such as a full disk: whoever needs the unit meets it again, and says so
                    with self._changed:
                        self._failed_ahead[unit] = time.monotonic()
            else:
                time.sleep(_POLL)  # all of them are being fetched by others, or failed

    def _may_come(self, unit: int, now: float) -> bool:
        """Whether it has not failed a moment ago."""
        return unit not in self._failed and now - self._failed_ahead.get(unit, -NOTED) >= NOTED
