"""The loop of every training run: steps, and everything on disk that a run needs to go on after any kill."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

from perceptual_mae.data import SamplePlan, Skip, choose_workers
from perceptual_mae.data.stream import cores
from perceptual_mae.errors import PmaeError, WriteError
from perceptual_mae.files import if_possible, writing
from perceptual_mae.seeds import Stream, mixed
from perceptual_mae.training import checkpoint, sharded
from perceptual_mae.training.checkpoint import Checkpoint
from perceptual_mae.training.config import TrainingSettings
from perceptual_mae.training.folder import Record, TrainingFolder
from perceptual_mae.training.launch import processes_sharing
from perceptual_mae.training.memory import OUT_OF_MEMORY, is_out_of_memory, peak_memory
from perceptual_mae.training.meter import Meter, Stopwatch
from perceptual_mae.training.progress import ProgressDisplay
from perceptual_mae.training.schedule import learning_rate, total_steps
from perceptual_mae.training.signals import Interrupted, StopNow, StopRequest
from perceptual_mae.training.spikes import Spikes, buffers_of, keep_batch, put_back, too_many
from perceptual_mae.training.tally import NonFinite
from perceptual_mae.training.together import check_same_step, is_lost_process, largest
from perceptual_mae.training.trackers import track


class MicroBatches(Protocol):
    """What every piece of a step's batch has."""

    images: Tensor
    names: list[str]
    skipped: list[Skip]


Run = TypeVar("Run", bound=TrainingFolder[Any])
Made = TypeVar("Made", bound=MicroBatches)


