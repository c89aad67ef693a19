"""Fine-tuning: what its loop reads, steps and writes down."""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from rich.console import Console
from timm.utils import ModelEmaV3
from torch import nn

from perceptual_mae.data import SamplePlan, to_float
from perceptual_mae.data.labelled import Examples, labelled_loader
from perceptual_mae.models.task_network import TaskNetwork
from perceptual_mae.seeds import Stream, mixed, seeded
from perceptual_mae.training.loop import TrainingLoop
from perceptual_mae.training.tally import Tally
from perceptual_mae.transfer.folder import MODEL, FinetuneFolder
from perceptual_mae.transfer.layer_decay import parameter_groups
from perceptual_mae.transfer.saved import save_encoder, save_finetuned
from perceptual_mae.transfer.task import Learnt, Task


@dataclass(frozen=True)
class Evaluated:
    """A network that has just been evaluated, for observers.

    Attributes:
        step: steps done.
        network: in eval mode; an observer leaves it as it is.
        metrics: what was measured.
        best: whether it is the best so far.
    """

    step: int
    network: TaskNetwork
    metrics: dict[str, float]
    best: bool


class Observer(Protocol):
    """Is shown each network that was evaluated. Draws on no random state but its own."""

    def __call__(self, evaluated: Evaluated, task: Task, run: FinetuneFolder) -> None:
        """Look."""
        ...


class FinetuneLoop(TrainingLoop[FinetuneFolder, Examples]):
    """A fine-tuning run.

    Args:
        run: its folder, claimed.
        task: what is learnt; its network is trained in place.
        accelerator: device, precision and processes, as `training.device` sets them up.
        observers: who looks at what was evaluated.
        console: where progress is shown; None: nowhere.

    Attributes:
        best: the task's metric at its best so far; -inf before the first evaluation.
    """

    def __init__(
        self,
        run: FinetuneFolder,
        task: Task,
        accelerator: Accelerator,
        observers: Sequence[Observer] = (),
        console: Console | None = None,
    ) -> None:
        config = self.config = run.config
        plan = SamplePlan(len(task.train), config.batch_size, config.seed)
        super().__init__(run, plan, task.train.fingerprint(), accelerator, console)
        self.task, self.observers, self.best = task, observers, -math.inf

        rules, own = config.rules, config.optimizer
        network = task.network.to(accelerator.device)
        groups = parameter_groups(
            network,
            rules.layer_decay if config.layer_decay is None else config.layer_decay,
            rules.weight_decay if own.weight_decay is None else own.weight_decay,
        )
        self.optimizer = torch.optim.AdamW(
            [{key: value for key, value in group.items() if key != "names"} for group in groups],
            lr=config.learning_rate,
            betas=own.betas or rules.betas,
            fused=True,
        )
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(network)  # in place; UperNet has some
        self.network, _ = accelerator.prepare(network, self.optimizer)
        self.ema = ModelEmaV3(network, decay=config.ema, use_warmup=True) if config.ema else None
        self.modules: dict[str, nn.Module] = {"model": network}
        if self.ema is not None:
            self.modules["ema"] = self.ema.module
        self.optimizers = {"model": (self.optimizer, config.learning_rate)}

    # -- a step --------------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[tuple[Examples, ...]]:
        """See `TrainingLoop.batches`."""
        micro, accelerator = self.config.optimizer.accumulate, self.accelerator
        loader = labelled_loader(
            self.task.train,
            self.plan,
            self.task.augment,
            first_step=self.step,
            last_step=self.total,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            micro_batches=micro,
            workers=self.workers(),
            pin_memory=accelerator.device.type == "cuda",
        )
        yield from zip(*[iter(loader)] * micro, strict=True)

    def improve(self, batches: Sequence[Examples]) -> dict[str, float]:
        """See `TrainingLoop.improve`."""
        accelerator, clip = self.accelerator, self.config.optimizer.clip_grad
        self.network.train()
        tally = Tally(accelerator, len(batches))
        for place, batch in enumerate(batches):
            there = batch.to(accelerator.device)
            images, targets = to_float(there.images), there.targets
            with seeded(mixed(self.config.seed, Stream.MIXING, self.step, accelerator.process_index, place)):
                images, targets = self.task.mix(images, targets)
            is_last = place == len(batches) - 1
            with nullcontext() if is_last else accelerator.no_sync(self.network):
                with accelerator.autocast():
                    parts = self.network(images, targets)
                loss = torch.stack(list(parts.values())).sum()
                accelerator.backward(loss / len(batches))
            tally.add({f"loss/{name}": value for name, value in parts.items()} | {"loss/total": loss})
        parameters = [p for p in self.modules["model"].parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        tally.whole("grad_norm", norm)
        values = tally.means()
        if clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.modules["model"], step=self.step)
        return values

    # -- what is written down ------------------------------------------------------------------------------------------

    def observe(self) -> dict[str, float]:
        """Evaluate where it is time to, keep the network if it is the best so far, and show it to observers."""
        interval = max(1, round(self.config.log.evaluate_every * self.plan.steps_per_epoch))
        if self.step == 0 or not (self.over or self.step % interval == 0):
            return {}
        if not self.accelerator.is_main_process:
            return {}
        with self.stop.hurries():
            return self._evaluate()

    def _evaluate(self) -> dict[str, float]:
        network: Any = self.modules["model"] if self.ema is None else self.ema.module
        training = network.training
        network.eval()
        metrics = self.task.evaluate(network, self.accelerator.device)
        self.run.skip((skip.name, skip.reason) for skip in self.task.skipped)
        best = metrics[self.task.metric] > self.best
        if best:
            # Whoever uses the network reads images as large as it was trained on.
            description = {**self.task.description, "max_pixels": self.config.loader.max_pixels}
            learnt = Learnt(self.task.name, network, self.task.train.classes, description)
            save_finetuned(learnt, self.run.path / MODEL, {"step": self.step, **metrics})
            save_encoder(network, self.task.description, self.run.path / "encoder.safetensors")
            self.task.export(network, self.run.path)
            self.best = metrics[self.task.metric]  # after its files: a signal between would leave those of another
        for observer in self.observers:
            observer(Evaluated(self.step, network, metrics, best), self.task, self.run)
        network.train(training)
        return {f"validation/{name}": value for name, value in metrics.items()}

    def state(self) -> dict[str, Any]:
        """See `TrainingLoop.state`."""
        return {"best": self.best}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `TrainingLoop.load_state`."""
        self.best = state["best"]
