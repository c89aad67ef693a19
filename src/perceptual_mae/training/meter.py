"""Means of what a step logs, over the steps between two log lines."""

import time
from typing import Any


class Meter:
    """Adds up values by name until they are taken. Its sums are in the checkpoint: a resume leaves no gap."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, float]) -> None:
        """Add the values of one step."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Means since the last call, which begins anew."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


class Stopwatch:
    """Training time and images per second, reading included; pictures, validation and checkpoints are not."""

    def __init__(self) -> None:
        self.total = 0.0
        self._since = time.perf_counter()
        self._lap_time, self._lap_images = 0.0, 0

    def stop(self, images: int) -> None:
        """A step over `images` images ends, and what comes now does not count."""
        passed = time.perf_counter() - self._since
        self.total += passed
        self._lap_time += passed
        self._lap_images += images

    def start(self) -> None:
        """The next step begins, with waiting for its images."""
        self._since = time.perf_counter()

    def rate(self) -> float:
        """Images per second since the last call."""
        rate = self._lap_images / self._lap_time if self._lap_time else 0.0
        self._lap_time, self._lap_images = 0.0, 0
        return rate
