"""Every setting of an evaluation: the command line and the Python API are made from this class. Imports no torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from perceptual_mae.errors import UsageError
from perceptual_mae.settings import check_workers

PARTS = ("reconstruction", "knn", "linear")
"""What can be measured, in the order in which it is."""
Pool = Literal["cls", "mean", "both"]
POOLS: tuple[Pool, ...] = get_args(Pool)
"""What stands for an image: the [CLS] token, the mean of the patch tokens, or both side by side."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure what an encoder has learnt.

    Attributes:
        encoder: run folder, weights file, timm:NAME, timm:NAME:FILE, hub:USER/NAME, random:SIZE/PATCH or pixels:SIDE.
        data: images to measure on, with labels for k-NN and the linear probe; default: those of the run.
        out: folder for results.json, results.md and pictures; default: evaluation in the run folder, else
            evaluation/NAME.
        parts: what to measure, of reconstruction, knn and linear.
        pools: what stands for an image, of cls, mean and both; each is measured by itself.
        protocol: of the linear probe: cached trains on features that are computed once; mae is the protocol of the
            MAE paper, with augmentation, LARS and 90 epochs through the backbone.
        epochs: of the linear probe; default: the protocol's (20; 90).
        views: random crops of every training image that the cached probe learns from; 0: its central crop.
        block: output of this transformer block in place of the last, counted from 0 or from the end (-1).
        image_size: side of the images in pixels, or HEIGHTxWIDTH; default: the encoder's. Position embeddings are
            resampled.
        mask_ratio: share of patches removed for reconstructions; default: the run's.
        fd: encoders in whose features the Fréchet distance of reconstructions is measured.
        inception: weights of torch-fidelity's Inception, for IS and FID: a file, or auto to fetch them; none: neither.
        train_images: at most so many training images, a seeded choice; default: all.
        test_images: at most so many test images; default: all.
        batch_size: images that go through the encoder at once.
        workers: processes that read images; auto suits the device.
        device: auto is a GPU if there is one.
        cache: folder where features are kept; default: ~/.cache/perceptual-mae/features.
        seed: of masks, of the held-out part and of the probe.
    """

    encoder: str
    data: str | None = None
    out: str | None = None
    parts: tuple[str, ...] = PARTS
    pools: tuple[Pool, ...] = ("cls", "mean")
    protocol: Literal["cached", "mae"] = "cached"
    epochs: int | None = None
    views: int = 0
    block: int | None = None
    image_size: int | str | None = None
    mask_ratio: float | None = None
    fd: tuple[str, ...] = ()
    inception: str = "none"
    train_images: int | None = None
    test_images: int | None = None
    batch_size: int = 64
    workers: int | Literal["auto"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cache: str | None = None
    seed: int = 0

    def check(self) -> None:
        """Refuse settings that cannot be right.

        Raises:
            UsageError: one line that names the flag.
        """
        for flag, given, known in (("parts", self.parts, PARTS), ("pools", self.pools, POOLS)):
            for word in given:
                if word not in known:
                    raise UsageError(f"--{flag} {','.join(given)}: {word!r} is none of {', '.join(known)}")
            if not given:
                raise UsageError(f"--{flag}: name at least one of {', '.join(known)}")
        rules = [
            (self.mask_ratio is None or 0 <= self.mask_ratio < 1, "mask-ratio", "must lie between 0 and 1 (not 1)"),
            (self.epochs is None or self.epochs >= 1, "epochs", "must be at least 1"),
            (self.views >= 0, "views", "must be 0 or more"),
            (self.batch_size >= 1, "batch-size", "must be at least 1"),
            (self.train_images is None or self.train_images >= 2, "train-images", "must be at least 2"),
            (self.test_images is None or self.test_images >= 1, "test-images", "must be at least 1"),
            (not (self.views and self.protocol == "mae"), "views", "the mae protocol draws its own; leave it out"),
        ]
        for fine, flag, complaint in rules:
            if not fine:
                raise UsageError(f"--{flag} {getattr(self, flag.replace('-', '_'))}: {complaint}")
        check_workers(self.workers)
