"""Runs of every method, killed at random moments, end bit by bit as if nobody had touched them."""

import argparse
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.runs import (
    ROWS,
    STEPS,
    Command,
    differences,
    finish,
    make_materials,
    small_run,
    steps,
    wait_until,
)
from perceptual_mae.pretraining.config import PretrainConfig


def section(folder: Path, result: dict[str, Any], note: Callable[[], None], options: argparse.Namespace) -> None:
    """`options.kills` kills, spread over all rows of the table of methods."""
    make_materials(folder)
    rows = result.setdefault("rows", {})
    for number, (method, architecture) in enumerate(ROWS):
        name = f"{method} / {architecture}"
        share = options.kills // len(ROWS) + (number < options.kills % len(ROWS))
        if name not in rows:
            config = small_run(folder, folder / "killed", method, architecture)
            whole = small_run(folder, folder / "whole", method, architecture)
            rows[name] = kill_again_and_again(whole, config, share, random.Random(f"{options.seed} {name}"))
            note()
            for run in ("whole", "killed"):
                shutil.rmtree(folder / run)
    kills = [kill for row in rows.values() for kill in row["kills"]]
    result["kills"] = len(kills)
    result["hit while"] = dict(Counter(kill["while"] for kill in kills))
    result["before the first checkpoint"] = sum(kill["checkpoints"] == 0 for kill in kills)
    result["lost runs"] = sum(len(row["lost"]) for row in rows.values())
    result["other ends"] = sum(len(row["other ends"]) for row in rows.values())
    result["faults"] = result["lost runs"] + result["other ends"]


def kill_again_and_again(
    whole: PretrainConfig, config: PretrainConfig, count: int, rng: random.Random
) -> dict[str, list[Any]]:
    """Kill a run `count` times, continuing it each time and at last to its end; compare every end with `whole`'s.

    A run that ends before it was killed counts as an end, and another one is begun.

    Returns:
        the kills; `lost`, what runs said that did not go on; `other ends`, what differed from the uninterrupted run.
    """
    found: dict[str, list[Any]] = {"kills": [], "lost": [], "other ends": []}
    reference, run = Path(whole.out), Path(config.out)
    begun = time.monotonic()
    command = Command(whole)
    _wait_for_training(command, reference, 0)
    set_up = time.monotonic() - begun
    wait_until(lambda: steps(reference) == STEPS, command.process.is_alive)
    pace = (time.monotonic() - begun - set_up) / STEPS
    code, said = command.wait()
    if code:
        raise RuntimeError(f"the uninterrupted run of {whole.method} ended with {code}: {said}")

    def judge(code: int, said: str) -> None:
        if code:
            found["lost"].append({"exit code": code, "said": said[-500:]})
        elif differing := differences(reference, run):
            found["other ends"].append(differing)

    while len(found["kills"]) < count:
        command = Command(replace(config, workers=len(found["kills"]) % 2))
        if rng.random() < 0.15:
            time.sleep(rng.uniform(0, set_up))
        else:
            before = _changed(run)
            if _wait_for_training(command, run, before):
                # By steps, not by the clock: how fast a busy machine is changes from run to run.
                last = rng.randint(steps(run), STEPS)
                wait_until(partial(_has_steps, run, last), command.process.is_alive)
                time.sleep(rng.uniform(0, pace))
        if command.process.is_alive():
            command.process.kill()
        code, said = command.wait()
        if code == -9:
            found["kills"].append(_describe(run))
        else:
            judge(code, said)
            shutil.rmtree(run)
    judge(*finish(config))
    return found


def _wait_for_training(command: Command, run: Path, before: int) -> bool:
    """Wait until a process has told of the training that it begins; False where it has ended."""
    return wait_until(lambda: _changed(run) > before, command.process.is_alive)


def _has_steps(run: Path, count: int) -> bool:
    return steps(run) >= count


def _changed(run: Path) -> int:
    """When `run.json` was written, in nanoseconds; 0: never."""
    file = run / "run.json"
    return file.stat().st_mtime_ns if file.exists() else 0


def _describe(run: Path) -> dict[str, Any]:
    """What a run was doing when it was killed."""
    done = steps(run)
    checkpoints = len(list((run / "checkpoints").glob("step-*")))
    if any((run / "checkpoints").glob(".tmp-*")) or (run / ".encoder.safetensors.tmp").exists():
        doing = "saving"
    elif done == 0:
        doing = "starting"
    else:
        doing = "ending" if done == STEPS else "training"
    return {"while": doing, "steps": done, "checkpoints": checkpoints}
