"""Settings of `pmae plan`. Imports no torch."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from perceptual_mae.errors import UsageError, nearest
from perceptual_mae.estimate.hardware import GPUS
from perceptual_mae.methods import METHODS
from perceptual_mae.pretraining.config import PretrainConfig

IMAGENET_BYTES = 110_000
"""Mean size of ImageNet's training images as JPEG files."""


@dataclass(frozen=True)
class PlanConfig:
    """What a pre-training run will take: time, memory, reading, disk and network.

    Attributes:
        pretrain: the run.
        gpu: which GPU it is to run on, such as h100, a100-80 or rtx4090; default: the device that is here.
        gpus: how many of them.
        gpus_per_node: GPUs in a machine.
        images: how many there are to learn from, such as 1.3e6; default: those of --data, else ImageNet's 1.28 million.
        image_bytes: mean size of an image file; default: that of --data, else ImageNet's 110 KB.
        data: images whose number and size are looked up; nothing is trained.
        sharding: how several GPUs hold the model: ddp, each all of it; fsdp, each a share; auto: fsdp where ddp does
            not fit and the run can be cut.
        measure: run some real steps on the device that is here, and take the share of its peak that they reach.
        cores: CPU cores beside each GPU, which read images; default: 12 (this machine's where no --gpu is named).
        network: of a machine to the other machines, in Gbit/s.
        json: file to write everything to, for other programs.
    """

    pretrain: PretrainConfig
    gpu: str | None = None
    gpus: int = 1
    gpus_per_node: int = 8
    images: float | None = None
    image_bytes: float | None = None
    data: str | None = None
    sharding: Literal["auto", "ddp", "fsdp"] = "auto"
    measure: bool = False
    cores: int | None = None
    network: float = 100.0
    json: str | None = None

    @property
    def precision(self) -> str:
        """`fp32` or `bf16`: what `auto` comes to on the device that is planned for.

        Raises:
            UsageError: that is the one that is here, and it is not there or cannot do what was asked for.
        """
        asked = self.pretrain.precision
        if self.gpu is not None:
            return "bf16" if asked == "auto" else asked
        from perceptual_mae.training.device import choose_device, choose_precision  # which import torch

        return choose_precision(asked, choose_device(self.pretrain.device))

    @property
    def cannot_be_cut(self) -> str:
        """Why the run cannot hold a share of the model on each GPU; empty: it can."""
        try:
            replace(self.pretrain, sharding="fsdp").check()
        except UsageError as error:
            return str(error)
        return ""

    @property
    def pieces(self) -> int:
        """Micro-batches per step and GPU."""
        return self.pretrain.optimizer.accumulate

    def check(self) -> None:
        """Refuse settings that cannot be right.

        Raises:
            UsageError: one line that names the flag.
        """
        self.pretrain.check()
        if self.gpu is not None and self.gpu not in GPUS:
            raise UsageError(f"--gpu {self.gpu[:40]}: there are {', '.join(GPUS)}{nearest(self.gpu, GPUS)}")
        least = {
            "gpus": self.gpus,
            "gpus-per-node": self.gpus_per_node,
            "images": self.images,
            "image-bytes": self.image_bytes,
            "cores": self.cores,
        }
        for flag, value in least.items():
            if value is not None and not 1 <= value < math.inf:
                raise UsageError(f"--{flag} {value}: must be at least 1")
        if not 0 < self.network < math.inf:
            raise UsageError(f"--network {self.network}: must be positive")
        if self.gpus > 1 and self.gpu is None:
            raise UsageError(f"--gpus {self.gpus}: say which with --gpu: {', '.join(GPUS)}")
        kind = METHODS[self.pretrain.method].loss_network
        if kind == "timm" and not self.pretrain.loss_network:
            raise UsageError(
                f"--method {self.pretrain.method} needs --loss-network timm:NAME (its weights are not needed)"
            )
        if self.sharding == "fsdp" and self.cannot_be_cut:
            raise UsageError(self.cannot_be_cut)
        _ = self.precision  # refuses what the device that is here cannot do
