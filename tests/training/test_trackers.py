"""Trackers without a network: what each has written is read back with its own tools."""

import contextlib
import importlib.util
import json
import logging
import os
import re
import sqlite3
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perceptual_mae.api import pretrain
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.pretraining.config import LogConfig, PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.training import trackers
from perceptual_mae.training.signals import Interrupted

ALL = ("wandb", "mlflow", "trackio")
MISSING = [name for name in ALL if importlib.util.find_spec(name) is None]
if MISSING:
    pytest.skip(f"{MISSING} not installed: pip install 'perceptual-mae[trackers]'", allow_module_level=True)

MakeConfig = Callable[..., PretrainConfig]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of six steps that went on to ten, told to all trackers, each in its offline mode."""
    folder = tmp_path_factory.mktemp("tracked")
    told = os.environ | {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TRACKIO_DIR": str(folder / "trackio"),
    }
    flags = (
        "pretrain --data photos --model micro --image-size 32 --patch-size 8 --batch-size 8 --device cpu --workers 0"
    )
    flags += " --log.every 2 --log.pictures 1 --log.validate-every 0 --log.trackers wandb,mlflow,trackio --out run"
    for steps in ("6", "10"):
        command = [sys.executable, "-m", "perceptual_mae.cli.main", *flags.split(), "--max-steps", steps]
        subprocess.run(command, check=True, cwd=folder, env=told, capture_output=True, timeout=300)
    return folder


def logged(folder: Path, name: str = "loss/mse") -> dict[int, float]:
    return {record["step"]: record[name] for record in RunFolder.read(folder / "run").records()}


def test_tensorboard_has_every_line_and_the_pictures(tracked: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked / "run" / "tensorboard"))
    events.Reload()
    assert {e.step: e.value for e in events.Scalars("loss/mse")} == pytest.approx(logged(tracked))
    pictures = events.Images("reconstruction")
    assert [picture.step for picture in pictures] == [0, 6, 10]
    assert all(picture.encoded_image_string.startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.slow
def test_mlflow_has_one_run_of_both_parts(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tracked}/mlflow.db")
    experiment = client.get_experiment_by_name("perceptual-mae")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["model"] == "micro"
    assert run.data.params["optimizer.weight_decay"] == "0.05"
    history = client.get_metric_history(run.info.run_id, "loss/mse")
    assert {point.step: point.value for point in history} == pytest.approx(logged(tracked))
    images = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "images")}
    steps = {int(found[1]) for image in images if (found := re.search(r"reconstruction\+step\+(\d+)\+.*png$", image))}
    assert steps == {0, 6, 10}


def test_trackio_has_one_run_of_both_parts(tracked: Path) -> None:
    with sqlite3.connect(tracked / "trackio" / "perceptual-mae.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics").fetchall()
    assert len({run for run, _, _ in rows}) == 1
    assert rows[0][0].startswith("run-")
    values: dict[int, dict[str, Any]] = defaultdict(dict)
    for _, step, content in rows:
        values[step] |= json.loads(content)
    assert {s: v["loss/mse"] for s, v in values.items() if "loss/mse" in v} == pytest.approx(logged(tracked))
    pictures = {step: value["reconstruction"] for step, value in values.items() if "reconstruction" in value}
    assert pictures.keys() == {0, 6, 10}
    assert all((tracked / "trackio" / "media" / picture["file_path"]).is_file() for picture in pictures.values())


def test_wandb_has_one_run_of_both_parts(tracked: Path) -> None:
    histories: dict[int, dict[str, Any]] = defaultdict(dict)
    names, settings = set(), dict[str, str]()
    files = sorted((tracked / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2  # what `wandb sync` sends as one run
    for record in (one for file in files for one in wandb_records(file)):
        if record.WhichOneof("record_type") == "run":
            names.add((record.run.project, record.run.display_name, record.run.run_id))
            settings |= {item.key: item.value_json for item in record.run.config.update}
        if record.WhichOneof("record_type") == "config":
            settings |= {item.key: item.value_json for item in record.config.update}
        if record.WhichOneof("record_type") == "history":
            values = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            histories[int(values["_step"])] |= values
    assert [name[:2] for name in names] == [("perceptual-mae", "run")]
    assert json.loads(settings["optimizer.weight_decay"]) == 0.05
    losses = {step: float(values["loss/mse"]) for step, values in histories.items() if "loss/mse" in values}
    assert losses == pytest.approx(logged(tracked))
    pictures = {step for step, values in histories.items() if any(name.startswith("reconstruction") for name in values)}
    assert pictures == {0, 6, 10}


def wandb_records(file: Path) -> Iterator[Any]:
    """What W&B wrote: records of protobuf in LevelDB's log format, blocks of 32 KiB after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def log_with(*names: Any) -> LogConfig:
    return LogConfig(every=1, pictures=1, validate_every=0, tensorboard=False, trackers=names)


