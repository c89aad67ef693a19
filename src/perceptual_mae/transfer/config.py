"""Every setting of a fine-tuning run: the command line, the YAML file and the Python API are made from these classes.

Imports no torch, so that `pmae finetune TASK --help` answers at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from perceptual_mae.augment.settings import CropConfig
from perceptual_mae.errors import UsageError
from perceptual_mae.settings import check_workers, free, from_dict
from perceptual_mae.training.config import (
    CheckpointConfig,
    LoaderConfig,
    SpikeConfig,
    Tracker,
    common_rules,
    image_side,
)
from perceptual_mae.transfer.recipe import RECIPES, Recipe


@dataclass(frozen=True)
class FinetuneOptimizerConfig:
    """AdamW, where it differs from the recipe.

    Attributes:
        betas: decay rates of AdamW's moments; default: the recipe's.
        weight_decay: decay of weights; default: the recipe's. Biases, norms, tokens and position embeddings have none.
        warmup_epochs: epochs of linear warm-up; default: the recipe's, but at most a fifth of the run.
        accumulate: micro-batches per step; the batch is cut into so many pieces, for machines it does not fit on.
        clip_grad: largest norm of the gradient; null: not clipped.
    """

    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    accumulate: int = 1
    clip_grad: float | None = None


@dataclass(frozen=True)
class FinetuneLogConfig:
    """What a run writes down.

    Attributes:
        every: steps between lines of metrics.jsonl.
        evaluate_every: epochs between evaluations on the validation images; the end of the run is always one.
        pictures: validation images whose predictions are drawn at each evaluation; 0: none.
        tensorboard: write TensorBoard files beside metrics.jsonl.
        trackers: tell these as well: wandb, mlflow, trackio; each needs its package, and where it sends things is
            for its own environment variables to say.
        project: what trackers file the run under.
    """

    every: int = free(20)
    evaluate_every: float = free(1.0)
    pictures: int = free(12)
    tensorboard: bool = free(True)
    trackers: tuple[Tracker, ...] = free(())
    project: str = free("perceptual-mae")


@dataclass(frozen=True)
class FinetuneConfig:
    """Teach an encoder a labelled task.

    Attributes:
        task: what is learnt.
        encoder: run folder, weights file, timm:NAME, timm:NAME:FILE, hub:USER/NAME, or random:SIZE/PATCH for a floor.
        data: labelled images.
        out: run folder; a run that is already there is continued.
        val_data: images to validate on; default: the validation split of --data.
        image_size: side of the images in pixels, or HEIGHTxWIDTH; default: the encoder's own.
        recipe: whose settings hold where none are given.
        epochs: passes over the images; default: the recipe's. More than before extends a finished run.
        max_steps: stop after so many steps, if that is earlier.
        batch_size: images per step, over all processes and micro-batches together.
        lr: learning rate of the head at its peak; default: the recipe's.
        layer_decay: a block learns at so many times the rate of the block above it; default: the recipe's.
        drop_path: share of residual branches dropped in the last block; default: the recipe's.
        ema: evaluate and keep a moving average of the weights with this decay, such as 0.9999; 0: the weights.
        precision: auto is bf16 on GPUs that have it, else fp32.
        device: auto is a GPU if there is one.
        workers: processes that read images; auto suits the device.
        seed: of everything random.
        save_every: steps between checkpoints.
    """

    encoder: str
    data: str
    task: Literal["classification", "detection", "segmentation"] = "classification"
    out: str = free("runs/finetune")
    val_data: str | None = None
    image_size: int | str | None = None
    recipe: Literal["mae", "paper"] = "mae"
    epochs: int | None = free(None)
    max_steps: int | None = free(None)
    batch_size: int = 256
    lr: float | None = None
    layer_decay: float | None = None
    drop_path: float | None = None
    ema: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = free("auto")
    workers: int | Literal["auto"] = free("auto")
    seed: int = 0
    save_every: int = free(500)
    optimizer: FinetuneOptimizerConfig = field(default_factory=FinetuneOptimizerConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    log: FinetuneLogConfig = field(default_factory=FinetuneLogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    spikes: SpikeConfig = field(default_factory=SpikeConfig)

    @property
    def size(self) -> tuple[int, int] | None:
        """`image_size` as `(height, width)`; None: the encoder's own.

        Raises:
            UsageError: it is neither a number nor HEIGHTxWIDTH.
        """
        return None if self.image_size is None else image_side(self.image_size)

    @property
    def rules(self) -> Recipe:
        """The recipe of this task.

        Raises:
            UsageError: the task has none of this name.
        """
        recipes = RECIPES[self.task]
        if self.recipe not in recipes:
            raise UsageError(f"--recipe {self.recipe}: {self.task} has only {' and '.join(recipes)}")
        return recipes[self.recipe]

    @property
    def total_epochs(self) -> int:
        """Passes over the images."""
        return self.rules.epochs if self.epochs is None else self.epochs

    @property
    def learning_rate(self) -> float:
        """The head's learning rate at its peak."""
        rules = self.rules
        return (
            (rules.lr if rules.per is None else rules.lr * self.batch_size / rules.per) if self.lr is None else self.lr
        )

    def warmup_share(self, epochs: float) -> float:
        """Share of a run of so many epochs (`max_steps` may make them fewer) that is warm-up."""
        given = self.optimizer.warmup_epochs
        return min(0.2, self.rules.warmup_epochs / epochs) if given is None else min(1.0, given / epochs)

    def check(self) -> None:
        """Refuse settings that cannot be right.

        Raises:
            UsageError: one line that names the flag.
        """
        pieces, decay, drop, kept = self.optimizer.accumulate, self.layer_decay, self.drop_path, self.checkpoint
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"--image-size {self.image_size}: must be at least 1")
        divides = pieces >= 1 and self.batch_size % pieces == 0
        rules = [
            (self.total_epochs >= 1, f"--epochs {self.epochs}: must be at least 1"),
            (self.max_steps is None or self.max_steps >= 1, f"--max-steps {self.max_steps}: must be at least 1"),
            (self.batch_size >= 1, f"--batch-size {self.batch_size}: must be at least 1"),
            (divides, f"--optimizer.accumulate {pieces}: must divide --batch-size {self.batch_size}"),
            (self.learning_rate > 0, f"--lr {self.lr}: must be positive"),
            (decay is None or 0 < decay <= 1, f"--layer-decay {decay}: must lie between 0 (excluded) and 1"),
            (drop is None or 0 <= drop < 1, f"--drop-path {drop}: must lie between 0 and 1 (1 excluded)"),
            (0 <= self.ema < 1, f"--ema {self.ema}: must lie between 0 and 1 (1 excluded), such as 0.9999"),
            (self.save_every >= 1, f"--save-every {self.save_every}: must be at least 1"),
            (self.log.every >= 1, f"--log.every {self.log.every}: must be at least 1"),
            (self.log.evaluate_every > 0, f"--log.evaluate-every {self.log.evaluate_every}: must be positive"),
            (self.log.pictures >= 0, f"--log.pictures {self.log.pictures}: must be 0 or more"),
            (kept.keep >= 1, f"--checkpoint.keep {kept.keep}: must be at least 1"),
            (kept.milestones >= 0, f"--checkpoint.milestones {kept.milestones}: must be 0 or more"),
            *(
                (value >= 0, f"--spikes.{name} {value}: must be 0 or more")
                for name, value in (("patience", self.spikes.patience), ("rollbacks", self.spikes.rollbacks))
            ),
            *common_rules(self.seed, self.optimizer),
            *self._rules(),
        ]
        for fine, complaint in rules:
            if not fine:
                raise UsageError(complaint)
        check_workers(self.workers)

    def _rules(self) -> list[tuple[bool, str]]:
        """What a task has to say of its own settings: whether each is fine, and what to say if not."""
        return []


