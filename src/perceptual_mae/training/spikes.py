"""Steps whose loss or gradient is not finite: how many a run survives, and how.

One is skipped: no weight has changed, and the run goes on with the next batch. After some in a row the weights
themselves are to blame: they are put back to those of the last checkpoint, and the run goes on with the batches that
follow, as was done for PaLM (arXiv 2204.02311, section 5.1). Where that does not help either, the run ends.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from perceptual_mae.training.config import SpikeConfig


@dataclass
class Spikes:
    """What has happened so far. All of it is in checkpoints.

    Attributes:
        skipped: steps of the run.
        in_a_row: of them, since the last that was none.
        rollbacks: since a checkpoint was written that had learnt something.
    """

    skipped: int = 0
    in_a_row: int = 0
    rollbacks: int = 0

    def another(self, rules: SpikeConfig) -> Literal["skip", "roll back", "stop"]:
        """Count one, and say what to do."""
        self.skipped += 1
        self.in_a_row += 1
        if rules.patience and self.in_a_row % rules.patience:
            return "skip"
        if not rules.patience or self.rollbacks == rules.rollbacks:
            return "stop"
        self.rollbacks += 1
        return "roll back"

    def saved(self) -> None:
        """A checkpoint was written: one that has learnt something since the weights were put back is a new start."""
        if self.in_a_row == 0:
            self.rollbacks = 0

    def state_dict(self) -> dict[str, int]:
        """Plain values for the checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.skipped, self.in_a_row, self.rollbacks = state["skipped"], state["in_a_row"], state["rollbacks"]


def buffers_of(modules: Iterable[nn.Module]) -> list[tuple[Tensor, Tensor]]:
    """Every buffer and a copy of it: a step that is skipped may have moved running means already."""
    return [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]


@torch.no_grad()
def put_back(buffers: Iterable[tuple[Tensor, Tensor]]) -> None:
    """What `buffers_of` copied."""
    for buffer, copy in buffers:
        buffer.copy_(copy)
