"""What a step logs, over its micro-batches and processes."""

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


class NonFinite(Exception):  # noqa: N818  (a finding, told to the user by the loop)
    """A loss or a gradient is not finite. Raised before what is not finite has changed a weight.

    Attributes:
        values: those that are not, by name.
    """

    def __init__(self, values: dict[str, float]) -> None:
        super().__init__(", ".join(f"{name} is {value}" for name, value in values.items()))
        self.values = values


class Tally:
    """Means by name over the parts of a batch, kept on the device until they are asked for."""

    def __init__(self, accelerator: Accelerator, parts: int) -> None:
        self.accelerator, self.parts = accelerator, parts
        self.sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the values of one part."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float() / self.parts

    def whole(self, name: str, value: Tensor) -> None:
        """Note a value that is of the whole batch."""
        self.sums[name] = value.detach().float()

    def means(self) -> dict[str, float]:
        """Means over processes too, as numbers: one transfer for all of them.

        Raises:
            NonFinite: a value is not finite, on any process.
        """
        stacked = self.accelerator.reduce(torch.stack(list(self.sums.values())), "mean")
        log = dict(zip(self.sums, stacked.tolist(), strict=True))
        broken = {name: value for name, value in log.items() if not math.isfinite(value)}
        if broken:
            raise NonFinite(broken)
        return log