@dataclass(frozen=True)
class MixConfig:
    """What is done to classified images; as in MAE's fine-tuning.

    Attributes:
        auto_augment: RandAugment in timm's words; null: none. For RGB images.
        erasing: probability that a rectangle of an image is replaced by noise.
        mixup: alpha of mixup; 0: none.
        cutmix: alpha of CutMix; 0: none.
        smoothing: label smoothing.
    """

    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1


@dataclass(frozen=True)
class ClassificationConfig(FinetuneConfig):
    """Teach an encoder to classify: a folder of images whose sub-folders are labels, a parquet file, ..."""

    task: Literal["classification"] = "classification"
    crop: CropConfig = field(default_factory=lambda: CropConfig(scale=(0.08, 1.0)))
    mix: MixConfig = field(default_factory=MixConfig)

    def _rules(self) -> list[tuple[bool, str]]:
        mix = self.mix
        shares = {"erasing": mix.erasing, "smoothing": mix.smoothing}
        return [
            *((0 <= value < 1, f"--mix.{name} {value}: must lie between 0 and 1") for name, value in shares.items()),
            (mix.mixup >= 0, f"--mix.mixup {mix.mixup}: must be 0 or more"),
            (mix.cutmix >= 0, f"--mix.cutmix {mix.cutmix}: must be 0 or more"),
        ]


