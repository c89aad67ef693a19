"""Every setting of a pre-training run: the command line, the YAML file and the Python API are made from these classes.

Imports no torch, so that `pmae pretrain --help` answers at once.
"""

from dataclasses import dataclass, field
from typing import Literal

from perceptual_mae.augment.settings import CropConfig
from perceptual_mae.errors import UsageError, nearest, printable
from perceptual_mae.methods import METHODS, Architecture
from perceptual_mae.pretraining.loss_config import AdaConfig, DiscriminatorConfig, LossesConfig, PathConfig
from perceptual_mae.pretraining.recipe import RECIPES
from perceptual_mae.settings import check_workers, free
from perceptual_mae.training.config import (
    CheckpointConfig,
    LoaderConfig,
    SpikeConfig,
    Tracker,
    betas_rule,
    common_rules,
    image_side,
)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule.

    Attributes:
        betas: decay rates of AdamW's moments.
        weight_decay: decay of weights; biases, norms and other vectors have none.
        warmup_epochs: epochs of linear warm-up; default: the recipe's share of the run, 40 of 300.
        accumulate: micro-batches per step; the batch is cut into so many pieces, for machines it does not fit on.
        clip_grad: largest norm of the gradient; null: not clipped (the recipe).
    """

    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    warmup_epochs: float | None = None
    accumulate: int = 1
    clip_grad: float | None = None


@dataclass(frozen=True)
class PixelConfig:
    """What a pixel is.

    Attributes:
        channels: channels of the images: 1 (grey), 3 (RGB), 4 (RGB and alpha); any number of TIFF and .npy files.
        mean: per-channel mean of images in [0, 1]; default: ImageNet's for 3 channels, else 0.5.
        std: per-channel standard deviation; default: ImageNet's for 3 channels, else 0.25.
        norm_pix_loss: predict patches normalised each by its own mean and variance.
    """

    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    norm_pix_loss: bool = False


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder, where it is not as the size has it.

    Attributes:
        depth: transformer blocks; default: the size's.
    """

    depth: int | None = None


