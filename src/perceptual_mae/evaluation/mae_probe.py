"""MAE's own linear probing (arXiv 2111.06377, appendix A.1): a linear layer on augmented images, through the network.

Every epoch takes new crops of all images through the frozen encoder, so it costs about what a pass of inference costs.
What is trained is the last layer alone. An interrupted probe goes on after its last whole epoch, exactly.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.optim import Lars
from torch import Tensor, nn

from perceptual_mae.data import MAX_PIXELS, SamplePlan, Source, eval_batches, to_float, train_loader
from perceptual_mae.data.subset import labels_of
from perceptual_mae.errors import PmaeError
from perceptual_mae.evaluation.feature_cache import images_digest, weights_digest
from perceptual_mae.evaluation.features import Pool, Reading, part_of
from perceptual_mae.evaluation.linear_probe import ProbeResult
from perceptual_mae.evaluation.probe_config import MaeProbeConfig
from perceptual_mae.evaluation.scores import check_labels, labelled, score
from perceptual_mae.files import write_atomically
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.seeds import Stream, generator
from perceptual_mae.training.device import has_bf16

STATE = "probe.pt"
"""File in the probe's folder: its layer, its optimiser, and how many epochs are done."""

_log = logging.getLogger(__name__)


def mae_probe(
    encoder: Encoder,
    train: Source,
    test: Source,
    config: MaeProbeConfig | None = None,
    *,
    pool: Pool = "cls",
    block: int | None = None,
    folder: Path | None = None,
    workers: int = 0,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> ProbeResult:
    """Train a linear layer on random crops of the training images, and test it on central crops.

    Images without a label (-1) teach and test nothing.

    Args:
        encoder: frozen, on the device where it is to work.
        train, test: sources whose labels mean the same classes.
        config: `MaeProbeConfig()` where None.
        pool: what stands for an image; MAE's probe takes the [CLS] token.
        block: the output of this transformer block, as in `Encoder`; None: of the network.
        folder: where its state is kept after every epoch; None: nowhere. A state of other settings, images or weights
            is written over.
        workers: processes that read images.
        max_pixels: larger images are skipped unread.
        progress: called with the steps that are done, and all.

    Returns:
        its scores; `lr` is the peak learning rate, and none was chosen.

    Raises:
        NothingToClassify: there are not two labelled classes, or no labelled test image.
        UsageError: the encoder has no such block.
        PmaeError: no image can be read, or the loss is not finite.
        ValueError: the classes of the sources differ.
    """
    config = config or MaeProbeConfig()
    Reading(block).depends(encoder)  # refuses a block that is not there before anything is read
    if train.classes != test.classes:
        raise ValueError("train and test number their classes differently: see data.subset.Relabelled")
    found = [torch.from_numpy(labels_of(source)) for source in (train, test)]
    train_labels, test_labels = (labels[labels >= 0] for labels in found)
    classes = check_labels(train_labels, test_labels)

    training = ProbeTraining(encoder, classes, config, pool, block)
    plan = SamplePlan(len(train), config.batch_size, config.seed)
    steps = config.epochs * plan.steps_per_epoch
    if folder is not None:
        training.keep_in(folder, [images_digest(train), images_digest(test)], max_pixels)
    loader = train_loader(
        train,
        plan,
        image_size=encoder.image_size,
        channels=encoder.in_channels,
        crop=config.crop,
        first_step=training.epoch * plan.steps_per_epoch,
        last_step=steps,
        workers=workers,
        max_pixels=max_pixels,
        pin_memory=training.device.type == "cuda",
    )
    for step, batch in enumerate(loader, start=training.epoch * plan.steps_per_epoch):
        training.step(batch.images, batch.labels, step / plan.steps_per_epoch)
        if (step + 1) % plan.steps_per_epoch == 0:
            training.end_epoch()
        if progress is not None:
            progress(step + 1, steps)

    logits, labels = [], []
    for batch in eval_batches(
        test,
        image_size=encoder.image_size,
        channels=encoder.in_channels,
        batch_size=config.batch_size,
        max_pixels=max_pixels,
        workers=workers,
    ):
        logits.append(training.logits(batch.images))
        labels.append(batch.labels)
    return ProbeResult(score(*labelled(torch.cat(logits), torch.cat(labels)), train_labels), config.lr)


class ProbeTraining:
    """The layer that is trained, step by step.

    Args:
        encoder: frozen.
        classes: C.
        config, pool, block: see `mae_probe`.

    Attributes:
        head: BatchNorm without affine and a linear layer.
        epoch: whole epochs done.
    """

    def __init__(
        self, encoder: Encoder, classes: int, config: MaeProbeConfig, pool: Pool = "cls", block: int | None = None
    ) -> None:
        self.encoder, self.config, self.pool, self.block = encoder, config, pool, block
        self.classes, self.device = classes, encoder.mean.device
        self.part = part_of(pool, 2 * encoder.embed_dim)
        self.head = make_head(self.part.stop - self.part.start, classes, config.seed).to(self.device)
        self.optimizer = make_lars(self.head, config.momentum)
        self.epoch = 0
        self._file: Path | None = None
        self._identity: dict[str, Any] = {}

    def step(self, images: Tensor, labels: Tensor, epoch: float) -> None:
        """One step on `(B, C, H, W)` uint8 images, after so many epochs; a batch without two labels is left out.

        Raises:
            PmaeError: the loss is not finite.
        """
        known = labels >= 0
        if int(known.sum()) < 2:  # BatchNorm has nothing to compare
            return
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(epoch, self.config)
        logits = self.head.train()(self.features(images[known]))
        loss = F.cross_entropy(logits, labels[known].to(self.device))
        if not loss.isfinite():
            raise PmaeError(f"linear probe of {self.encoder.name}: the loss is not finite; lower the learning rate")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """`(B, C)` on the CPU, of images to test."""
        return self.head.eval()(self.features(images)).cpu()

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """`(B, D)` or, for both, `(B, 2D)` float32 on the device; in bf16 where a GPU has it, as cached features."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_bf16(self.device.type)):
            tokens = self.encoder(to_float(images.to(self.device, non_blocking=True)), self.block).float()
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)[:, self.part]

    def end_epoch(self) -> None:
        """Note that an epoch is done, on disk too where there is a folder."""
        self.epoch += 1
        if self._file is not None:
            state = {
                "identity": self._identity,
                "epoch": self.epoch,
                "head": self.head.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            write_atomically(self._file, lambda file: torch.save(state, file))

    def keep_in(self, folder: Path, images: list[str], max_pixels: int = MAX_PIXELS) -> None:
        """Keep the state in a folder from now on, and go on from the one that is there if it is of the same training.

        Args:
            folder: made where it is missing.
            images: digests of the images that are learnt from and tested on.
            max_pixels: larger ones of them are skipped.
        """
        self._file = folder / STATE
        self._identity = {
            "config": asdict(self.config),
            "pool": self.pool,
            "block": self.block,
            "weights": weights_digest(self.encoder),
            "images": images,
            "classes": self.classes,
        }
        if max_pixels != MAX_PIXELS:  # nothing is said of what is usual: states of before it counted stay right
            self._identity["max_pixels"] = max_pixels
        if not self._file.exists():
            return
        try:
            state = torch.load(self._file, map_location="cpu", weights_only=True)
            same = state["identity"] == self._identity
        except Exception as error:  # what the bytes of a damaged pickle raise is anybody's guess
            _log.warning("%s cannot be read (%s): the probe starts anew", self._file, type(error).__name__)
            return
        if same:
            self.epoch = state["epoch"]
            self.head.load_state_dict(state["head"])
            self.optimizer.load_state_dict(state["optimizer"])


def make_head(dim: int, classes: int, seed: int) -> nn.Sequential:
    """BatchNorm without affine, which brings features of any scale to one, and a linear layer: `(B, D)` to `(B, C)`."""
    linear = nn.Linear(dim, classes)
    nn.init.trunc_normal_(linear.weight, std=0.01, generator=generator(seed, Stream.STEP))
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.BatchNorm1d(dim, affine=False, eps=1e-6), linear)


def make_lars(head: nn.Sequential, momentum: float) -> Lars:
    """LARS as in MAE: the weight's gradient is scaled by 0.001 |weight| / |gradient|, then momentum; the bias has SGD.

    Without weight decay timm's Lars is plain SGD unless it is told to adapt always.
    """
    linear = head[1]
    groups = [{"params": [linear.weight], "always_adapt": True}, {"params": [linear.bias], "always_adapt": False}]
    return Lars(groups, lr=0.0, momentum=momentum, weight_decay=0.0, trust_coeff=0.001)


def learning_rate(epoch: float, config: MaeProbeConfig) -> float:
    """The rate after so many epochs (not whole ones): linear from 0 to the peak, then half a cosine back to 0."""
    if epoch < config.warmup_epochs:
        return config.lr * epoch / config.warmup_epochs
    share = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
