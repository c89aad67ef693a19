"""What will not go well with a run as it is planned, and what to do about it, in words."""

from typing import TYPE_CHECKING

from perceptual_mae.estimate.config import PlanConfig
from perceptual_mae.estimate.machine import Range, Sharding, fits, images_per_gpu, memory
from perceptual_mae.pretraining.remarks import remarks

if TYPE_CHECKING:
    from perceptual_mae.estimate.plan import Given

TUNED_BATCH = 4096
"""Images a step for which MAE's base learning rate was found (arXiv 2111.06377, table 8)."""
_FEW = 8
"""Micro-batches of fewer images keep a GPU waiting for the next operation."""


def warnings_of(
    config: PlanConfig, given: "Given", sharding: Sharding, images: int, most: int, compute: Range, links: Range
) -> list[str]:
    """Sentences, the gravest first.

    Args:
        config: the plan's settings.
        given: what it is made of.
        sharding: how several GPUs hold the model.
        images: in a micro-batch on a GPU.
        most: that would fit.
        compute: seconds that a GPU computes in a step.
        links: seconds that its gradients travel.
    """
    found = [_does_not_fit(config, given, sharding, images, most)]
    run, count = config.pretrain, given.images.count
    found += remarks(run, count, max(1, count // run.batch_size))
    if TUNED_BATCH < run.batch_size <= count and run.lr is None:
        found.append(
            f"--batch-size {run.batch_size:,} is beyond the {TUNED_BATCH:,} that the learning rate's rule was made "
            f"for: it gives {run.learning_rate:.2g} here; try smaller ones with --lr, or a smaller batch."
        )
    if run.batch_size % (config.gpus * config.pieces):
        found.append(
            f"--batch-size {run.batch_size} is no multiple of {config.gpus} GPUs x {config.pieces} micro-batches: some "
            "wait for the others in every step."
        )
    needed = images * config.pieces / compute.low / given.decode
    if needed > given.cores:
        found.append(
            f"Reading holds it up: at best {needed:,.1f} cores per GPU would be kept busy with reading, and there are "
            f"{given.cores} ({given.cores_words}). Smaller files (`pmae shard`) or more cores help, more GPUs do not."
        )
    if links.low > compute.low:
        found.append(
            "Gradients travel for longer than the GPUs compute: more of them make it no faster. A larger --batch-size "
            "or a faster --network does."
        )
    if config.gpu and images < _FEW:
        found.append(f"A GPU has only {images} images at a time: it mostly waits. Fewer --gpus are nearly as fast.")
    return [sentence for sentence in found if sentence]


def _does_not_fit(config: PlanConfig, given: "Given", sharding: Sharding, images: int, most: int) -> str:
    if images <= most:
        return ""
    there = (given.machine.memory or 0) * given.machine.usable / 2**30
    needed = memory(given.cost, given.machine, sharding, images, config.pieces) / 2**30
    short = f"It does not fit: {needed:,.1f} GiB are needed and {there:,.1f} GiB can be used."
    whole = sharding == "ddp" and config.gpus > 1
    refused = config.cannot_be_cut if whole else ""
    if refused:
        short += f" It cannot be cut over the GPUs ({refused})."
    if most == 0:
        other = "--sharding fsdp" if whole and not refused else "another --gpu with more memory"
        return f"{short} Not even one image does: take {other}, or a smaller --model or --image-size."
    batch, fitting = config.pretrain.batch_size, most * config.gpus * config.pieces
    pieces = next((n for n in range(1, batch + 1) if batch % n == 0 and _fits_in(config, given, sharding, n)), 0)
    ways = ([f"--optimizer.accumulate {pieces}"] if pieces else []) + [f"--batch-size {fitting}"]
    return f"{short} It fits with {' or '.join(ways)}."


def _fits_in(config: PlanConfig, given: "Given", sharding: Sharding, pieces: int) -> bool:
    """Whether the batch fits in so many micro-batches."""
    images = images_per_gpu(config.pretrain.batch_size, config.gpus, pieces)
    return fits(given.cost, given.machine, sharding, images, pieces)