def test_a_tracker_that_is_not_installed_is_refused_before_anything(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--log.trackers wandb: wandb is not installed; pip install wandb "):
        pretrain(make_config(log=log_with("wandb")))
    assert not Path(make_config().out).exists()


def no_login(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("No API key configured.\nUse `wandb login` to log in.")


def test_a_new_run_says_at_once_that_a_tracker_cannot_be_started(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wandb.init", no_login)
    with pytest.raises(PmaeError) as caught:
        pretrain(make_config(log=log_with("wandb")))
    words = "--log.trackers wandb: it cannot be started: No API key configured. Use `wandb login` to log in."
    assert str(caught.value) == words


class Broken:
    """A run of W&B's whose connection is lost after some calls."""

    id = "abc"

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def log(self, *args: Any, **kwargs: Any) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise ConnectionError("the server has gone")


@pytest.mark.parametrize("calls", [0, 3])
def test_a_run_goes_on_without_a_tracker_that_is_lost(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, calls: int
) -> None:
    monkeypatch.setattr("wandb.init", lambda **kwargs: Broken(calls))
    monkeypatch.setattr("wandb.config", type("Config", (), {"update": lambda *args, **kwargs: None}))
    with caplog.at_level(logging.WARNING):
        run = RunFolder.read(pretrain(make_config(log=log_with("wandb"))))
    assert run.facts()["state"] == "finished"
    assert run.facts()["trackers"] == {"wandb": "abc"}
    assert len(run.records()) == 6
    said = "wandb cannot be told: the server has gone (training does not need it, and goes on)"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_a_run_that_goes_on_leaves_out_a_tracker_that_cannot_be_started(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretrain(make_config(max_steps=3, log=log_with()))
    monkeypatch.setattr("wandb.init", no_login)
    run = RunFolder.read(pretrain(make_config(log=log_with("wandb"))))
    assert run.facts()["state"] == "finished"
    assert "wandb cannot be told: No API key configured." in caplog.text


@pytest.mark.parametrize(("error", "code"), [(None, 0), (PmaeError("lost"), 1)])
def test_a_tracker_is_told_how_a_run_ended(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, error: PmaeError | None, code: int
) -> None:
    from perceptual_mae.training.loop import TrainingLoop

    ends: list[int] = []

    class Ended(Broken):
        def finish(self, exit_code: int) -> None:
            ends.append(exit_code)

    def fit(loop: Any) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr("wandb.init", lambda **kwargs: Ended(9))
    monkeypatch.setattr("wandb.config", type("Config", (), {"update": lambda *args, **kwargs: None}))
    monkeypatch.setattr(TrainingLoop, "fit", fit)
    with contextlib.nullcontext() if error is None else pytest.raises(PmaeError, match="lost"):
        pretrain(make_config(log=log_with("wandb")))
    assert ends == [code]


def test_mlflow_is_told_how_a_run_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[str] = []
    monkeypatch.setattr("mlflow.end_run", ends.append)
    for error in (None, Interrupted("stopped", 15), PmaeError("lost")):
        trackers._END["mlflow"](None, error)
    assert ends == ["FINISHED", "KILLED", "FAILED"]
