"""`pmae shard`."""

from collections.abc import Sequence
from typing import Literal

from perceptual_mae.cli.parser import Parser
from perceptual_mae.errors import said_of
from perceptual_mae.paths import user_path
from perceptual_mae.settings import check_workers


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser(
        "shard",
        "Write images as WebDataset shards with an index.json, to be read with `--data stream:FOLDER`. The same "
        "command continues what was cut off.",
    )
    parser.add_argument("data", help="images: a folder, parquet files, hub:USER/NAME, ...")
    parser.add_argument("--out", type=str, required=True, help="folder to write to")
    parser.add_argument("--split", type=Literal["train", "validation", "all"], default="all", help="which images")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the images")
    parser.add_argument("--shard_size", type=float, default=256.0, help="of a shard, in megabytes, about")
    parser.add_argument("--samples", type=int | None, help="images in a shard; default: by --shard-size")
    parser.add_argument("--check", type=bool, default=True, help="decode every image and leave out broken ones")
    parser.add_argument("--channels", type=int, default=3, help="channels of the images")
    parser.add_argument("--workers", type=int | Literal["auto"], default="auto", help="processes that write shards")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Write the shards, and say how many images are in them."""
    values = make_parser().parse(arguments)
    check_workers(values.workers)

    from perceptual_mae.data import choose_workers
    from perceptual_mae.data.sharding import ShardSettings, write_shards
    from perceptual_mae.terminal import counting, messages

    names = ("seed", "shard_size", "samples", "check", "channels")
    settings = ShardSettings(**{name: values[name] for name in names})
    # As many as for a GPU: nothing else is to be done meanwhile.
    workers = choose_workers(values.workers, on_gpu=True)
    out = user_path(values.out)
    with counting(messages()) as progress, said_of("DATA"):
        done = write_shards(values.data, out, settings, values.split, workers, progress=progress)
    words = f"{out}: {done.images:,} images in {done.shards:,} shards"
    if done.made < done.shards:
        words += f" ({done.shards - done.made:,} of them there already)"
    if done.skipped:
        words += f"; {done.skipped:,} broken images left out, see {out / 'skipped.txt'}"
    print(f"{words}; read them with --data stream:{out}")
