"""Small runs of every method, in processes of their own, and whether two of them ended the same."""

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data

from perceptual_mae.cli.main import main
from perceptual_mae.methods import METHODS
from perceptual_mae.models.dvae import DvaeEncoder
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.settings import from_dict, to_dict

ROWS = [(name, architecture) for name, method in METHODS.items() for architecture in method.rows]
TIMING = ("images_per_second", "seconds")
STEPS = 14
"""Of a small run."""
PATIENCE = 120.0
"""Seconds that a process may take to come to its training on a busy machine."""


# -- what is trained ---------------------------------------------------------------------------------------------------


def make_materials(folder: Path) -> None:
    """Twelve real photographs of 32 x 48 pixels, and the small random networks that some methods look through."""
    (folder / "photos").mkdir(parents=True)
    picture = data.astronaut()[96:224, 96:240]
    for index in range(12):
        top, left = 32 * (index // 3), 48 * (index % 3)
        Image.fromarray(picture[top : top + 32, left : left + 48]).save(folder / "photos" / f"{index:02}.png")
    torch.manual_seed(0)
    save_file(DvaeEncoder(n_hid=16, n_blk_per_group=1, vocab_size=8).state_dict(), folder / "dvae.safetensors")
    save_file(timm.create_model("test_efficientnet").state_dict(), folder / "timm.safetensors")


def small_run(materials: Path, out: Path, method: str, architecture: str, **more: Any) -> PretrainConfig:
    """5 epochs of 3 steps less one, in which everything that a method has acts; saved after every third step.

    Args:
        materials: what `make_materials` wrote.
        out: the run folder.
        method, architecture: a row of the table of methods.
        more: other settings, nested.
    """
    networks = {
        None: None,
        "dvae": f"dvae:{materials / 'dvae.safetensors'}",
        "timm": f"timm:test_efficientnet:{materials / 'timm.safetensors'}",
    }
    settings: dict[str, Any] = {
        "data": str(materials / "photos"),
        "out": str(out),
        "method": method,
        "architecture": architecture,
        "loss_network": networks[METHODS[method].loss_network],
        "model": "micro",
        "image_size": 32,
        "patch_size": 8,
        "batch_size": 4,
        "epochs": 5,
        "max_steps": STEPS,
        "lr": 1e-3,
        "device": "cpu",
        "workers": 0,
        "save_every": 3,
        "log": {"every": 1, "pictures": 2, "validate_every": 0.0, "tensorboard": False},
        "discriminator": {"channel_base": 256, "r1_every": 5},
        "ada": {"images": 64, "target": -1.0, "every": 4},
        "path": {"every": 4},
    }
    settings |= more
    return from_dict(PretrainConfig, settings)


def filling(ballast: Path, leave: int) -> Callable[[], None]:
    """For `At`: leave so many bytes free on the disk that `ballast` is written to."""
    return partial(_fill_disk, ballast, leave)


def limiting(size: int) -> Callable[[], None]:
    """For `At`: from then on the kernel refuses to write beyond so many bytes of a file."""
    return partial(_limit_files, size)


# -- processes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class At:
    """Does something in the training process when so many steps are done. An observer of the run."""

    step: int
    act: Callable[[], None]

    def due(self, moment: Any) -> bool:
        """Whether it is time."""
        return bool(moment.step == self.step)

    def __call__(self, moment: Any) -> dict[str, float]:
        """Do it; there is nothing to log."""
        self.act()
        return {}


def die() -> None:
    """What `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def _limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _fill_disk(ballast: Path, leave: int) -> None:
    status = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(status.f_bavail * status.f_frsize - leave, 1))


class Command:
    """`pmae pretrain` in a process that has imported everything already, so that a kill hits training, not imports.

    Args:
        config: the run.
        at: what happens to it on its way.
    """

    def __init__(self, config: PretrainConfig, at: At | None = None) -> None:
        out = Path(config.out)
        file = out.with_name(f"{out.name}.yaml")
        file.write_text(yaml.safe_dump(to_dict(config)))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["perceptual_mae.api", "benchmarks.faults.runs"])
        self._said, told = context.Pipe(duplex=False)
        self.process: ForkServerProcess = context.Process(
            target=_command, args=(["pretrain", "--config", str(file)], told, at)
        )
        self.process.start()
        told.close()

    def wait(self) -> tuple[int, str]:
        """Exit code and everything it said, when it has ended."""
        self.process.join()
        os.set_blocking(self._said.fileno(), False)  # a worker that outlives it for a moment may hold the other end
        text = b""
        try:
            while piece := os.read(self._said.fileno(), 1 << 16):
                text += piece
        except BlockingIOError:
            text += b""  # nothing more is there
        self._said.close()
        code = self.process.exitcode
        self.process.close()
        assert code is not None
        return code, text.decode(errors="replace")


def _command(arguments: list[str], told: Connection, at: At | None) -> None:
    for stream in (1, 2):
        os.dup2(told.fileno(), stream)
    torch.set_num_threads(1)
    if at is not None:
        from perceptual_mae import api

        usual = api.observers_for
        api.observers_for = lambda *arguments: [*usual(*arguments), at]
    sys.exit(main(arguments))


def finish(config: PretrainConfig, at: At | None = None) -> tuple[int, str]:
    """Train, and return exit code and output."""
    return Command(config, at).wait()


def cut_short(config: PretrainConfig, step: int) -> None:
    """Train until so many steps are done, then be killed."""
    code, said = finish(config, At(step, die))
    if code != -signal.SIGKILL:
        raise RuntimeError(f"exit code {code}: {said}")


# -- what came out -----------------------------------------------------------------------------------------------------


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two finished runs: any bit of a network or optimiser, any number that was logged."""
    first, second = (sorted((run / "checkpoints").glob("step-*"))[-1] for run in (one, other))
    if first.name != second.name:
        return [f"{first.name} and {second.name}"]
    found = []
    names = {path.name for checkpoint in (first, second) for path in checkpoint.glob("*.safetensors")}
    pairs = {name: (first / name, second / name) for name in sorted(names)}
    pairs["encoder.safetensors"] = one / "encoder.safetensors", other / "encoder.safetensors"
    for name, (mine, theirs) in pairs.items():
        found += _differing(load_file(mine), load_file(theirs), name)
    state, its = (torch.load(path / "training.pt", weights_only=True) for path in (first, second))
    del state["seconds"], its["seconds"]
    found += _differing(state, its, "training")
    lines, others = records(one), records(other)
    if lines != others:
        found.append(f"metrics.jsonl ({len(lines)} and {len(others)} lines)")
    return found


def _differing(one: object, other: object, path: str) -> list[str]:
    """Places in which two nested states differ in any bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [path]
        return [place for key in one for place in _differing(one[key], other[key], f"{path}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [place for index, pair in pairs for place in _differing(*pair, f"{path}.{index}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and _bits(one) == _bits(other)
    else:
        same = one == other
    return [] if same else [path]


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def steps(run: Path) -> int:
    """Lines of metrics, also of a run that is writing one."""
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def records(run: Path) -> list[dict[str, object]]:
    """Metrics without the clock."""
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]


def wait_until(reached: Callable[[], bool], alive: Callable[[], bool]) -> bool:
    """Wait for something; False where the process has ended before."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if not alive():
            return reached()
        if time.monotonic() > deadline:
            raise TimeoutError("the process does not get on")
        time.sleep(0.002)
    return True
