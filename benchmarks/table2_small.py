"""The paper's Table 2 at small scale: trains rows, measures them all alike, and keeps a JSON file a cell.

    python -m benchmarks.table2_small rows --seeds 2              # equal epochs
    python -m benchmarks.table2_small rows --seeds 2 --equal-time # each row as long as the slowest
    python -m benchmarks.table2_small knobs --epochs 8            # settings, one at a time
    python -m benchmarks.table2_small cost                        # of a step of each row, for --equal-time
    python -m benchmarks.table2_small floors                      # without training, and with a million labels
    python -m benchmarks.table2_small page                        # docs/results.md from what is there
    python -m benchmarks.table2_small judge --judge mse-15ep-seed1 --cells mse-15ep-seed0,...   # FD in its encoder
    python -m benchmarks.table2_small pictures --cells mse-15ep-seed0,ms-ssim-15ep-seed0   # from their runs

Cells that are there are not repeated, one that was cut off goes on, so that a table is filled over several sittings, on
several machines: `--minutes` ends a sitting.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from benchmarks.table2 import charts, knobs, page, pictures, table
from benchmarks.table2.cell import NETWORK, SHARED, Cell, fill
from benchmarks.table2.floors import measure_floors
from benchmarks.table2.judge import judge
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.files import write_json
from perceptual_mae.methods import METHODS

ROWS = tuple(
    name if place == 0 else f"{name}+{architecture}"
    for name, method in METHODS.items()
    for place, architecture in enumerate(method.rows)
    if method.loss_network != "dvae"  # whose published weights cannot be had here; `--rows dvae-p` asks for it
)


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """What is to be filled, in order: a whole table of one seed before the next."""
    shape = {"data": options.data, "model": options.model, "size": options.image_size}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        if options.what == "knobs":
            for _, row, knob in knobs.turns(options.rows):
                yield Cell(**shape, method=row, epochs=options.epochs, seed=seed, knob=knob)
            continue
        for row in options.rows or ROWS:
            yield Cell(**shape, method=row, epochs=epochs_of(row, options), seed=seed)


def measure_cost(name: str, model: str, size: int, network: str) -> Path:
    """Time what a step of each row of a table costs relative to `mse`, by `benchmarks.step_cost`, and keep it."""
    shape = ["--model", model, "--image-size", str(size), "--patch-size", "8", "--batch", "64"]
    shape += ["--every-epoch", "--cycles", "2"]
    rows = [*(("--loss-network", network) if network else ()), "--methods", *ROWS]
    command = [sys.executable, "-m", "benchmarks.step_cost", *shape, *rows]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    relative = {row: found["relative"] for row, found in told["methods"].items()}
    write_json(table.COST, table.known_costs() | {name: relative})
    return table.COST


def epochs_of(row: str, options: argparse.Namespace) -> int:
    """As many as are asked for; at equal time, as many as take the time that the slowest row takes for these."""
    if not options.equal_time:
        return int(options.epochs)
    epochs = table.equal_time(name_of(options), options.epochs)
    if row not in epochs:
        again = f"--data {options.data} --model {options.model} --image-size {options.image_size}"
        raise UsageError(f"--equal-time: run `python -m benchmarks.table2_small cost {again}` first")
    return epochs[row]


def name_of(options: argparse.Namespace) -> str:
    """Of the table that is asked for."""
    return Cell(options.data, table.BASE, model=options.model).table


def written(options: argparse.Namespace, workers: int | str) -> list[Path]:
    """Make what is not a cell."""
    if options.what == "cost":
        return [measure_cost(name_of(options), options.model, options.image_size, options.network)]
    if options.what == "floors":
        return [measure_floors(options.data, options.model, options.image_size, options.out, workers, options.network)]
    if options.what == "page":
        return [*page.write(), *charts.draw(table.all_cells())]
    name = name_of(options)
    if options.what == "judge":
        return [judge(options.out / name, options.judge, options.cells, workers)]
    return pictures.draw(options.out / name, options.cells, pictures.IMAGES / name)


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rows", "knobs", "cost", "floors", "judge", "page", "pictures"])
    parser.add_argument("--data", default=str(SHARED / "data" / "tiny-imagenet-40"))
    parser.add_argument("--network", default=NETWORK, help="for FD and timm-p, such as timm:tf_efficientnet_lite0")
    parser.add_argument("--model", default="micro")
    parser.add_argument("--image-size", type=int, default=64, help="of the data: 64, or 96 for imagenette-96")
    parser.add_argument("--rows", type=lambda text: tuple(text.split(",")), default=(), help="default: all")
    parser.add_argument("--cells", type=lambda text: tuple(text.split(",")), default=(), help="of pictures, judge")
    parser.add_argument("--judge", default="mse-15ep-seed1", help="the cell whose encoder looks at those of others")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--equal-time", action="store_true", help="as many epochs as the slowest row takes time for")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--finetune", action="store_true", help="also on a tenth of the labels")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after so many")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/table2"), help="for runs: weights, logs, pictures")
    return parser


def main() -> int:
    warnings.simplefilter("ignore")
    try:
        return run(make_parser().parse_args())
    except PmaeError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def run(options: argparse.Namespace) -> int:
    """Do what the command line asks for; the exit code."""
    every = [f"{name}+{architecture}" for name, method in METHODS.items() for architecture in method.rows]
    for row in options.rows:
        if row not in METHODS and row not in every:
            raise UsageError(f"--rows {row}: there are {', '.join(METHODS)}, and METHOD+ARCHITECTURE")
    workers = options.workers if options.workers == "auto" else int(options.workers)
    if options.what not in ("rows", "knobs"):
        print(*written(options, workers), sep="\n")
        return 0
    begun, failed = time.monotonic(), 0
    for cell in cells(options):
        try:
            if cell.found():
                continue
            if time.monotonic() - begun > 60 * options.minutes:
                print("the sitting is over; the same command goes on", file=sys.stderr)
                break
            found = fill(
                cell,
                options.out,
                precision=options.precision,
                workers=workers,
                finetuned=options.finetune,
                network=options.network,
            )
        except PmaeError as error:
            print(f"{cell.name}: {error}", file=sys.stderr)
            failed = error.exit_code
            if failed > 128:  # interrupted: everything is saved
                break
            continue
        print(
            json.dumps({"benchmark": "table2_small", "cell": cell.name} | found.get("measured", {})),
            flush=True,
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
