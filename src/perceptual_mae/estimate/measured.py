"""What can be measured here: the rate of matrix products, the share of it that real steps reach, and how fast images
are read."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from perceptual_mae.data import SamplePlan, open_source, train_loader
from perceptual_mae.data.photos import load_photos
from perceptual_mae.data.streaming.address import shown_spec
from perceptual_mae.data.types import Item, Source, Streamed
from perceptual_mae.errors import UsageError
from perceptual_mae.estimate.cost import StepCost, cycle_of, kinds_of, loss_network, micro_batch, patience_of
from perceptual_mae.pretraining.cast import build_cast
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.training.device import choose_device, make_accelerator
from perceptual_mae.training.memory import keep_freed_memory
from perceptual_mae.training.schedule import Clock

_TIMED = 3
_MOST_IMAGES = {"cpu": 32, "cuda": 128}
"""Images of a measured step, where the run has more."""
_SAMPLED = 256
"""Images whose size on disk is looked up."""
_JPEG = (500, 375)
"""Pixels of the JPEG files that are read: about the mean of ImageNet."""


@dataclass(frozen=True)
class Calibration:
    """What real steps reached.

    Attributes:
        share: of the rate of matrix products, the median of the steps that were timed.
        least, most: of these.
        what: the run and the device, for people.
    """

    share: float
    least: float
    most: float
    what: str


def device_title(device: str) -> str:
    """The device that is here, for people."""
    return torch.cuda.get_device_name() if device == "cuda" else f"this CPU, {torch.get_num_threads()} threads"


def matmul_rate(device: str, precision: str, tries: int = 4) -> float:
    """FLOP/s of a large matrix product: the most that the device that is here can do."""
    side = 8192 if device == "cuda" else 2048
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return 2 * side**3 / min(_seconds(lambda: a @ b, device) for _ in range(tries + 1))


def free_memory(device: str) -> tuple[float | None, float]:
    """Bytes that there are on the device that is here, and how many of them this process has taken for itself.

    On a CPU that is Python with PyTorch, which a training process has, too. None where the system does not tell.
    """
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return float(total), float(total - free)
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None, 0.0
    page = os.sysconf("SC_PAGE_SIZE")
    return float(os.sysconf("SC_PHYS_PAGES") * page), float(int(pages) * page)


def calibrate(config: PretrainConfig, precision: str, cost: StepCost) -> Calibration:
    """Take real steps of a run on the device that is here, on images that are noise.

    The matrix product and the steps are timed in turn: a machine that is shared changes its speed.

    Args:
        config: the run; at most a few dozen images of its batch are taken.
        precision: fp32 or bf16.
        cost: of its steps.

    Raises:
        UsageError: no such device.
    """
    device = choose_device(config.device)
    if device == "cpu":
        keep_freed_memory()
    accelerator = make_accelerator(device, precision)
    cast = build_cast(config, accelerator, fixed=loss_network(config, quick=True))
    images = min(max(2, config.batch_size // config.optimizer.accumulate), _MOST_IMAGES[device])
    part, cycle, patience = micro_batch(config, cast, images, device), cycle_of(cast), patience_of(cast)

    def step(kind: int) -> Callable[[], object]:
        return lambda: cast.step([part], Clock((patience - 1) * cycle + kind, cycle))

    kinds = kinds_of(cast)
    for kind in kinds:
        step(kind)()  # makes what is made once
    shares = []
    for _ in range(_TIMED):
        rate = matmul_rate(device, precision, 1)
        took = sum(share * _seconds(step(kind), device) for kind, share in kinds.items())
        shares.append(cost.flop.at(images) / took / rate)
    what = f"{config.method} / {config.model}, {images} images of {config.size[0]} x {config.size[1]} a step"
    return Calibration(
        statistics.median(shares), min(shares), max(shares), f"{what}, {precision}, on {device_title(device)}"
    )


def _seconds(action: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    action()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """What there is to learn from.

    Attributes:
        count: images.
        bytes_each: mean size of a file.
        what: where these numbers are from.
    """

    count: int
    bytes_each: float
    what: str


def look_up(spec: str, channels: int) -> Images:
    """Number of images of a data argument, and their mean size on disk, of a sample.

    Raises:
        UsageError, PmaeError: there is no such data.
    """
    source = open_source(spec, "train", channels=channels)
    if source is None:
        raise UsageError(f"--data {spec}: there are no training images")
    what = f"{shown_spec(spec)}, of a sample of {min(len(source), _SAMPLED)} files"
    return Images(len(source), _mean_bytes(source), what)


def _mean_bytes(source: Source) -> float:
    # Of images that are streamed every part that is touched is fetched: the first few will do.
    step = 1 if isinstance(source, Streamed) else max(1, len(source) // _SAMPLED)
    sizes = [_bytes_of(source[index]) for index in range(0, len(source), step)[:_SAMPLED]]
    return max(1.0, statistics.fmean(sizes))


def _bytes_of(item: Item) -> int:
    if isinstance(item.data, Path):
        try:
            return os.stat(item.data).st_size
        except (OSError, ValueError):
            return 0  # a broken file: reading it takes nothing
    if isinstance(item.data, torch.Tensor):
        return item.data.nbytes
    return len(item.data) if isinstance(item.data, bytes) else 0


def decode_rate(config: PretrainConfig, images: int = 96) -> float:
    """Images a second that a core reads, crops and resizes: photographs as JPEG files of 500 x 375 pixels."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _write_photographs(Path(folder))
            source = open_source(folder)
            assert source is not None  # there is always a training split
            plan = SamplePlan(len(source), len(source), config.seed)
            steps = -(-images // len(source))

            def read() -> None:
                for _ in train_loader(source, plan, image_size=config.size, crop=config.crop, last_step=steps):
                    pass

            read()
            return steps * len(source) / min(_seconds(read, "cpu") for _ in range(2))
    finally:
        torch.set_num_threads(threads)


def _write_photographs(folder: Path) -> None:
    for name, photo in load_photos().items():
        if photo.shape[0] == 3:
            image = Image.fromarray(photo.permute(1, 2, 0).numpy()).resize(_JPEG, Image.Resampling.LANCZOS)
            image.save(folder / f"{name}.jpg", quality=90)
