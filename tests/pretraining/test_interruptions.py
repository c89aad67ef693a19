"""Runs in processes of their own: asked to stop, killed, and spread over two processes."""

import multiprocessing
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from power_cut import At, watched_by

from perceptual_mae.api import pretrain
from perceptual_mae.cli.main import main
from perceptual_mae.pretraining.config import LogConfig, LossesConfig, PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.pretraining.loss_config import AdaConfig, DiscriminatorConfig
from perceptual_mae.pretraining.moment import Moment
from perceptual_mae.settings import to_dict
from perceptual_mae.training.checkpoint import Checkpoint, checkpoints, newest
from perceptual_mae.training.signals import Interrupted

SameRun = Callable[[Path, Path], None]
PATIENCE = 120.0
"""Seconds that a process may take to come to its first step on a busy machine."""


def arguments(config: PretrainConfig) -> list[str]:
    """A command line for a configuration."""
    file = Path(config.out).parent / "settings.yaml"
    file.write_text(yaml.safe_dump(to_dict(config)))
    return ["pretrain", "--config", str(file)]


def lines(config: PretrainConfig) -> int:
    metrics = Path(config.out) / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def wait_for_lines(config: PretrainConfig, count: int, alive: Callable[[], bool]) -> None:
    """Wait until the run has logged so many lines."""
    deadline = time.monotonic() + PATIENCE
    while lines(config) < count:
        assert alive(), "the process has ended early"
        assert time.monotonic() < deadline, "the process does not get on"
        time.sleep(0.002)


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_continues(
    uninterrupted: Path, long_config: PretrainConfig, assert_same_run: SameRun
) -> None:
    command = [sys.executable, "-m", "perceptual_mae.cli.main", *arguments(long_config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        wait_for_lines(long_config, 3, lambda: process.poll() is None)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    run = Path(long_config.out)
    step = int(checkpoints(run / "checkpoints")[-1].name[5:])
    assert 12 <= step < 110
    assert "Traceback" not in err
    assert err.splitlines()[-1] == (
        f"pmae: interrupted after step {step} of 110; everything is saved in {run}: the same command continues"
    )
    assert out == ""
    facts = RunFolder.read(run).facts()
    assert facts["state"] == "stopped"
    assert f"interrupted after step {step}" in facts["message"]
    assert (run / "report.html").exists()
    pretrain(long_config)
    assert_same_run(run, uninterrupted)


ON_A_TERMINAL = "import os, sys; os.close(os.open(os.ttyname(1), os.O_RDWR)); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes standard output the terminal that controls a new session, and goes on as the command that follows."""


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_a_run_with_everything_saved(
    uninterrupted: Path, long_config: PretrainConfig, assert_same_run: SameRun
) -> None:
    """As a connection to another machine does that breaks off: SIGHUP, and nobody is there to read another word."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    pmae = [sys.executable, "-m", "perceptual_mae.cli.main", *arguments(long_config)]
    streams = dict.fromkeys(["stdin", "stdout", "stderr"], theirs)
    with subprocess.Popen([sys.executable, "-c", ON_A_TERMINAL, *pmae], start_new_session=True, **streams) as process:
        os.close(theirs)

        def alive() -> bool:
            with suppress(BlockingIOError):  # a terminal that nobody reads from is full at some time
                os.read(ours, 2**16)
            return process.poll() is None

        wait_for_lines(long_config, 3, alive)
        os.close(ours)
        assert process.wait(timeout=PATIENCE) == 129
    run = Path(long_config.out)
    assert "interrupted after step" in RunFolder.read(run).facts()["message"]
    pretrain(long_config)
    assert_same_run(run, uninterrupted)


@pytest.fixture
def forked() -> Iterator[Callable[..., Any]]:
    """Starts processes that have imported everything already: a kill then hits training, not imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["perceptual_mae.api"])
    started = []

    def start(*args: str) -> Any:
        process = context.Process(target=main, args=(list(args),))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()
        process.close()


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    uninterrupted: Path, long_config: PretrainConfig, assert_same_run: SameRun, forked: Callable[..., Any]
) -> None:
    seed = random.randrange(2**32)
    print(f"kills drawn from seed {seed}")
    chance = random.Random(seed)
    run = Path(long_config.out)
    for _ in range(3):
        process = forked(*arguments(long_config))
        wait_for_lines(long_config, lines(long_config) + chance.randint(1, 6), process.is_alive)
        time.sleep(chance.uniform(0, 0.06))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        # Whatever is there is whole.
        assert all(isinstance(found, Checkpoint) for found in newest(run / "checkpoints"))
        assert RunFolder.read(run).config == long_config
    pretrain(long_config)
    assert_same_run(run, uninterrupted)


@pytest.mark.parametrize("step", [0, 6, 12])
def test_a_signal_ends_a_long_look_which_comes_again(
    make_config: Callable[..., PretrainConfig], assert_same_run: SameRun, step: int
) -> None:
    """Before the first step, between two, and after the last."""
    settings: dict[str, Any] = {"max_steps": 12, "save_every": 5, "log": LogConfig(every=4, pictures=0)}
    config = make_config("cut", **settings)

    def long_look(moment: Moment) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(60)
        raise AssertionError("nobody was in a hurry")

    begun = time.monotonic()
    with watched_by(At(step, long_look)), pytest.raises(Interrupted, match=f"after step {step} of 12") as ended:
        pretrain(config)
    assert time.monotonic() - begun < 30
    assert ended.value.exit_code == 128 + signal.SIGUSR1
    with watched_by(At(step, lambda moment: {"seen": 1.0})):
        pretrain(config)
        whole = pretrain(make_config("whole", **settings))
    assert_same_run(Path(config.out), whole)
    seen = [record["step"] for record in RunFolder.read(config.out).records() if "seen" in record]
    assert seen == ([step] if step else [])
    assert RunFolder.read(config.out).facts()["state"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "steps", "discriminator"),
    [
        ("mse", 5, DiscriminatorConfig()),
        ("stylegan2-ada-p", 17, DiscriminatorConfig()),
        ("stylegan2-ada-p", 5, DiscriminatorConfig(update="alternating", r1_every=2)),
    ],
)
def test_two_processes_train_as_one(
    make_config: Callable[..., PretrainConfig], method: str, steps: int, discriminator: DiscriminatorConfig
) -> None:
    """Path lengths (every 4 steps), R1 (every 16) and p among what they share. `benchmarks.processes` has more steps.

    At the paper's learning rate for 16 images: at a higher one the game amplifies a rounding error in these steps.
    """
    settings: dict[str, Any] = {"method": method, "max_steps": steps, "ada": AdaConfig(images=500), "lr": 9.375e-6}
    settings["discriminator"] = discriminator
    settings["losses"] = LossesConfig(perceptual_every=1)
    settings["log"] = LogConfig(every=1, pictures=0, validate_every=0, tensorboard=False)
    together = make_config("together", **settings)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launched = subprocess.run(
        [*launcher, "-m", "perceptual_mae.cli.main", *arguments(together)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    alone = pretrain(make_config("alone", **settings))
    one, two = (RunFolder.read(run).records() for run in (alone, together.out))
    assert len(one) == steps
    for a, b in zip(one, two, strict=True):
        for name in a.keys() - {"seconds", "images_per_second"}:
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-7), name
    assert RunFolder.read(together.out).facts()["processes"] == 2
    # One of them speaks for both.
    assert launched.stderr.count(f"micro / {method} on") == 1
    assert launched.stderr.count(f"step {steps}/{steps}") == 1
