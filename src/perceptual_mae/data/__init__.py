"""Sources of images (folders, parquet, shards, the hub, built-in photographs) to batches of uint8 images."""

from perceptual_mae.data.decode import MAX_PIXELS, decode
from perceptual_mae.data.loader import train_loader
from perceptual_mae.data.open import open_source, open_validation_or_all
from perceptual_mae.data.plan import SamplePlan
from perceptual_mae.data.stream import BatchStream, choose_workers, cores
from perceptual_mae.data.streaming.plan import StreamPlan, plan_for
from perceptual_mae.data.streaming.settings import StreamSettings
from perceptual_mae.data.types import Batch, BrokenImage, Item, Skip, Source, to_float
from perceptual_mae.data.views import EvalStream, eval_batches, first_readable, fixed_images

__all__ = [
    "MAX_PIXELS",
    "Batch",
    "BatchStream",
    "BrokenImage",
    "EvalStream",
    "Item",
    "SamplePlan",
    "Skip",
    "Source",
    "StreamPlan",
    "StreamSettings",
    "choose_workers",
    "cores",
    "decode",
    "eval_batches",
    "first_readable",
    "fixed_images",
    "open_source",
    "open_validation_or_all",
    "plan_for",
    "to_float",
    "train_loader",
]