class TrainingLoop(ABC, Generic[Run, Made]):
    """A training run. What it learns, a subclass says.

    Args:
        run: its folder, claimed.
        plan: which images a step sees.
        fingerprint: of those images.
        accelerator: device, precision and processes, as `training.device` sets them up.
        console: where progress is shown; None: nowhere.

    Attributes:
        modules: the networks that are saved, by name; a subclass sets them.
        optimizers: theirs, each with its learning rate at the peak of the schedule. A parameter group's `lr_scale`
            multiplies that rate.
        step: steps done.
        unseen: what the last step has learnt was not looked at yet.
        stop: who asks the run to stop.
        total: steps of the whole run.
        tell: called when a checkpoint has been written after which the run goes on.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, tuple[torch.optim.Optimizer, float]]

    def __init__(
        self, run: Run, plan: SamplePlan, fingerprint: str, accelerator: Accelerator, console: Console | None = None
    ) -> None:
        settings: TrainingSettings = run.config
        self.run, self.settings, self.accelerator = run, settings, accelerator
        self.plan, self.fingerprint = plan, fingerprint
        self.console = console if accelerator.is_main_process else None
        self.total = total_steps(settings.total_epochs, plan.steps_per_epoch, settings.max_steps)
        self.step, self.unseen = 0, False
        self.stop, self.last_save = StopRequest(), time.monotonic()
        self.meter, self.stopwatch, self.spikes = Meter(), Stopwatch(), Spikes()
        self.tell: Callable[[], None] | None = None

    # -- what a kind of training says ----------------------------------------------------------------------------------

    @abstractmethod
    def batches(self) -> Iterator[tuple[Made, ...]]:
        """For every step still to come, this process's micro-batches."""

    @abstractmethod
    def improve(self, batches: Sequence[Made]) -> dict[str, float]:
        """Take a step, and return what it logs, `loss/total` among it.

        Raises:
            NonFinite: a loss or gradient is not finite; it has changed no weight (a step of its own that was taken
                before it may have), buffers may have changed.
        """

    @abstractmethod
    def observe(self) -> dict[str, float]:
        """Look at the run between two steps, where it is time to, and return numbers for its log.

        Raises:
            StopNow: the run is asked to stop; what was looked at is looked at again.
        """

    def state(self) -> dict[str, Any]:
        """What else the next step depends on: plain values and tensors for the checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""

    def logged(self, record: Record) -> None:
        """A line has been written to the metrics, on the main process."""

    def saved(self) -> None:
        """A checkpoint has been written; all processes are told."""

    # -- the loop ------------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: Ctrl-C or another signal that ends runs; everything is saved.
            WriteError: the disk takes no checkpoint or no line of metrics; what was saved before is whole.
            PmaeError: too many losses are not finite, or the memory is full; the last good checkpoint is kept.
        """
        settings = self.settings
        with self.stop, ProgressDisplay(self.console, self.total, self.step) as display:
            if self.step == 0 or self.unseen:
                self.look()
                self.pause(self.over)
            self.stopwatch.start()
            for batches in self.batches():
                values = self.learn_from(batches)
                self.stopwatch.stop(self.plan.images_per_step)
                self.run.skip((skip.name, skip.reason) for batch in batches for skip in batch.skipped)
                rate = self.look()
                display.step(self.step, self.step / self.plan.steps_per_epoch, values.get("loss/total"), rate)
                self.pause(self.step % settings.save_every == 0 or self.milestone is not None or self.over)
                self.stopwatch.start()

    def look(self) -> float | None:
        """Observe what was learnt, and log it where it is time to.

        A signal puts that off until the run goes on: a validation may take longer than whoever sent it waits.

        Returns:
            images per second, where it was logged.
        """
        self.unseen = True
        try:
            observed = self.observe()
        except StopNow:
            return None
        self.unseen = False
        due = observed or self.step % self.settings.log.every == 0 or self.over
        return self.log(observed) if due and self.step else None

    def pause(self, due: bool) -> None:
        """Save where it is time to, and leave where a process was asked to; all do the same.

        Raises:
            Interrupted: the run was asked to stop; everything is saved.
        """
        late = time.monotonic() - self.last_save > 60 * self.settings.checkpoint.minutes
        stopping, waited = largest(self.accelerator, self.stop.signal, late)
        if due or waited or stopping:
            self.save()
            self.last_save = time.monotonic()
            if self.tell is not None and not (stopping or self.over):
                self.tell()
        if stopping and (self.unseen or not self.over):
            done = f"interrupted after step {self.step} of {self.total}; everything is saved in {self.run.path}"
            told = f"{done}: the same command continues" if self.accelerator.is_main_process else ""
            raise Interrupted(told, stopping)

    def fit_and_tell(self) -> None:
        """`fit`, and how it ended in `run.json`: `state`, `message` and the peak of memory.

        Raises:
            PmaeError: as `fit`.
        """
        state, message = "stopped", ""
        try:
            if self.over:
                self.saved()  # a kill may have come between the last checkpoint and this
            self.fit()
            state = "finished"
        except WriteError as error:
            message = f"step {self.step} of {self.total}: {error}; {self.last()}"
            raise PmaeError(message) from None
        except PmaeError as error:
            message = str(error)
            raise
        except RuntimeError as error:
            if not (self.accelerator.num_processes > 1 and is_lost_process(error)):
                raise
            message = f"step {self.step + 1} of {self.total}: another process has ended; {self.last()}"
            raise PmaeError(message) from None
        finally:
            if self.accelerator.is_main_process:
                peak = peak_memory(self.accelerator.device)
                measured = {} if peak is None else {"peak_memory_gib": round(peak, 3)}
                with if_possible():
                    self.run.describe(state=state, message=message, **measured)

    def learn_from(self, batches: Sequence[Made]) -> dict[str, float]:
        """Take the next step, and return what it logs."""
        # Whatever draws from PyTorch's own generator (dropout, drop path) draws the same after a resume.
        torch.manual_seed(mixed(self.settings.seed, Stream.STEP, self.step, self.accelerator.process_index))
        for optimizer, peak in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.rate(self.step, peak) * group.get("lr_scale", 1.0)
        buffers = buffers_of(self.modules.values())
        try:
            values = self.improve(batches)
        except NonFinite as finding:
            if finding.taken is None:
                put_back(buffers)
            self.skip(finding, batches)
            values = finding.taken or {}
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise PmaeError(f"step {self.step + 1}: {OUT_OF_MEMORY}") from None
            raise
        self.spikes.finite(values)
        self.step += 1
        self.meter.add(values)
        return values

    def skip(self, finding: NonFinite, batches: Sequence[Made]) -> None:
        """Go on without a step whose loss is not finite, if need be from the weights of the last checkpoint.

        Raises:
            PmaeError: there were too many.
        """
        for optimizer, _ in self.optimizers.values():
            optimizer.zero_grad()
        if self.spikes.streaks.keys().isdisjoint(finding.values):
            # The batch of whoever met it; where only gradients are not finite, and so all have it, of the first.
            (somebody,) = largest(self.accelerator, finding.here)
            if finding.here if somebody else self.accelerator.is_main_process:
                keep_batch(self.run.path, self.step + 1, batches, self.accelerator.process_index)
        verdict = self.spikes.another(self.settings.spikes, finding.values)
        said = f"step {self.step + 1}: {finding}; {'the' if finding.taken is None else 'its'} step is skipped"
        if verdict == "roll back":
            whole = (
                one for one in checkpoint.newest(self.run.checkpoints, self.modules) if isinstance(one, Checkpoint)
            )
            last = next(whole, None)
            check_same_step(self.accelerator, self.run.checkpoints, -1 if last is None else last.step)
            if last is not None:
                self.put_back(last)
                row = self.spikes.in_a_row(finding.values)
                said += f", the {row}. in a row: back to the weights of step {last.step}"
            else:
                verdict = "stop"
        if verdict == "stop":
            raise too_many(self.step + 1, finding, self.spikes, self.run.checkpoints)
        if self.console is not None:
            self.console.print(said, highlight=False, markup=False)

    @property
    def over(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.total

    @property
    def milestone(self) -> str | None:
        """The epoch that has just ended, where its checkpoint is kept for ever."""
        steps = self.settings.checkpoint.milestones * self.plan.steps_per_epoch
        ended = steps and self.step and self.step % steps == 0
        return f"epoch {self.step // self.plan.steps_per_epoch}" if ended else None

    def rate(self, step: int, peak: float) -> float:
        """Learning rate of the step that comes after `step` steps; all networks warm up and come to rest together."""
        warmup_share = self.settings.warmup_share(self.total / self.plan.steps_per_epoch)
        return learning_rate(step, self.total, peak, warmup_share)

    def workers(self) -> int:
        """Processes that read images, for this one."""
        sharing = processes_sharing(os.environ, cores(), self.accelerator.num_processes)
        return choose_workers(self.settings.workers, self.accelerator.device.type == "cuda", sharing)

    # -- what is written down ------------------------------------------------------------------------------------------

    def log(self, observed: dict[str, float]) -> float:
        """Write a line of metrics: means since the last line, and what was observed.

        Returns:
            images per second since the last line.
        """
        rate = self.stopwatch.rate()
        means = self.meter.take()
        if self.spikes.skipped:
            means["skipped_steps"] = self.spikes.skipped
        if self.accelerator.is_main_process:
            when = {"step": self.step, "epoch": round(self.step / self.plan.steps_per_epoch, 4)}
            values = (
                {"lr": self.rate(self.step - 1, self.optimizers["model"][1])}
                | means
                | observed
                | {"images_per_second": round(rate, 1)}
            )
            record = when | values | {"seconds": round(self.stopwatch.total, 2)}
            self.run.append(record)
            self.logged(record)
            track(self.accelerator, values, self.step)
        return rate

    def save(self) -> None:
        """Write a checkpoint; all processes do so together."""
        self.spikes.saved()
        optimizers = {name: optimizer.state_dict() for name, (optimizer, _) in self.optimizers.items()}
        networks = {name: module.state_dict() for name, module in self.modules.items()}
        shares = sharded.shares_of(networks, optimizers)
        if shares:
            self.save_shares(shares)
        if self.accelerator.is_main_process:
            training = {
                "optimizers": optimizers,
                "meter": self.meter.state_dict(),
                "spikes": self.spikes.state_dict(),
                "unseen": self.unseen,
                "seconds": self.stopwatch.total,
                "data": self.fingerprint,
                "threads": torch.get_num_threads(),
            }
            found = Checkpoint(self.step, networks, training | self.state())
            keep, begun = self.settings.checkpoint.keep, bool(shares)
            checkpoint.save(self.run.checkpoints, found, keep, self.milestone, begun)
        self.saved()

    def save_shares(self, shares: dict[str, Tensor]) -> None:
        """Write this process's share of what is cut into the checkpoint that the main process then completes."""
        if self.accelerator.is_main_process:
            checkpoint.begin(self.run.checkpoints, self.step)
        self.accelerator.wait_for_everyone()
        with writing(self.run.checkpoints):
            sharded.save_shares(checkpoint.temporary_of(self.run.checkpoints, self.step) / sharded.FOLDER, shares)

    def resume(self) -> str:
        """Go on from the newest whole checkpoint, if there is one.

        Returns:
            what happened, for the user; empty for a new run.
        """
        notes = []
        for found in checkpoint.newest(self.run.checkpoints, self.modules):
            if isinstance(found, Checkpoint):
                self.put_back(found)
                self.meter.load_state_dict(found.training["meter"])
                self.spikes.load_state_dict(found.training.get("spikes", Spikes().state_dict()))
                self.unseen = found.training.get("unseen", False)
                self.stopwatch.total = found.training["seconds"]
                self.load_state(found.training)
                self.step = found.step
                notes.append(f"continuing after step {self.step} of {self.total}")
                if found.training["data"] != self.fingerprint:
                    notes.append("the images have changed since: the run goes on, but not exactly as it would have")
                if found.training["threads"] != torch.get_num_threads():
                    notes.append("the number of threads has changed since: sums may differ in their last bits")
                break
            notes.append(checkpoint.damage(*found))
        check_same_step(self.accelerator, self.run.checkpoints, self.step)
        if self.accelerator.is_main_process:
            self.run.rewind(self.step)
        told = "; ".join(notes)
        return f"{told}: nothing is left to do; more --epochs extend the run" if self.over else told

    def put_back(self, found: Checkpoint) -> None:
        """Networks and optimisers as a checkpoint has them."""
        for name, module in self.modules.items():
            sharded.load_network(module, found.networks[name])
        for name, (optimizer, _) in self.optimizers.items():
            sharded.load_optimizer(optimizer, found.training["optimizers"][name])

    def last(self) -> str:
        """From where the same command goes on."""
        saved = checkpoint.checkpoints(self.run.checkpoints)
        last = f"checkpoints/{saved[-1].name} is whole" if saved else "nothing was saved before"
        return f"{last}: the same command goes on from there"
