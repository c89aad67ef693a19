"""Kill a run with `kill -9` at random moments, start it again, and compare its end with an uninterrupted run's.

Prints JSON; the exit code is 1 when anything differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

TIMING = ("images_per_second", "seconds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default="photos")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)

    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        begun = time.monotonic()
        train(whole, options).wait()
        duration = time.monotonic() - begun
        kills = at_start = 0
        while kills < options.kills:
            process = train(killed, options)
            try:
                # Start-up, training, saving and the report are all hit: what is left of a run shrinks with each kill
                # only when a checkpoint was reached, so some attempts make no progress at all, as in life.
                process.wait(rng.uniform(0.2, 1.0) * duration * rng.choice((0.4, 0.7, 1.0)))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                at_start += not any((killed / "checkpoints").glob("step-*"))
            else:
                # It ended before it was killed: begin another one, so that all kills count.
                if process.returncode:
                    print(json.dumps({"benchmark": "kill", "kills": kills, "refused_to_continue": process.returncode}))
                    return 1
                check(whole, killed)
                remove(killed)
        code = train(killed, options).wait()
        differences = compare(whole, killed)
    result = {
        "benchmark": "kill",
        "kills": kills,
        "before_first_checkpoint": at_start,
        "last_exit_code": code,
        "differences": differences,
    }
    print(json.dumps(result))
    return int(bool(differences or code))


def train(out: Path, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start the run in a process group of its own, so that a kill takes its workers too."""
    command = [sys.executable, "-m", "perceptual_mae.cli.main", "pretrain", "--data", options.data, "--out", str(out)]
    flags = f"--model micro --image-size 32 --patch-size 8 --batch-size 32 --lr 1e-3 --max-steps {options.steps}"
    flags += f" --save-every 7 --log.every 3 --log.pictures 5 --log.validation-images 32 --workers {options.workers}"
    return subprocess.Popen(
        [*command, *flags.split(), "--device", "cpu"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def check(whole: Path, killed: Path) -> None:
    """Stop at the first run that ended differently."""
    differences = compare(whole, killed)
    if differences:
        print(json.dumps({"benchmark": "kill", "differences": differences}))
        sys.exit(1)


def remove(folder: Path) -> None:
    """Delete a run."""
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def compare(whole: Path, killed: Path) -> list[str]:
    """What differs between two finished runs: weights, optimiser, schedule, random state, metrics."""
    found = []
    a, b = (sorted((run / "checkpoints").glob("step-*"))[-1] for run in (whole, killed))
    if a.name != b.name:
        return [f"{a.name} and {b.name}"]
    weights, again = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    found += [name for name in weights if not torch.equal(weights[name], again[name])]
    first, second = (torch.load(path / "training.pt", weights_only=True) for path in (a, b))
    for state in (first, second):
        del state["seconds"]
    found += differing(first, second, "training")
    lines, others = (records(run) for run in (whole, killed))
    if lines != others:
        found.append(f"metrics.jsonl ({len(lines)} and {len(others)} lines)")
    return found


def differing(a: object, b: object, path: str) -> list[str]:
    """Places in which two nested states differ in any bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [path]
        return [place for key in a for place in differing(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [place for i, pair in enumerate(zip(a, b, strict=True)) for place in differing(*pair, f"{path}.{i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    return [] if same else [path]


def records(run: Path) -> list[dict[str, object]]:
    """Metrics without the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]


if __name__ == "__main__":
    sys.exit(main())
