"""Reports of a run that goes on."""

import os
import signal
import time
from collections.abc import Callable

import pytest
from power_cut import At, watched_by

from perceptual_mae.api import pretrain
from perceptual_mae.errors import WriteError
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.pretraining.moment import Moment
from perceptual_mae.training import whole
from perceptual_mae.training.signals import StopRequest
from perceptual_mae.training.whole import Seldom


class Clock:
    """Stands for `time.monotonic`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_reports_take_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, written = Clock(monkeypatch), []

    def report() -> None:
        written.append(clock.now)
        clock.now += 2.0

    tell = Seldom(report, StopRequest())
    for now in (1001.0, 1059.0, 1060.0, 1063.0, 1261.0, 1262.0, 1300.0):
        clock.now = now
        tell()
    assert written == [1060.0, 1262.0]  # 60 seconds after the beginning, and 200 after the end of that


def test_a_signal_ends_a_report() -> None:
    written = []

    def report() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        written.append(1)

    with StopRequest() as stop, pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole, "FIRST_REPORT", 0.0)
        Seldom(report, stop)()
        assert stop.signal == signal.SIGTERM
    assert written == []


def test_a_full_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def report() -> None:
        raise WriteError("report.html", 28, "no more space")

    monkeypatch.setattr(whole, "FIRST_REPORT", 0.0)
    Seldom(report, StopRequest())()
    assert "training does not need it" in caplog.text


def test_a_run_has_a_report_while_it_trains(
    make_config: Callable[..., PretrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "FIRST_REPORT", 0.0)
    config = make_config(save_every=2, max_steps=4)
    seen: list[tuple[bool, str]] = []

    def look(moment: Moment) -> dict[str, float]:
        seen.append(((moment.run.path / "report.html").exists(), moment.run.facts()["state"]))
        return {}

    with watched_by(At(3, look)):
        pretrain(config)
    assert seen == [(True, "running")]
    assert RunFolder.read(config.out).facts()["state"] == "finished"
