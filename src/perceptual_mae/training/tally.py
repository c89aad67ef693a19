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
        here: whether one of them came up on this process, and not only in what all have together.
        taken: what the step logs, where it was taken and a further step of its own was not; else None.
    """

    def __init__(self, values: dict[str, float], here: bool = True) -> None:
        super().__init__(", ".join(f"{name} is {value}" for name, value in values.items()))
        self.values, self.here = values, here
        self.taken: dict[str, float] | None = None


class Tally:
    """Means by name over the parts of a batch, kept on the device until they are asked for."""

    def __init__(self, accelerator: Accelerator, parts: int) -> None:
        self.accelerator, self.parts = accelerator, parts
        self.sums: dict[str, Tensor] = {}
        self.shared: set[str] = set()

    def add(self, values: Mapping[str, Tensor], *, shared: bool = False) -> None:
        """Add the values of one part; `shared` ones are of all processes together."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float() / self.parts
        if shared:
            self.shared.update(values)

    def whole(self, name: str, value: Tensor) -> None:
        """Note a value that is of the whole batch, and of all processes together."""
        self.sums[name] = value.detach().float()
        self.shared.add(name)

    def means(self) -> dict[str, float]:
        """Means over processes too, as numbers: one transfer for all of them.

        Raises:
            NonFinite: a value is not finite, on any process.
        """
        own = torch.stack(list(self.sums.values()))
        log = dict(zip(self.sums, self.accelerator.reduce(own, "mean").tolist(), strict=True))
        broken = {name: value for name, value in log.items() if not math.isfinite(value)}
        if broken:
            mine = zip(self.sums, own.tolist(), strict=True)
            raise NonFinite(broken, any(not math.isfinite(v) for name, v in mine if name not in self.shared))
        return log
