"""Models that are cut over processes, and checkpoints that go from one number of processes to another."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from perceptual_mae.api import pretrain
from perceptual_mae.cli.main import main
from perceptual_mae.errors import UsageError
from perceptual_mae.pretraining.build import build_model, trained_model
from perceptual_mae.pretraining.config import LogConfig, LossesConfig, OptimizerConfig, PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.pretraining.loss_config import AdaConfig, PathConfig
from perceptual_mae.settings import to_dict
from perceptual_mae.training.checkpoint import checkpoints, load
from perceptual_mae.training.config import CheckpointConfig

MakeConfig = Callable[..., PretrainConfig]
SETTINGS: dict[str, Any] = {
    "method": "stylegan2-ada-p",
    "batch_size": 24,  # 1, 2 and 3 processes have groups of four images for the minibatch standard deviation
    "lr": 1.4e-5,  # at higher ones the game amplifies what rounding does
    "ada": AdaConfig(images=500),
    "losses": LossesConfig(perceptual_every=1),
    "save_every": 4,
    "checkpoint": CheckpointConfig(keep=3),
}


def launch(config: PretrainConfig, processes: int) -> str:
    """Train in so many processes."""
    file = Path(config.out).parent / f"settings-{processes}.yaml"
    file.write_text(yaml.safe_dump(to_dict(config)))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, "-m", "perceptual_mae.cli.main", "pretrain", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def back_to(run: Path, step: int) -> Path:
    """Make a run one that has come no further."""
    for path in checkpoints(run / "checkpoints"):
        if path.name > f"step-{step:08d}":
            shutil.rmtree(path)
    return run / "checkpoints" / f"step-{step:08d}"


@pytest.mark.slow
def test_a_checkpoint_of_two_shares_continues_under_three_and_under_one(make_config: MakeConfig) -> None:
    log = LogConfig(every=1, pictures=2, validate_every=0.05, validation_images=16, tensorboard=False)
    settings = {**SETTINGS, "max_steps": 12, "log": log}
    launch(make_config("moved", sharding="fsdp", **settings), 2)
    run = Path(make_config("moved").out)
    first = back_to(run, 4)
    assert len(list((first / "sharded").glob("*.safetensors"))) == 2
    # Read by one process that knows nothing of shares, it is like any other.
    assert load(first).networks["model"].keys() == build_model(make_config(**settings)).state_dict().keys()
    assert trained_model(RunFolder.read(run))[1] == 4

    assert "continuing after step 4 of 12" in launch(make_config("moved", sharding="fsdp", **settings), 3)
    assert len(list((back_to(run, 8) / "sharded").glob("*.safetensors"))) == 3
    pretrain(make_config("moved", **settings))
    whole = pretrain(make_config("whole", **settings))

    one, moved = RunFolder.read(whole).records(), RunFolder.read(run).records()
    assert [record["step"] for record in moved] == list(range(1, 13))
    for a, b in zip(one, moved, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "images_per_second"}:
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-7), (a["step"], name)
    ends = [load(checkpoints(path / "checkpoints")[-1]) for path in (whole, run)]
    for name, tensor in ends[0].networks["model"].items():
        torch.testing.assert_close(ends[1].networks["model"][name], tensor, rtol=1e-3, atol=1e-5)
    assert (run / "figures" / "reconstruction-00000012.png").exists()


@pytest.mark.slow
def test_shares_add_up_micro_batches_and_clip_as_one_process_does(make_config: MakeConfig) -> None:
    log = LogConfig(every=1, pictures=0, validate_every=0, tensorboard=False)
    settings: dict[str, Any] = {"batch_size": 16, "max_steps": 4, "lr": 1e-3, "log": log}
    cut = make_config("cut", sharding="fsdp", optimizer=OptimizerConfig(accumulate=2, clip_grad=0.05), **settings)
    launch(cut, 2)
    whole = pretrain(make_config("whole", optimizer=OptimizerConfig(clip_grad=0.05), **settings))
    for a, b in zip(RunFolder.read(whole).records(), RunFolder.read(cut.out).records(), strict=True):
        assert a["grad_norm"] > 0.1  # it is clipped
        for name in ("loss/total", "grad_norm"):
            assert b[name] == pytest.approx(a[name], rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [({"compile": True}, "--compile"), ({"path": PathConfig(estimator="exact")}, "--path.estimator")],
)
def test_what_does_not_go_with_shares_is_refused(make_config: MakeConfig, settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(UsageError, match=f"{flag} .* not with --sharding fsdp"):
        make_config(method="stylegan2-ada-p", sharding="fsdp", **settings).check()
    make_config(method="stylegan2-ada-p", **settings).check()


def test_one_process_has_nothing_to_share(make_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(max_steps=2, sharding="fsdp", log=LogConfig(pictures=0, tensorboard=False))
    run = pretrain(config)
    assert not (checkpoints(run / "checkpoints")[-1] / "sharded").exists()
    assert main(["pretrain", "--data", "photos", "--sharding", "none"]) == 2
    assert "fsdp" in capsys.readouterr().err
