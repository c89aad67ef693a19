"""Reconstructions seen by a network that no row was trained through: the encoder of one of the cells."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.table2.cell import RESULTS, read_if_there
from perceptual_mae.errors import UsageError
from perceptual_mae.evaluation.config import EvaluateConfig
from perceptual_mae.files import write_json
from perceptual_mae.measure.evaluation import evaluate
from perceptual_mae.terminal import messages


def run_of(runs: Path, name: str) -> Path:
    """The run folder of a cell.

    Args:
        runs: the folder of a table's runs.
        name: of the cell, such as `mse-15ep-seed0`.

    Raises:
        UsageError: it was not trained here.
    """
    run = next(iter(sorted((runs / name / "runs").glob("*"))), None)
    if run is None:
        raise UsageError(f"--cells {name}: was not trained in {runs}; give another --out, or train it again")
    return run


def judged_file(table: str) -> Path:
    """Where a table's distances are kept."""
    return RESULTS / table / "judged.json"


def read_judged(table: str) -> dict[str, Any]:
    """`judge`, a cell, and `distances` by cell; empty before there are any."""
    return read_if_there(judged_file(table))


def judge(runs: Path, judging: str, names: Sequence[str], workers: int | str) -> Path:
    """Measure the Fréchet distance of cells' reconstructions (visible patches pasted back) in the encoder of another.

    Args:
        runs: the folder of a table's runs; it is called like the table.
        judging: the cell whose encoder looks.
        names: of the cells that are looked at.
        workers: as of `pmae evaluate`.

    Returns:
        the file; what is in it and of the same judge stays.

    Raises:
        UsageError: a cell was not trained here.
    """
    encoder, found = run_of(runs, judging), read_judged(runs.name)
    distances = found["distances"] if found.get("judge") == judging else {}
    for name in names:
        settings = EvaluateConfig(
            encoder=str(run_of(runs, name)),
            parts=("reconstruction",),
            fd=(str(encoder),),
            out=str(runs / name / f"judged by {judging}"),
            workers=workers,  # type: ignore[arg-type]
        )
        results = evaluate(settings, messages()) / "results.json"
        measured = json.loads(results.read_text(encoding="utf-8"))["parts"]["reconstruction"]["result"]["pasted"]
        distances[name] = round(measured[f"fd-{encoder.name}"], 5)
        write_json(judged_file(runs.name), {"judge": judging, "distances": distances})
    return judged_file(runs.name)
