"""Checkpoints damaged in all the ways that disks and people have: each is named, and the one before is used."""

import argparse
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults.runs import cut_short, differences, finish, make_materials, small_run
from perceptual_mae.pretraining.build import trained_model
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.training.checkpoint import checkpoints, newest

Damage = Callable[[Path, Path, random.Random], str]
"""Damages a checkpoint, given the one before too; returns which file, if one alone."""


def _some_file(newer: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(path for path in newer.iterdir() if path.stat().st_size))


def one_bit(newer: Path, older: Path, rng: random.Random) -> str:
    """One bit is the other."""
    path = _some_file(newer, rng)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return path.name


def cut(newer: Path, older: Path, rng: random.Random) -> str:
    """A file is cut off."""
    path = _some_file(newer, rng)
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
    return path.name


def zeroed_block(newer: Path, older: Path, rng: random.Random) -> str:
    """Zeros are in the place of a block."""
    path = _some_file(newer, rng)
    content = bytearray(path.read_bytes())
    length = min(4096, len(content))
    while True:
        start = rng.randrange(len(content) - length + 1)
        if any(content[start : start + length]):
            break
    content[start : start + length] = bytes(length)
    path.write_bytes(content)
    return path.name


def random_block(newer: Path, older: Path, rng: random.Random) -> str:
    """Rubbish is in the place of a block."""
    path = _some_file(newer, rng)
    content = bytearray(path.read_bytes())
    length = min(512, len(content))
    start = rng.randrange(len(content) - length + 1)
    content[start : start + length] = rng.randbytes(length)
    path.write_bytes(content)
    return path.name


def deleted(newer: Path, older: Path, rng: random.Random) -> str:
    """A file is gone."""
    path = _some_file(newer, rng)
    path.unlink()
    return path.name


def emptied(newer: Path, older: Path, rng: random.Random) -> str:
    """A file is empty, as after a power cut on a file system that brings names to disk before contents."""
    path = _some_file(newer, rng)
    path.write_bytes(b"")
    return path.name


def from_the_one_before(newer: Path, older: Path, rng: random.Random) -> str:
    """A file is that of another checkpoint, whole in itself."""
    path = _some_file(newer, rng)
    shutil.copy(older / path.name, path)
    return path.name


def exchanged(newer: Path, older: Path, rng: random.Random) -> str:
    """Two files have each other's names."""
    one, other = rng.sample(sorted(newer.glob("*.safetensors")), 2)
    aside = newer / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    return ""


def longer(newer: Path, older: Path, rng: random.Random) -> str:
    """Bytes follow the end of a file."""
    path = _some_file(newer, rng)
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 5000)))
    return path.name


def one_more(newer: Path, older: Path, rng: random.Random) -> str:
    """A file is there that was not."""
    shutil.copy(newer / "model.safetensors", newer / "old_model.safetensors")
    return "old_model.safetensors"


DAMAGES: list[Damage] = [
    *(one_bit, cut, zeroed_block, random_block, deleted),
    *(emptied, from_the_one_before, exchanged, longer, one_more),
]


def section(folder: Path, result: dict[str, Any], note: Callable[[], None], options: argparse.Namespace) -> None:
    """`options.damages` checkpoints, each way of damage in turn; every run goes on to its end."""
    make_materials(folder)
    row = ("stylegan2-ada-p", "mae")
    whole = small_run(folder, folder / "whole", *row)
    code, said = finish(whole)
    if code:
        raise RuntimeError(said)
    begun = small_run(folder, folder / "begun", *row)
    cut_short(begun, 8)
    damages = result.setdefault("damages", [])
    for number in range(len(damages), options.damages):
        config = small_run(folder, folder / "damaged", *row)
        shutil.copytree(begun.out, config.out)
        damage = DAMAGES[number % len(DAMAGES)]
        noticed = look_at_damage(Path(config.out), damage, random.Random(f"{options.seed} {number}"))
        code, said = finish(config)
        said_so = "checkpoint step-00000006 is damaged (" in said and "continuing after step 3 of 14" in said
        same = not code and not differences(Path(whole.out), Path(config.out))
        damages.append(noticed | {"resumed from the one before": said_so, "same end": same})
        note()
        shutil.rmtree(config.out)
    fine = ("noticed", "named", "one before used", "resumed from the one before", "same end")
    result |= {name: sum(damage[name] for damage in damages) for name in fine}
    result["faults"] = sum(not damage[name] for damage in damages for name in fine)


def look_at_damage(run: Path, damage: Damage, rng: random.Random) -> dict[str, Any]:
    """Damage the newer of a run's two checkpoints, and say what those who read it say."""
    older, newer = checkpoints(run / "checkpoints")
    name = damage(newer, older, rng)
    first = next(newest(run / "checkpoints"))
    complaint = first[1] if isinstance(first, tuple) else ""
    _, step = trained_model(RunFolder.read(run))
    return {
        "damage": f"{damage.__name__} {name}".strip(),
        "complaint": complaint,
        "noticed": bool(complaint),
        # Of a damaged manifest the file is named that no longer fits it.
        "named": name in complaint or (name == "manifest.json" and bool(complaint)),
        "one before used": step == int(older.name[5:]),
    }
