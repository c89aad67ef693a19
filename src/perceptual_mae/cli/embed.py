"""`pmae embed`."""

import os
from collections.abc import Sequence
from typing import Literal

from perceptual_mae.cli.parser import Parser
from perceptual_mae.errors import UsageError
from perceptual_mae.paths import user_path
from perceptual_mae.settings import check_workers
from perceptual_mae.training.launch import adopt_slurm, processes_sharing


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser(
        "embed",
        "Write one vector for every image to a parquet file. The same command continues what was cut off; under "
        "torchrun the processes share the work.",
    )
    parser.add_argument("encoder", help="run folder, weights file, timm:NAME, timm:NAME:FILE or hub:USER/NAME")
    parser.add_argument("--data", type=str, required=True, help="images; sub-folders are labels")
    parser.add_argument("--out", type=str, required=True, help="parquet file to write: path, label, label_id, vector")
    parser.add_argument("--split", type=Literal["train", "validation", "all"], default="all", help="which images")
    parser.add_argument(
        "--pool", type=Literal["cls", "mean", "both"], default="mean", help="[CLS], mean token, or both"
    )
    parser.add_argument("--block", type=int | None, help="output of this block, counted from 0 or from the end (-1)")
    parser.add_argument("--image_size", type=int | str | None, help="side in pixels or HxW; default: the encoder's own")
    parser.add_argument("--batch_size", type=int, default=64, help="images that go through the encoder at once")
    parser.add_argument("--workers", type=int | Literal["auto"], default="auto", help="processes that read images")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="where to compute")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Embed, and say how many images there were."""
    settings = make_parser().parse(arguments)
    if settings.batch_size < 1:
        raise UsageError(f"--batch-size {settings.batch_size}: must be at least 1")
    check_workers(settings.workers)

    from perceptual_mae.data import choose_workers
    from perceptual_mae.data.joined import open_splits
    from perceptual_mae.data.stream import cores
    from perceptual_mae.encoders.open import open_whole
    from perceptual_mae.evaluation.embed import embed, skipped_list
    from perceptual_mae.terminal import counting, messages
    from perceptual_mae.training.device import choose_device
    from perceptual_mae.training.memory import keep_freed_memory

    # What torchrun tells its processes.
    adopt_slurm(os.environ)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(settings.device)
    sharing = processes_sharing(os.environ, cores(), world_size)
    workers = choose_workers(settings.workers, device == "cuda", sharing)
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    else:
        keep_freed_memory()
    console = messages(quiet=rank != 0)
    opened = open_whole(settings.encoder, settings.image_size, device)
    encoder = opened.encoder
    console.print(opened.matched, highlight=False, markup=False)
    source = open_splits(settings.data, settings.split, channels=encoder.in_channels)
    with counting(console) as progress:
        written = embed(
            encoder,
            source,
            user_path(settings.out),
            pool=settings.pool,
            block=settings.block,
            batch_size=settings.batch_size,
            workers=workers,
            max_pixels=opened.max_pixels,
            rank=rank,
            world_size=world_size,
            progress=progress,
        )
    if written is not None:
        words = f"{written.path}: {written.images:,} vectors of {written.width} numbers"
        if not written.made:
            words += ", there already"
        if written.skipped:
            words += f"; {written.skipped:,} broken images left out, see {skipped_list(written.path)}"
        print(words)
