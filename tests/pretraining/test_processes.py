"""Processes that `srun` starts, one of which dies or all of which are asked to stop."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from perceptual_mae.pretraining.config import LogConfig, PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.settings import to_dict
from perceptual_mae.training.checkpoint import Checkpoint, newest

PATIENCE = 120.0
LEAVE = 15.0
"""Seconds in which a run that is asked to stop has saved everything and is gone."""


@contextmanager
def started(config: PretrainConfig) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes, told what Slurm tells them."""
    file = Path(config.out).parent / "settings.yaml"
    file.write_text(yaml.safe_dump(to_dict(config)))
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0"}
    step |= {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "perceptual_mae.cli.main", "pretrain", "--config", str(file)],
            env={**os.environ, **step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    with processes[0], processes[1]:
        try:
            yield processes
        finally:
            for process in processes:
                process.kill()


def wait_for_steps(config: PretrainConfig, steps: int, processes: list[subprocess.Popen[str]]) -> None:
    metrics, deadline = Path(config.out) / "metrics.jsonl", time.monotonic() + PATIENCE
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < steps:
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def long_run(make_config: Callable[..., PretrainConfig]) -> PretrainConfig:
    log = LogConfig(every=1, pictures=0, validate_every=0, tensorboard=False)
    return make_config("together", method="ls-gan", max_steps=100_000, epochs=10_000, save_every=5, log=log)


@pytest.mark.slow
def test_when_a_process_dies_the_other_ends_and_the_last_checkpoint_is_whole(long_run: PretrainConfig) -> None:
    with started(long_run) as processes:
        wait_for_steps(long_run, 12, processes)
        processes[1].kill()
        begun = time.monotonic()
        _, said = processes[0].communicate(timeout=PATIENCE)
        assert time.monotonic() - begun < LEAVE
    assert processes[1].wait() == -signal.SIGKILL
    assert processes[0].returncode == 1
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert re.fullmatch(
        r"pmae: step \d+ of 100000: another process has ended; checkpoints/step-0\d+ is whole: the same command .*",
        last,
    )
    found = next(newest(Path(long_run.out) / "checkpoints"))
    assert isinstance(found, Checkpoint)
    assert found.step >= 10
    facts = RunFolder.read(long_run.out).facts()
    assert facts["processes"] == 2
    assert facts["state"] == "stopped"
    assert facts["message"] in last


@pytest.mark.slow
@pytest.mark.parametrize("asked", [(0, 1), (1,)])
def test_all_leave_when_one_is_asked_to(long_run: PretrainConfig, asked: tuple[int, ...]) -> None:
    with started(long_run) as processes:
        wait_for_steps(long_run, 7, processes)
        for rank in asked:
            processes[rank].send_signal(signal.SIGTERM)
        begun = time.monotonic()
        told = [process.communicate(timeout=PATIENCE)[1] for process in processes]
        assert time.monotonic() - begun < LEAVE
    assert [process.returncode for process in processes] == [143, 143]
    found = next(newest(Path(long_run.out) / "checkpoints"))
    assert isinstance(found, Checkpoint)
    # One of them speaks for both.
    assert (
        told[0].splitlines()[-1].startswith(f"pmae: interrupted after step {found.step} of 100000; everything is saved")
    )
    assert "interrupted" not in told[1]
