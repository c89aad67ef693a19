"""The training loop: batches in, steps, and everything on disk that a run needs to go on after any kill."""

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from perceptual_mae.augment.ada import draw_ada
from perceptual_mae.data import Batch, SamplePlan, Source, auto_workers, to_float, train_loader
from perceptual_mae.errors import PmaeError
from perceptual_mae.files import write_atomically
from perceptual_mae.models.masking import draw_noise
from perceptual_mae.pretrain.cast import build_cast
from perceptual_mae.pretrain.folder import RunFolder
from perceptual_mae.pretrain.health import LONG, health
from perceptual_mae.pretrain.moment import Moment, Observer
from perceptual_mae.pretrain.player import MicroBatch
from perceptual_mae.seeds import Stream, generator, mixed
from perceptual_mae.training import checkpoint
from perceptual_mae.training.checkpoint import Checkpoint
from perceptual_mae.training.folder import Record
from perceptual_mae.training.meter import Meter, Stopwatch
from perceptual_mae.training.progress import ProgressDisplay
from perceptual_mae.training.schedule import Clock, learning_rate, total_steps
from perceptual_mae.training.signals import Interrupted, StopRequest
from perceptual_mae.training.tally import NonFinite


class Trainer:
    """A pre-training run.

    Args:
        run: its folder, claimed.
        train: the images.
        validation: images that are not trained on, for observers.
        accelerator: device, precision and processes, as `training.device` sets them up.
        observers: who looks on.
        console: where progress is shown; None: nowhere.

    Raises:
        UsageError: settings that do not fit each other.
    """

    def __init__(
        self,
        run: RunFolder,
        train: Source,
        validation: Source | None,
        accelerator: Accelerator,
        observers: Sequence[Observer] = (),
        console: Console | None = None,
    ) -> None:
        config = run.config
        self.run, self.config, self.accelerator = run, config, accelerator
        self.train, self.validation, self.observers = train, validation, observers
        self.console = console if accelerator.is_main_process else None
        self.plan = SamplePlan(len(train), config.batch_size, config.seed)
        self.total = total_steps(config.epochs, self.plan.steps_per_epoch, config.max_steps)

        cast = build_cast(config, accelerator)
        self.model, self.players, self.modules, self.take_step = cast.model, cast.players, cast.modules, cast.step
        self.step = 0
        self.recent: deque[Record] = deque(maxlen=2 * LONG)
        self.health = "balanced"
        self.meter, self.stopwatch = Meter(), Stopwatch()

    def fit(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; everything is saved.
            PmaeError: the loss is not finite; the last good checkpoint is kept.
        """
        with StopRequest() as stop, ProgressDisplay(self.console, self.total, self.step) as display:
            if self.step == 0:
                self.observe()
            last_save = time.monotonic()
            self.stopwatch.start()
            for batches in self.batches():
                values = self.learn_from(batches)
                self.stopwatch.stop(self.plan.images_per_step)
                self.run.skip((skip.name, skip.reason) for batch in batches for skip in batch.skipped)

                observed = self.observe()
                rate = self.log(observed) if observed or self.step % self.config.log.every == 0 or self.over else None
                display.step(self.step, self.step / self.plan.steps_per_epoch, values["loss/total"], rate)
                stopping = self.agreed(stop.signal)
                due = self.step % self.config.save_every == 0
                waited = time.monotonic() - last_save > 60 * self.config.checkpoint.minutes
                if due or waited or stopping or self.over:
                    self.save()
                    last_save = time.monotonic()
                if stopping and not self.over:
                    done = f"interrupted after step {self.step} of {self.total}; everything is saved in {self.run.path}"
                    raise Interrupted(f"{done}: the same command continues", stopping)
                self.stopwatch.start()

    def learn_from(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Take the next step, and return what it logs."""
        # Whatever draws from PyTorch's own generator (dropout, drop path) draws the same after a resume.
        torch.manual_seed(mixed(self.config.seed, Stream.STEP, self.step, self.accelerator.process_index))
        for player in self.players.values():
            for group in player.optimizer.param_groups:
                group["lr"] = self.rate(self.step, player.lr)
        try:
            values = self.take_step(self.on_device(batches), Clock(self.step, self.plan.steps_per_epoch))
        except NonFinite as finding:
            raise self.stopped(finding, batches) from None
        self.step += 1
        self.meter.add(values)
        return values

    @property
    def over(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.total

    def rate(self, step: int, peak: float) -> float:
        """Learning rate of the step that comes after `step` steps; both players warm up and come to rest together."""
        warmup_share = self.config.warmup_share(self.total / self.plan.steps_per_epoch)
        return learning_rate(step, self.total, peak, warmup_share)

    # -- data ----------------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[tuple[Batch, ...]]:
        """For every step still to come, this process's micro-batches."""
        config, accelerator = self.config, self.accelerator
        micro = config.optimizer.accumulate
        on_gpu = accelerator.device.type == "cuda"
        loader = train_loader(
            self.train,
            self.plan,
            image_size=config.size,
            channels=config.pixels.channels,
            crop=config.crop,
            first_step=self.step,
            last_step=self.total,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            micro_batches=micro,
            workers=auto_workers(on_gpu, accelerator.num_processes) if config.workers == "auto" else config.workers,
            max_pixels=config.loader.max_pixels,
            pin_memory=on_gpu,
        )
        yield from zip(*[iter(loader)] * micro, strict=True)

    def on_device(self, batches: Sequence[Batch]) -> list[MicroBatch]:
        """A step's micro-batches on the device, with the random numbers that mask and augment them.

        These are drawn for the whole batch and then cut as the images are, so that the number of processes and
        micro-batches does not change what is masked.
        """
        device, images = self.accelerator.device, self.plan.images_per_step
        sizes = [len(batch.images) for batch in batches]
        place = images * self.accelerator.process_index // self.accelerator.num_processes

        def mine(numbers: Tensor) -> tuple[Tensor, ...]:
            return numbers[place : place + sum(sizes)].to(device, non_blocking=True).split(sizes)

        masks = generator(self.config.seed, Stream.MASKS, self.step)
        noise = mine(draw_noise(images, self.model.num_patches, masks, torch.device("cpu")))
        changes: Sequence[Tensor | None] = [None] * len(batches)
        if self.take_step.augments:
            changes = mine(draw_ada(images, generator(self.config.seed, Stream.AUGMENTATION, self.step)))
        floats = [to_float(batch.images.to(device, non_blocking=True)) for batch in batches]
        return [MicroBatch(*parts) for parts in zip(floats, noise, changes, strict=True)]

    # -- what is written down ------------------------------------------------------------------------------------------

    def observe(self) -> dict[str, float]:
        """Let observers look, on the main process, and collect their numbers."""
        if not self.accelerator.is_main_process:
            return {}
        clock = Clock(self.step, self.plan.steps_per_epoch)
        moment = Moment(clock, self.total, self.model, self.train, self.validation, self.run)
        observed: dict[str, float] = {}
        for observer in self.observers:
            if observer.due(moment):
                observed |= observer(moment)
        return observed

    def log(self, observed: dict[str, float]) -> float:
        """Write a line of metrics: means since the last line, and what observers saw.

        Returns:
            images per second since the last line.
        """
        rate = self.stopwatch.rate()
        means = self.meter.take()
        if self.accelerator.is_main_process:
            when = {"step": self.step, "epoch": round(self.step / self.plan.steps_per_epoch, 4)}
            values = (
                {"lr": self.rate(self.step - 1, self.config.learning_rate)}
                | means
                | observed
                | {"images_per_second": round(rate, 1)}
            )
            record = when | values | {"seconds": round(self.stopwatch.total, 2)}
            self.run.append(record)
            self.warn(record)
            self.accelerator.log(values, step=self.step)
        return rate

    def warn(self, record: Record) -> None:
        """Say so, once, when the game between generator and discriminator is lost."""
        self.recent.append(record)
        found = health(self.recent)
        if found and found.state != self.health:
            self.health = found.state
            if self.console is not None and found.state != "balanced":
                self.console.print(f"step {self.step}: {found.words}", highlight=False, markup=False)

    def save(self) -> None:
        """Write a checkpoint, and the encoder under timm's names beside it."""
        if not self.accelerator.is_main_process:
            return
        training = {
            "optimizers": {name: player.optimizer.state_dict() for name, player in self.players.items()},
            "meter": self.meter.state_dict(),
            "seconds": self.stopwatch.total,
            "data": self.train.fingerprint(),
            "threads": torch.get_num_threads(),
        }
        networks = {name: module.state_dict() for name, module in self.modules.items()}
        checkpoint.save(self.run.checkpoints, Checkpoint(self.step, networks, training), self.config.checkpoint.keep)
        encoder = {name: tensor.contiguous() for name, tensor in self.model.encoder_state_dict().items()}
        metadata = {name: json.dumps(getattr(self.model, name).flatten().tolist()) for name in ("mean", "std")}
        metadata |= {"method": self.config.method, "model": self.config.model, "step": str(self.step)}
        metadata["image_size"] = json.dumps(self.config.size)
        path = self.run.path / "encoder.safetensors"
        write_atomically(path, lambda temporary: save_file(encoder, temporary, metadata))

    def resume(self) -> str:
        """Go on from the newest whole checkpoint, if there is one.

        Returns:
            what happened, for the user; empty for a new run.
        """
        notes = []
        for found in checkpoint.newest(self.run.checkpoints, self.modules):
            if isinstance(found, Checkpoint):
                for name, module in self.modules.items():
                    module.load_state_dict(found.networks[name])
                for name, player in self.players.items():
                    player.optimizer.load_state_dict(found.training["optimizers"][name])
                self.meter.load_state_dict(found.training["meter"])
                self.stopwatch.total = found.training["seconds"]
                self.step = found.step
                notes.append(f"continuing after step {self.step} of {self.total}")
                if found.training["data"] != self.train.fingerprint():
                    notes.append("the images have changed since: the run goes on, but not exactly as it would have")
                if found.training["threads"] != torch.get_num_threads():
                    notes.append("the number of threads has changed since: sums may differ in their last bits")
                break
            notes.append(f"checkpoint {found[0].name} is damaged ({found[1]}), taking the one before")
        if self.accelerator.is_main_process:
            self.run.rewind(self.step)
            checkpoint.clear_temporary(self.run.checkpoints)
        return "; ".join(notes)

    def stopped(self, finding: NonFinite, batches: Sequence[Batch]) -> PmaeError:
        """Keep the batch that broke the run, and say what to do."""
        kept = self.run.path / f"failed-batch-{self.step + 1:08d}.safetensors"
        images = torch.cat([batch.images for batch in batches])
        names = json.dumps([name for batch in batches for name in batch.names])
        if self.accelerator.is_main_process:
            write_atomically(kept, lambda temporary: save_file({"images": images}, temporary, {"names": names}))
        saved = [path.name for path in checkpoint.checkpoints(self.run.checkpoints)]
        last = f"checkpoints/{saved[-1]} holds the last good weights" if saved else "there is no checkpoint yet"
        return PmaeError(
            f"step {self.step + 1}: {finding}; {last}, {kept.name} the batch. "
            "A lower --lr, --optimizer.clip-grad 1 or --precision fp32 (with another --out) may help"
        )

    def agreed(self, signal: int) -> int:
        """The signal that any process was sent: all stop together, or none."""
        if self.accelerator.num_processes == 1:
            return signal
        return int(self.accelerator.gather(torch.tensor([signal], device=self.accelerator.device)).max())