@dataclass(frozen=True)
class DetectionConfig(FinetuneConfig):
    """Teach an encoder to detect and outline objects: a folder of images with annotations as COCO has them.

    Attributes:
        backbone: plain: the Vision Transformer as it is; windowed: ViTDet's, for large images.
        window: side of a window, in patches.
        pyramid: last: maps of all scales from the encoder's last one; several: from four of its blocks; auto: several
            for an encoder that was pre-trained with skips to its decoder (msg-mae), as the paper does, else last.
        jitter: least and greatest scale of large-scale jitter.
        sampled: boxes of an image that the heads learn from in a step; fewer make steps on a CPU much cheaper.
    """

    task: Literal["detection"] = "detection"
    recipe: Literal["mae"] = "mae"
    batch_size: int = 16
    backbone: Literal["plain", "windowed"] = "plain"
    window: int = 14
    pyramid: Literal["auto", "last", "several"] = "auto"
    jitter: tuple[float, float] = (0.1, 2.0)
    sampled: int = 512

    def _rules(self) -> list[tuple[bool, str]]:
        low, high = self.jitter
        words = f"--jitter {list(self.jitter)}: give least and greatest scale, such as [0.1, 2.0]"
        least = {"window": self.window, "sampled": self.sampled}
        positive = [(value >= 1, f"--{name} {value}: must be at least 1") for name, value in least.items()]
        return [*positive, (0 < low <= high, words)]


@dataclass(frozen=True)
class SegmentationConfig(FinetuneConfig):
    """Teach an encoder to name every pixel: a folder of images and masks as ADE20K has them.

    Attributes:
        scale: least and greatest scale of the images before they are cropped.
        head_width: channels of UperNet's head; default: suited to the encoder's width.
    """

    task: Literal["segmentation"] = "segmentation"
    recipe: Literal["mae"] = "mae"
    batch_size: int = 16
    scale: tuple[float, float] = (0.5, 2.0)
    head_width: int | None = None

    def _rules(self) -> list[tuple[bool, str]]:
        low, high = self.scale
        words = f"--scale {list(self.scale)}: give least and greatest scale, such as [0.5, 2.0]"
        width = self.head_width
        return [(0 < low <= high, words), (width is None or width >= 1, f"--head-width {width}: must be at least 1")]


CONFIGS: dict[str, type[FinetuneConfig]] = {
    "classification": ClassificationConfig,
    "detection": DetectionConfig,
    "segmentation": SegmentationConfig,
}


def config_of(settings: Mapping[str, Any]) -> FinetuneConfig:
    """The settings of a run, of the class that its task has.

    Raises:
        UsageError: it is no fine-tuning run, or a setting does not exist.
    """
    task = settings.get("task")
    if not isinstance(task, str) or task not in CONFIGS:
        what = f"there is no task {task!r:.40}" if task else "this is no run of `pmae finetune`"
        raise UsageError(f"{what}; there are {', '.join(CONFIGS)}")
    return from_dict(CONFIGS[task], settings)
