"""Pre-training: what its loop reads, steps and writes down."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from accelerate import Accelerator
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from perceptual_mae.augment.ada import draw_ada
from perceptual_mae.data import Batch, Source, plan_for, train_loader
from perceptual_mae.files import write_atomically
from perceptual_mae.models import SIZES, MaskedAutoencoder
from perceptual_mae.models.masking import draw_noise
from perceptual_mae.pretraining.build import build_model
from perceptual_mae.pretraining.cast import build_cast
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.pretraining.health import LONG, health
from perceptual_mae.pretraining.moment import Moment, Observer
from perceptual_mae.pretraining.player import MicroBatch
from perceptual_mae.seeds import Stream, generator
from perceptual_mae.training.folder import Record
from perceptual_mae.training.loop import TrainingLoop
from perceptual_mae.training.schedule import Clock
from perceptual_mae.training.sharded import is_cut, load_network, whole, whole_state
from perceptual_mae.weight_files import encoder_metadata


class Trainer(TrainingLoop[RunFolder, Batch]):
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
        config = self.config = run.config
        order = config.loader
        plan = plan_for(train, config.batch_size, config.seed, order.lanes, order.shuffle_buffer)
        super().__init__(run, plan, train.fingerprint(), accelerator, console)
        self.train, self.validation, self.observers = train, validation, observers

        cast = build_cast(config, accelerator, plan.images_per_step)
        self.model, self.players, self.modules, self.take_step = cast.model, cast.players, cast.modules, cast.step
        self.optimizers = {name: (player.optimizer, player.lr) for name, player in cast.players.items()}
        self.recent: deque[Record] = deque(maxlen=2 * LONG)
        self.health = "balanced"

    def improve(self, batches: Sequence[Batch]) -> dict[str, float]:
        """See `TrainingLoop.improve`."""
        return self.take_step(self.on_device(batches), Clock(self.step, self.plan.steps_per_epoch))

    def start_from(self, model: MaskedAutoencoder) -> None:
        """Put other initial weights, those of a model of the same sizes, in the place of random ones."""
        load_network(self.model, model.state_dict())

    # -- data ----------------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[tuple[Batch, ...]]:
        """See `TrainingLoop.batches`."""
        config, accelerator = self.config, self.accelerator
        micro = config.optimizer.accumulate
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
            workers=self.workers(),
            max_pixels=config.loader.max_pixels,
            pin_memory=accelerator.device.type == "cuda",
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
            return numbers[place : place + sum(sizes)].split(sizes)

        def there(numbers: Tensor) -> Tensor:
            return numbers.to(device, non_blocking=True)

        masks = generator(self.config.seed, Stream.MASKS, self.step)
        noise = mine(there(draw_noise(images, self.model.num_patches, masks, torch.device("cpu"))))
        changes: Sequence[Tensor | None] = [None] * len(batches)
        if self.take_step.augments:
            changes = mine(there(draw_ada(images, generator(self.config.seed, Stream.AUGMENTATION, self.step))))
        others = generator(self.config.seed, Stream.PATH_LENGTH, self.step)
        seeds = mine(torch.randint(2**62, (images,), generator=others))
        pixels = [there(batch.images) for batch in batches]
        return [MicroBatch(*parts) for parts in zip(pixels, noise, changes, seeds, strict=True)]

    # -- what is written down ------------------------------------------------------------------------------------------

    def observe(self) -> dict[str, float]:
        """Let observers look, on the main process, and collect their numbers."""
        clock = Clock(self.step, self.plan.steps_per_epoch)
        moment = Moment(clock, self.total, self.model, self.train, self.validation, self.run)
        due = [observer for observer in self.observers if observer.due(moment)]
        if not due:
            return {}
        whole = self.whole_model()
        observed: dict[str, float] = {}
        if whole is not None:
            with self.stop.hurries():
                for observer in due:
                    observed |= observer(replace(moment, model=whole))
        return observed

    def whole_model(self) -> MaskedAutoencoder | None:
        """The model to look at, on the main process; where it is cut over processes, a copy that is not.

        All processes must ask for it together.
        """
        main = self.accelerator.is_main_process
        if not is_cut(self.model):
            return self.model if main else None
        state = whole_state(self.model)
        if not main:
            return None
        model = build_model(self.config)
        model.load_state_dict(state)
        return model.to(self.accelerator.device).train(self.model.training)

    def logged(self, record: Record) -> None:
        """Say so, once, when the game between generator and discriminator is lost."""
        self.recent.append(record)
        found = health(self.recent)
        if found and found.state != self.health:
            self.health = found.state
            if self.console is not None and found.state != "balanced":
                self.console.print(f"step {self.step}: {found.words}", highlight=False, markup=False)

    def saved(self) -> None:
        """Write the encoder under timm's names beside the checkpoint."""
        encoder = {name: whole(tensor).contiguous() for name, tensor in self.model.encoder_state_dict().items()}
        if not self.accelerator.is_main_process:
            return
        mean, std = (getattr(self.model, name).flatten().tolist() for name in ("mean", "std"))
        metadata = encoder_metadata(self.config.size, mean, std, SIZES[self.config.model].num_heads)
        metadata |= {"method": self.config.method, "model": self.config.model, "step": str(self.step)}
        path = self.run.path / "encoder.safetensors"
        write_atomically(path, lambda temporary: save_file(encoder, temporary, metadata))
