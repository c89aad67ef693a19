"""Pre-training from a stream: it goes on exactly after a kill, and a lost shard costs its images and no more."""

import hashlib
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from power_cut import pretrain_until_power_cut
from safetensors.torch import load_file
from shard_server import Trouble, served, write_shards

from perceptual_mae.api import pretrain
from perceptual_mae.cli.main import main
from perceptual_mae.data import StreamSettings
from perceptual_mae.data.streaming import transfer
from perceptual_mae.data.streaming.plan import LANES, SHUFFLE_BUFFER
from perceptual_mae.pretraining.config import LogConfig
from perceptual_mae.settings import to_dict
from perceptual_mae.training.config import LoaderConfig

QUIET = LogConfig(every=1, pictures=0, picture_images=4, validate_every=0, tensorboard=False)


@pytest.fixture
def streamed(tmp_path, make_config, monkeypatch):
    """Configurations that stream; the shards are in `tmp_path / set`."""
    monkeypatch.setattr(transfer, "_FIRST_WAIT", 0.01)
    write_shards(tmp_path / "set", [20, 7, 31, 12, 25])

    def make(out, data=f"stream:{tmp_path}/set", workers=0, retries=2, **settings):
        cache = str(tmp_path / f"cache-{out}")
        loader = LoaderConfig(lanes=2, shuffle_buffer=16, cache=cache, timeout=1, retries=retries)
        settings = {"max_steps": 14, "batch_size": 12, "image_size": 16, "save_every": 5, "log": QUIET} | settings
        return make_config(out, data=data, loader=loader, workers=workers, **settings)

    return make


def weights(run: Path) -> str:
    """A digest of the encoder, of its tensors alone: the order of a file's metadata is its writer's whim."""
    tensors = load_file(run / "encoder.safetensors")
    return hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss/total"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_goes_on_exactly_and_from_the_web_too(tmp_path, streamed):
    whole = pretrain(streamed("whole"))
    cut = streamed("cut", workers=2)
    pretrain_until_power_cut(cut, 8)
    pretrain(cut)
    assert weights(Path(cut.out)) == weights(whole)
    with served(tmp_path, Trouble(drop=0.05)) as url:
        web = pretrain(streamed("web", f"{url}/set", workers=2, retries=20))
    assert weights(web) == weights(whole)
    assert not (web / "skipped.txt").exists()


def test_a_lost_shard_is_listed_and_the_run_ends_well(tmp_path, streamed):
    trouble = Trouble()
    trouble.hang.add("set/003.tar")
    with served(tmp_path, trouble) as url:
        run = pretrain(streamed("lossy", f"{url}/set", workers=1, retries=0))
    lines = (run / "skipped.txt").read_text().splitlines()
    assert {re.sub(r" sample \d+", "", line) for line in lines} == {"003.tar\tno answer for 1 s"}
    assert len(lines) == 12
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 14


def test_every_command_of_the_documentation_has_known_flags():
    text = (Path(__file__).parents[2] / "docs" / "streaming.md").read_text(encoding="utf-8")
    commands = re.findall(r"^pmae (\w+) (.*)$", text, flags=re.MULTILINE)
    assert {name for name, _ in commands} == {"shard", "pretrain"}
    for name, rest in commands:
        importlib.import_module(f"perceptual_mae.cli.{name}").make_parser().parse(shlex.split(rest))
    for flag, default in re.findall(r"^\| `--loader\.([\w-]+)` \| (\d+) ", text, flags=re.MULTILINE):
        assert getattr(LoaderConfig(), flag.replace("-", "_")) == int(default)


def test_the_settings_of_a_stream_are_those_of_a_loader():
    assert StreamSettings.of(LoaderConfig()) == StreamSettings()
    assert (LoaderConfig().lanes, LoaderConfig().shuffle_buffer) == (LANES, SHUFFLE_BUFFER)


def test_settings_that_cannot_be_right(capsys):
    for flag in ("lanes", "shuffle-buffer", "cache-gib", "timeout"):
        assert main(["pretrain", "--data", "stream:x", f"--loader.{flag}", "0"]) == 2
        assert f"--loader.{flag} 0" in capsys.readouterr().err
    assert main(["pretrain", "--data", "stream:x", "--loader.retries", "-1"]) == 2


def test_another_order_is_another_training(streamed, capsys):
    config = streamed("one", max_steps=2)
    pretrain(config)
    settings = to_dict(config) | {"loader": {**to_dict(config)["loader"], "lanes": 3}}
    file = Path(config.out).parent / "other.yaml"
    file.write_text(yaml.safe_dump(settings))
    assert main(["pretrain", "--config", str(file)]) == 2
    assert "loader.lanes: 2, now 3" in capsys.readouterr().err


@pytest.mark.slow
def test_kill_9_and_the_same_command(tmp_path, streamed):
    with served(tmp_path) as url:
        whole = pretrain(streamed("whole", f"{url}/set", max_steps=24))
        config = streamed("killed", f"{url}/set", max_steps=24, workers=1)
        file = tmp_path / "settings.yaml"
        file.write_text(yaml.safe_dump(to_dict(config)))
        command = [sys.executable, "-m", "perceptual_mae.cli.main", "pretrain", "--config", str(file)]
        metrics = Path(config.out) / "metrics.jsonl"
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
            deadline = time.monotonic() + 120
            while not metrics.exists() or metrics.read_bytes().count(b"\n") < 8:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
        run = pretrain(config)
    assert weights(run) == weights(whole)
    assert len(losses(run)) == 24