@dataclass(frozen=True)
class LogConfig:
    """What a run writes down.

    Attributes:
        every: steps between lines of metrics.jsonl.
        pictures: reconstruction grids drawn in a run, more closely spaced in its beginning; 0: none.
        picture_images: images in a grid.
        validate_every: epochs between measurements on validation images, where there are any; 0: never.
        validation_images: how many of them are looked at.
        knn_every: epochs between k-nearest-neighbour classifications of the validation images; 0: never. Needs labels.
        knn_images: training images whose neighbours vote.
        tensorboard: write TensorBoard files beside metrics.jsonl.
        trackers: tell these as well: wandb, mlflow, trackio; each needs its package, and where it sends things is
            for its own environment variables to say.
        project: what trackers file the run under.
    """

    every: int = free(20)
    pictures: int = free(12)
    picture_images: int = free(8)
    validate_every: float = free(1.0)
    validation_images: int = free(1000)
    knn_every: float = free(0.0)
    knn_images: int = free(5000)
    tensorboard: bool = free(True)
    trackers: tuple[Tracker, ...] = free(())
    project: str = free("perceptual-mae")


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-train a Vision Transformer on your images.

    Attributes:
        data: folder of images, parquet file or folder, wds:SHARDS, stream:SHARDS (also a URL), hub:USER/NAME, a
            torchvision name such as cifar10, or photos (built in).
        out: run folder; a run that is already there is continued.
        val_data: images to validate on; default: the validation split of --data, where it has one.
        method: row of the paper's Table 2: mse, ms-ssim, ls-gan, ls-gan-p, msg-gan, msg-gan-p, stylegan2-ada-p,
            dvae-p; or timm-p.
        recipe: default: the gradient of a term that looks through a discriminator is limited, relative to that of the
            pixels; paper: eq. 1 as it stands, and the paper's learning rate.
        architecture: generator of the row, where it has two: msg-mae has U-Net skips; default: the row's first.
        loss_network: fixed network that dvae-p and timm-p look through: dvae:FILE, timm:NAME or timm:NAME:FILE.
        loss_network_size: side of the images that it sees, in pixels; default: those of the model.
        init: weights to start from: timm:NAME, timm:NAME:FILE, hub:USER/NAME, a weights file or a run; default: random.
        model: size of the Vision Transformer.
        image_size: side of the images in pixels, or HEIGHTxWIDTH.
        patch_size: side of a patch in pixels.
        epochs: passes over the images. More than before extends a finished run.
        max_steps: stop after so many steps, if that is earlier.
        batch_size: images per step, over all processes and micro-batches together.
        lr: learning rate; default: 6e-4 (micro: 1.5e-3) x sqrt(batch size / 256); with --recipe paper 1.5e-4 x batch
            size / 256.
        mask_ratio: share of the patches that is removed.
        precision: auto is bf16 on GPUs that have it, else fp32.
        device: auto is a GPU if there is one.
        workers: processes that read images; auto suits the device.
        seed: of everything random.
        save_every: steps between checkpoints.
        compile: compile the model with torch.compile (needs a C++ compiler; minutes of set-up).
        sharding: how several processes hold the model: ddp, each all of it; fsdp, each a share, for large and huge.
    """

    data: str
    out: str = free("runs/pretrain")
    val_data: str | None = None
    method: str = "mse"
    recipe: Literal["default", "paper"] = "default"
    architecture: Architecture | None = None
    loss_network: str | None = None
    loss_network_size: int | None = None
    init: str | None = None
    model: Literal["micro", "tiny", "small", "base", "large", "huge"] = "base"
    image_size: int | str = 224
    patch_size: int = 16
    epochs: int = free(300)
    max_steps: int | None = free(None)
    batch_size: int = 256
    lr: float | None = None
    mask_ratio: float = 0.75
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = free("auto")
    workers: int | Literal["auto"] = free("auto")
    seed: int = 0
    save_every: int = free(500)
    compile: bool = False
    sharding: Literal["ddp", "fsdp"] = free("ddp")
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    pixels: PixelConfig = field(default_factory=PixelConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    losses: LossesConfig = field(default_factory=LossesConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    ada: AdaConfig = field(default_factory=AdaConfig)
    path: PathConfig = field(default_factory=PathConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    spikes: SpikeConfig = field(default_factory=SpikeConfig)

    @property
    def size(self) -> tuple[int, int]:
        """`image_size` as `(height, width)`.

        Raises:
            UsageError: it is neither a number nor HEIGHTxWIDTH.
        """
        return image_side(self.image_size)

    @property
    def total_epochs(self) -> int:
        """Passes over the images."""
        return self.epochs

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: `lr`, or the recipe's for this model and batch."""
        return self.lr if self.lr is not None else RECIPES[self.recipe].learning_rate(self.model, self.batch_size)

    def warmup_share(self, epochs: float) -> float:
        """Share of a run of so many epochs (`max_steps` may make them fewer than `self.epochs`) that is warm-up."""
        warmup = self.optimizer.warmup_epochs
        return 40 / 300 if warmup is None else min(1.0, warmup / epochs)

    def r1_gamma(self, images: int) -> float:
        """Weight of the R1 penalty: `discriminator.r1_gamma`, or StyleGAN2-ADA's heuristic (arXiv 2006.06676).

        Args:
            images: of a step.
        """
        height, width = self.size
        given = self.discriminator.r1_gamma
        return 0.0002 * height * width / images if given is None else given

    def check(self) -> None:
        """Refuse settings that cannot be right.

        Raises:
            UsageError: one line that names the flag.
        """
        if self.method not in METHODS:
            named = printable(self.method)[:60]
            raise UsageError(f"--method {named}: there are {', '.join(METHODS)}{nearest(self.method, METHODS)}")
        method = METHODS[self.method]
        height, width = self.size
        patch, pieces, rows = self.patch_size, self.optimizer.accumulate, method.rows
        fits = patch > 0 and min(height, width) > 0 and height % patch == width % patch == 0
        divides = pieces >= 1 and self.batch_size % pieces == 0
        architecture = f"--architecture {self.architecture}: the method {self.method} has only {' and '.join(rows)}"
        unused = f"the method {self.method} looks through no fixed network; leave it out, or use "
        unused += " or ".join(name for name, other in METHODS.items() if other.loss_network)
        small = f"--image-size {self.image_size}: the discriminator of {self.method} needs at least 32 pixels a side"
        cut, exact = self.sharding == "fsdp", self.path.estimator == "exact"
        patches = (height // patch) * (width // patch) if fits else 0
        kept = max(1, int(patches * (1 - self.mask_ratio))) if 0 <= self.mask_ratio < 1 else 0  # see models.masking
        hidden = kept < patches or any(term.loss != "masked-mse" for term in method.terms)
        nothing = f"removes none of the {patches} patches, and {self.method} learns from those alone"
        deviations = list(self.pixels.std or ())
        rules = [
            (not (cut and self.compile), "--compile true: not with --sharding fsdp; leave one of them out"),
            (not (cut and exact), "--path.estimator exact: not with --sharding fsdp; use finite-difference"),
            (patch > 0, f"--patch-size {patch}: must be at least 1"),
            (fits, f"--image-size {self.image_size}: not a multiple of --patch-size {patch}"),
            (self.architecture is None or self.architecture in rows, architecture),
            (method.adversary is None or min(height, width) >= 32, small),
            (bool(method.loss_network) or not self.loss_network, f"--loss-network {self.loss_network}: {unused}"),
            (0 <= self.mask_ratio < 1, f"--mask-ratio {self.mask_ratio}: must lie between 0 and 1 (1 excluded)"),
            (hidden or not fits, f"--mask-ratio {self.mask_ratio}: {nothing}"),
            *common_rules(self.seed, self.optimizer),
            betas_rule("discriminator.betas", self.discriminator.betas),
            (all(one > 0 for one in deviations), f"--pixels.std {deviations}: must be positive"),
            (divides, f"--optimizer.accumulate {pieces}: must divide --batch-size {self.batch_size}"),
            (0 <= self.losses.alpha <= 1, f"--losses.alpha {self.losses.alpha}: must lie between 0 and 1"),
            (0 <= self.ada.start <= 1, f"--ada.start {self.ada.start}: must lie between 0 and 1"),
            (-1 <= self.ada.target <= 1, f"--ada.target {self.ada.target}: must lie between -1 and 1"),
            (0 < self.path.decay <= 1, f"--path.decay {self.path.decay}: must lie between 0 (excluded) and 1"),
            *(
                (value is None or value >= least, f"--{flag} {value}: must be {words}")
                for flag, value, least, words in self._least()
            ),
        ]
        for fine, complaint in rules:
            if not fine:
                raise UsageError(complaint)
        check_workers(self.workers)

    def _least(self) -> list[tuple[str, float | None, float, str]]:
        """Settings that have a lower limit: flag, value, limit, and the limit in words."""
        discriminator, losses = self.discriminator, self.losses
        one, zero, tiny = (1, "at least 1"), (0, "0 or more"), (5e-324, "positive")
        return [
            ("batch-size", self.batch_size, *one),
            ("epochs", self.epochs, *one),
            ("max-steps", self.max_steps, *one),
            ("save-every", self.save_every, *one),
            ("lr", self.lr, *tiny),
            ("loss-network-size", self.loss_network_size, *one),
            ("pixels.channels", self.pixels.channels, *one),
            ("decoder.depth", self.decoder.depth, *one),
            ("log.picture-images", self.log.picture_images, *one),
            ("log.every", self.log.every, *one),
            ("log.validation-images", self.log.validation_images, *one),
            ("log.knn-images", self.log.knn_images, *one),
            ("checkpoint.keep", self.checkpoint.keep, *one),
            ("loader.lanes", self.loader.lanes, *one),
            ("loader.shuffle-buffer", self.loader.shuffle_buffer, *one),
            ("loader.cache-gib", self.loader.cache_gib, *tiny),
            ("loader.timeout", self.loader.timeout, *tiny),
            ("loader.retries", self.loader.retries, *zero),
            ("checkpoint.milestones", self.checkpoint.milestones, *zero),
            ("spikes.patience", self.spikes.patience, *zero),
            ("spikes.rollbacks", self.spikes.rollbacks, *zero),
            ("losses.delta-f", losses.delta_f, *zero),
            ("losses.delta-s", losses.delta_s, *zero),
            ("losses.adversarial", losses.adversarial, *zero),
            ("losses.adversarial-balance", losses.adversarial_balance, *tiny),
            ("losses.feature-balance", losses.feature_balance, *tiny),
            ("losses.perceptual-every", losses.perceptual_every, *one),
            ("discriminator.lr", discriminator.lr, *tiny),
            ("discriminator.channel-base", discriminator.channel_base, *one),
            ("discriminator.channel-max", discriminator.channel_max, *one),
            ("discriminator.r1-gamma", discriminator.r1_gamma, *zero),
            ("discriminator.r1-every", discriminator.r1_every, *one),
            ("ada.images", self.ada.images, *one),
            ("ada.every", self.ada.every, *one),
            ("path.weight", self.path.weight, *zero),
            ("path.every", self.path.every, *one),
        ]
