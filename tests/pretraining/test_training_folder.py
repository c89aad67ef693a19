"""The folder of a run: whose it is, what is written to it, and what a kill in the middle of a line leaves."""

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import perceptual_mae as pm
from perceptual_mae.api import report
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.pretraining.config import OptimizerConfig, PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.settings import to_dict

MakeConfig = Callable[..., PretrainConfig]


@pytest.fixture
def run(make_config: MakeConfig) -> Iterator[RunFolder]:
    claimed = RunFolder.claim(make_config("run"))
    yield claimed
    claimed.close()


def test_claiming_makes_the_folder_with_its_settings(make_config: MakeConfig) -> None:
    config = make_config("deep/er/run", image_size="32x48")
    run = RunFolder.claim(config)
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == to_dict(config)
    assert run.checkpoints.is_dir()
    assert run.figures.is_dir()
    run.close()
    assert RunFolder.read(run.path).config == config


def test_a_folder_below_the_home_folder(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    run = RunFolder.claim(replace(make_config("run"), out="~/runs/mine"))
    run.close()
    assert run.path == tmp_path / "home" / "runs" / "mine"
    assert not (tmp_path / "~").exists()
    assert pm.Run("~/runs/mine").path == run.path
    assert report("~/runs/mine") == run.path / "report.html"


CLAIM = """
import sys
from perceptual_mae.errors import PmaeError
from perceptual_mae.pretraining.folder import RunFolder
config = RunFolder.read(sys.argv[1]).config
try:
    RunFolder.claim(config)
except PmaeError as error:
    sys.exit(str(error))
"""


def claimed_elsewhere(path: Path) -> subprocess.CompletedProcess[str]:
    """Try to claim a folder from another process."""
    return subprocess.run([sys.executable, "-c", CLAIM, str(path)], capture_output=True, text=True, check=False)


def test_nobody_else_can_train_in_a_claimed_folder(run: RunFolder) -> None:
    other = claimed_elsewhere(run.path)
    assert other.returncode == 1
    assert other.stderr.strip() == f"--out {run.path}: another process is training in this folder"
    with pytest.raises(PmaeError, match="another process is training"):  # in this process neither
        RunFolder.claim(run.config)
    RunFolder.read(run.path)  # looking is free
    RunFolder.claim(run.config, write=False)
    run.close()
    assert claimed_elsewhere(run.path).returncode == 0


def test_a_worker_does_not_hold_the_lock_of_a_run_that_is_gone(run: RunFolder) -> None:
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    try:
        run.close()  # what the kernel does when the main process is killed
        assert claimed_elsewhere(run.path).returncode == 0
    finally:
        worker.kill()
        worker.join()


def test_a_refused_claim_changes_nothing(run: RunFolder) -> None:
    before = (run.path / "config.yaml").read_bytes()
    with pytest.raises(PmaeError):
        RunFolder.claim(replace(run.config, epochs=999))
    assert (run.path / "config.yaml").read_bytes() == before


def test_a_run_that_never_began_may_have_another_configuration(run: RunFolder) -> None:
    run.close()
    again = RunFolder.claim(replace(run.config, mask_ratio=0.5))
    assert RunFolder.read(run.path).config.mask_ratio == 0.5
    again.close()


def test_another_configuration_is_refused_and_the_difference_shown(run: RunFolder) -> None:
    run.append({"step": 1})
    run.close()
    other = replace(run.config, mask_ratio=0.5, optimizer=OptimizerConfig(weight_decay=0.2), epochs=999)
    with pytest.raises(UsageError) as error:
        RunFolder.claim(other)
    message = str(error.value)
    assert f"--out {run.path} belongs to another configuration" in message
    assert "(mask_ratio: 0.75, now 0.5; optimizer.weight_decay: 0.05, now 0.2)" in message
    assert RunFolder.read(run.path).config == run.config
    RunFolder.claim(run.config).close()  # the refusal holds no lock


def test_free_settings_may_change_and_are_written_down(run: RunFolder) -> None:
    run.close()
    RunFolder.claim(replace(run.config, epochs=999, save_every=3)).close()
    assert RunFolder.read(run.path).config.epochs == 999


def test_a_folder_that_is_something_else_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    RunFolder.claim(make_config("run")).close()  # an empty one is fine
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("John")
    with pytest.raises(UsageError, match="the folder is not empty and holds no run; name another"):
        RunFolder.claim(make_config("letters"))
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["dear.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(PmaeError, match=r"--out .*/file: "):
        RunFolder.claim(make_config("file"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is no run folder: it has no config.yaml"),
        ("data: [", "config.yaml cannot be read"),
        ("- a\n- b", "config.yaml holds no settings"),
        ("", "config.yaml holds no settings"),
        ("data: photos\nbach_size: 3", "unknown setting bach_size; did you mean batch_size?"),
        (b"\xff\xfe\xff", "config.yaml cannot be read"),
    ],
)
def test_reading_what_is_no_run(tmp_path: Path, text: str | bytes | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as error:
        RunFolder.read(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_rewinding_forgets_what_comes_again(run: RunFolder) -> None:
    for step in (2, 4, 6, 8):
        run.append({"step": step, "loss/total": 1 / step})
    run.rewind(5)
    assert run.records() == [{"step": 2, "loss/total": 0.5}, {"step": 4, "loss/total": 0.25}]
    run.append({"step": 6})
    assert [record["step"] for record in run.records()] == [2, 4, 6]
    run.rewind(0)
    assert run.records() == []


@pytest.mark.parametrize("torn", ['{"step": 6, "loss/to', '{"step": 6', "{", '"step', '{"step": 6, "loss/total": 1.2'])
def test_a_torn_last_line_is_left_out(run: RunFolder, torn: str) -> None:
    run.append({"step": 2, "lr": 0.1})
    with run.metrics.open("a") as file:
        file.write(torn)
    assert run.records() == [{"step": 2, "lr": 0.1}]
    run.rewind(4)
    run.append({"step": 6, "lr": 0.2})
    lines = run.metrics.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 6]


def test_lines_that_are_no_records_are_left_out(run: RunFolder) -> None:
    run.metrics.write_bytes(b'{"step": 1}\n[1]\n3\n{"epoch": 2}\n\n\xff\xfe\n{"step": "x"}\n{"step": 9}\n')
    assert run.records() == [{"step": 1}, {"step": 9}]


def test_skipped_images_are_noted_once_in_one_line_each(run: RunFolder) -> None:
    assert run.skip([("b.png", "is empty"), ("a.png", "is cut short"), ("b.png", "is empty")]) == 2
    assert run.skip([("a.png", "is cut short")]) == 2
    odd = "new\nline\ttab\udcff" + "é"
    assert run.skip([(odd, "is\nodd")]) == 3
    lines = (run.path / "skipped.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["a.png\tis cut short", "b.png\tis empty"]
    assert lines[2] == "new\\nline\\ttab\\udcffé\tis\\nodd"
    assert len(lines) == 3
    run.close()
    again = RunFolder.claim(run.config)
    assert again.skip([("a.png", "is cut short"), (odd, "is\nodd"), ("c.png", "is empty")]) == 4
    again.close()
    assert len((run.path / "skipped.txt").read_text(encoding="utf-8").splitlines()) == 4


def test_nothing_skipped_makes_no_file(run: RunFolder) -> None:
    assert run.skip([]) == 0
    assert not (run.path / "skipped.txt").exists()


def test_facts_are_merged(run: RunFolder) -> None:
    assert run.facts() == {}
    run.describe(state="running", steps=3)
    run.describe(state="finished")
    assert run.facts() == {"state": "finished", "steps": 3}
    (run.path / "run.json").write_text('{"state": "fini')
    assert run.facts() == {}
    run.describe(steps=4)
    assert run.facts() == {"steps": 4}
