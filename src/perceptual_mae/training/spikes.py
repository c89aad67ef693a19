"""Steps whose loss or gradient is not finite: how many a run survives, and how.

One is skipped: no weight has changed, and the run goes on with the next batch. After some in a row (of the steps that
have the value in question: a penalty acts in every 16th) the weights themselves are to blame: they are put back to
those of the last checkpoint, and the run goes on with the batches that follow, as was done for PaLM (arXiv 2204.02311,
section 5.1). Where that does not help either, the run ends.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from perceptual_mae.errors import PmaeError
from perceptual_mae.files import if_possible, write_atomically
from perceptual_mae.training.checkpoint import checkpoints
from perceptual_mae.training.config import SpikeConfig
from perceptual_mae.training.tally import NonFinite

KEPT = 16
"""Steps of a run of which batches are kept, at most."""


class Pictured(Protocol):
    """Images and their names."""

    images: Tensor
    names: list[str]


@dataclass
class Spikes:
    """What has happened so far. All of it is in checkpoints.

    Attributes:
        skipped: steps of the run.
        streaks: how often what was not finite, by its name in logs, has not been since it last was.
        rollbacks: since a checkpoint was written that had learnt something.
    """

    skipped: int = 0
    streaks: dict[str, int] = field(default_factory=dict)
    rollbacks: int = 0

    def another(self, rules: SpikeConfig, names: Collection[str]) -> Literal["skip", "roll back", "stop"]:
        """Count one, in which these values were not finite, and say what to do."""
        self.skipped += 1
        self.streaks |= {name: self.streaks.get(name, 0) + 1 for name in names}
        if rules.patience and self.in_a_row(names) % rules.patience:
            return "skip"
        if not rules.patience or self.rollbacks == rules.rollbacks:
            return "stop"
        self.rollbacks += 1
        return "roll back"

    def in_a_row(self, names: Iterable[str]) -> int:
        """How often one of these values has not been finite since it last was."""
        return max(self.streaks[name] for name in names)

    def finite(self, names: Iterable[str]) -> None:
        """These values were: their streaks are over."""
        for name in names:
            self.streaks.pop(name, None)

    def saved(self) -> None:
        """A checkpoint was written: one that has learnt something since the weights were put back is a new start."""
        if not self.streaks:
            self.rollbacks = 0

    def state_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.skipped, self.rollbacks = state["skipped"], state["rollbacks"]
        self.streaks = dict(state.get("streaks", {}))  # checkpoints of before count without names


def buffers_of(modules: Iterable[nn.Module]) -> list[tuple[Tensor, Tensor]]:
    """Every buffer and a copy of it: a step that is skipped may have moved running means already."""
    return [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]


@torch.no_grad()
def put_back(buffers: Iterable[tuple[Tensor, Tensor]]) -> None:
    """What `buffers_of` copied."""
    for buffer, copy in buffers:
        buffer.copy_(copy)


def keep_batch(run: Path, step: int, batches: Sequence[Pictured], process: int = 0) -> None:
    """Write the images of a step whose loss is not finite into its run folder, for whoever looks for the reason.

    Only of the last few such steps of a run: batches of large images fill a disk.
    """
    kept: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(run.glob("failed-batch-*")):
        kept[file.name[: len(_name(0))]].append(file)
    kept.pop(_name(step), None)
    for old in list(kept)[: max(0, len(kept) + 1 - KEPT)]:
        for file in kept[old]:
            file.unlink(missing_ok=True)  # other processes do the same
    images = torch.cat([batch.images for batch in batches])
    names = json.dumps([name for batch in batches for name in batch.names])
    with if_possible():
        write_atomically(
            run / f"{_name(step)}{f'-process-{process}' if process else ''}.safetensors",
            lambda temporary: save_file({"images": images}, temporary, {"names": names}),
        )


def _name(step: int) -> str:
    return f"failed-batch-{step:08d}"


def too_many(step: int, finding: NonFinite, spikes: Spikes, folder: Path) -> PmaeError:
    """That losses which are not finite ended a run with these checkpoints, and what to do."""
    saved = checkpoints(folder)
    last = f"checkpoints/{saved[-1].name} holds the last good weights" if saved else "there is no checkpoint yet"
    row = spikes.in_a_row(finding.values)
    often = f" ({row} in a row)" if row > 1 else ""
    return PmaeError(
        f"step {step}: {finding}{often}; {last}, failed-batch-*.safetensors the batch that began it. "
        "A lower --lr, --optimizer.clip-grad 1 or --precision fp32 (with another --out) may help"
    )
