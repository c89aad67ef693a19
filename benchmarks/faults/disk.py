"""The disk is full in the middle of saving: what was saved before is whole, and with space the run goes on the same.

Half of the times the kernel refuses to write beyond a byte of a file that is drawn (RLIMIT_FSIZE); the other half a
real file system of some megabytes has so many bytes left, where a user may mount one (`unshare -rm`).
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults.runs import At, differences, filling, finish, limiting, make_materials, small_run
from perceptual_mae.pretraining.build import trained_model
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.training.checkpoint import Checkpoint, checkpoints, newest

ROW = ("ls-gan-p", "mae")
NAMESPACE = ("unshare", "--map-root-user", "--mount")
FINE = ("one line", "nothing half-written", "last checkpoint whole", "continued", "same end")


def section(folder: Path, result: dict[str, Any], note: Callable[[], None], options: argparse.Namespace) -> None:
    """`options.disks` full disks."""
    small = can_mount()
    halves = {"file size limit": options.disks - options.disks // 2 * small}
    if small:
        halves["full file system"] = options.disks // 2
    for name, count in halves.items():
        if name not in result:
            command = [sys.executable, "-m", "benchmarks.faults.disk", name, str(folder / name.split()[0])]
            prefix = NAMESPACE if name == "full file system" else ()
            done = subprocess.run(
                [*prefix, *command, str(options.seed), str(count)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(done.stderr)
            result[name] = json.loads(done.stdout.splitlines()[-1])
            note()
    every = [one for name in halves for one in result[name]]
    result |= {name: sum(one[name] for one in every) for name in FINE}
    result["faults"] = sum(not one[name] for one in every for name in FINE)


def can_mount() -> bool:
    """Whether this user may mount a file system of his own."""
    try:
        probe = [*NAMESPACE, "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt"]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def fill(kind: str, folder: Path, seed: int, count: int, row: tuple[str, str] = ROW) -> list[dict[str, Any]]:
    """Do it `count` times; within a namespace of its own for a full file system."""
    folder.mkdir(parents=True)
    make_materials(folder)
    disk = folder / "disk"
    disk.mkdir()
    if kind == "full file system":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)], check=True)
    whole = small_run(folder, folder / "whole", *row)
    code, said = finish(whole)
    if code:
        raise RuntimeError(said)
    saved = [path.stat().st_size for path in checkpoints(Path(whole.out) / "checkpoints")[-1].iterdir()]
    found = []
    for number in range(count):
        rng = random.Random(f"{seed} {kind} {number}")
        log = {"every": 1, "pictures": 2, "validate_every": 0.0, "tensorboard": number % 2 == 1}
        config = small_run(folder, disk / "run", *row, log=log)
        ballast = disk / "ballast"
        if kind == "full file system":
            room = rng.randrange(sum(saved))
            act = filling(ballast, room)
        else:
            room = rng.randrange(max(saved))
            act = limiting(room)
        code, said = finish(config, At(8, act))
        run = Path(config.out)
        lines = [line for line in said.splitlines() if line.startswith("pmae: ")]
        told = code == 1 and len(lines) == 1 and "Traceback" not in said and str(run) in lines[0]
        states = list(newest(run / "checkpoints"))
        one = {
            "room": room,
            "said": lines[-1] if lines else said[-500:],
            "one line": told and "the same command goes on from there" in lines[0],
            "nothing half-written": not [path.name for path in run.rglob("*tmp*")],
            "last checkpoint whole": all(isinstance(state, Checkpoint) for state in states)
            and trained_model(RunFolder.read(run))[1] == 6,
        }
        ballast.unlink(missing_ok=True)
        code, said = finish(config)
        one |= {"continued": code == 0, "same end": code == 0 and not differences(Path(whole.out), run)}
        if code:
            one["then said"] = said[-500:]
        found.append(one)
        shutil.rmtree(run)
    return found


if __name__ == "__main__":
    print(json.dumps(fill(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
