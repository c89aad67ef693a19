"""What a run writes where the system does not let it: one line for what matters, a warning for what does not."""

import errno
import fcntl
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from power_cut import At, watched_by
from safetensors.torch import load_file, save_file

from perceptual_mae import files, observers
from perceptual_mae.api import pretrain
from perceptual_mae.errors import PmaeError, WriteError
from perceptual_mae.files import append_text, if_possible, write_atomically, write_text, writing
from perceptual_mae.pretraining.config import LogConfig, PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.training import folder as training_folder

MakeConfig = Callable[..., PretrainConfig]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Within, the kernel refuses to write beyond so many bytes of any file."""
    usual, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        signal.signal(signal.SIGXFSZ, handler)


def full(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


# -- files -------------------------------------------------------------------------------------------------------------


def _torch_save(path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"a": torch.zeros(4000)}, file)


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("x" * 9000),
    "safetensors": lambda path: save_file({"a": torch.zeros(4000)}, path),
    "torch": _torch_save,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_library_that_writes_ends_in_the_same_line(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with files_up_to(5000), pytest.raises(WriteError) as error:
        write_atomically(path, WRITERS[writer])
    words = "cannot be written: file too large; raise the limit on the size of files (ulimit -f)"
    assert str(error.value) == f"{path} {words}"
    assert (error.value.errno, error.value.exit_code) == (errno.EFBIG, 1)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_line_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_text(path, "first\n")
    with files_up_to(10), pytest.raises(WriteError):
        append_text(path, "a second that does not fit\n")
    assert path.read_text() == "first\n"
    append_text(path, "zweite: grüße\n")
    assert path.read_text(encoding="utf-8") == "first\nzweite: grüße\n"


def test_what_is_no_error_of_the_system_passes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="other"), writing(tmp_path):
        raise RuntimeError("something other")

    def while_another_is_handled() -> None:
        try:
            full()
        except OSError:
            with writing(tmp_path):
                raise RuntimeError("something other") from None

    with pytest.raises(RuntimeError, match="other"):
        while_another_is_handled()


def test_what_can_be_done_without_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with if_possible(), writing(tmp_path / "report.html"):
        full()
    (record,) = caplog.records
    assert "report.html cannot be written: no space left on device; make space there (training" in record.getMessage()

    def after_something_worse() -> None:
        try:
            raise ValueError("worse")
        finally:
            with if_possible(), writing(tmp_path / "report.html"):
                full()

    with pytest.raises(ValueError, match="worse"):
        after_something_worse()
    assert len(caplog.records) == 1  # one line is what a person reads, and that is the other


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_that_cannot_log_ends_with_one_line_and_goes_on_later(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(save_every=2)
    usual = training_folder.append_text

    def full_from_five_on(path: Path, text: str) -> None:
        if '"step": 5' in text:
            patch.setattr(files, "flush_to_disk", full)  # run.json and the report cannot be written, either
            with writing(path):
                full()
        usual(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(training_folder, "append_text", full_from_five_on)
        with pytest.raises(PmaeError) as error:
            pretrain(config)
    assert str(error.value) == (
        f"step 5 of 6: {config.out}/metrics.jsonl cannot be written: no space left on device; make space there; "
        "checkpoints/step-00000004 is whole: the same command goes on from there"
    )
    assert not caplog.records
    run = pretrain(config)
    assert [record["step"] for record in RunFolder.read(run).records()] == [1, 2, 3, 4, 5, 6]


def test_pictures_and_report_that_cannot_be_written_end_no_run(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from perceptual_mae import api

    def refuse(*args: Any, **kwargs: Any) -> Any:
        with writing(Path("run/there.png")):
            full()

    monkeypatch.setattr(observers, "save", refuse)
    monkeypatch.setattr(api, "report", refuse)
    run = pretrain(make_config(log=LogConfig(every=1, pictures=1, validate_every=0, tensorboard=False)))
    assert RunFolder.read(run).facts()["state"] == "finished"
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "run/there.png cannot be written: no space left on device; make space there"
    ] * 3  # two pictures and the report


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_tensorboard_that_cannot_be_written_is_left_out(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], when: str
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    log = LogConfig(every=1, pictures=0, validate_every=0, tensorboard=True)
    config = make_config(log=log)

    def refuse(moment: Any) -> dict[str, float]:
        if when == "later":
            patch.setattr(SummaryWriter, "add_scalar", full)
        return {}

    with pytest.MonkeyPatch.context() as patch, watched_by(At(3, refuse)):
        if when == "at the start":
            patch.setattr(SummaryWriter, "__init__", full)
        run = pretrain(config)
    assert RunFolder.read(run).facts()["state"] == "finished"
    messages = [record.getMessage() for record in caplog.records if "TensorBoard" in record.getMessage()]
    assert len(messages) == 1
    assert messages[0].startswith("TensorBoard files cannot be written: no space left on device")
    assert "Traceback" not in capfd.readouterr().err


def test_a_kill_between_the_last_checkpoint_and_its_encoder_leaves_no_old_encoder(make_config: MakeConfig) -> None:
    run = pretrain(make_config(save_every=3))
    encoder = run / "encoder.safetensors"
    wanted = {name: tensor.clone() for name, tensor in load_file(encoder).items()}  # which may be the file's own memory
    save_file({name: tensor * 0 for name, tensor in wanted.items()}, encoder)  # stands for that of the save before
    pretrain(make_config(save_every=3))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in load_file(encoder).items())


def test_milestones_of_a_run(make_config: MakeConfig, tmp_path: Path, photographs: torch.Tensor) -> None:
    from PIL import Image

    from perceptual_mae.pretraining.config import CheckpointConfig

    (tmp_path / "photos").mkdir()
    for index, picture in enumerate(photographs):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "photos" / f"{index:02}.png")
    kept = CheckpointConfig(minutes=1e9, keep=1, milestones=2)
    settings: dict[str, Any] = {"data": str(tmp_path / "photos"), "batch_size": 4, "max_steps": None, "epochs": 5}
    run = pretrain(make_config(checkpoint=kept, save_every=4, **settings))
    saved = {path.name: path / "milestone.txt" for path in (run / "checkpoints").iterdir()}
    assert saved.keys() == {"step-00000006", "step-00000012", "step-00000015"}  # three steps an epoch
    assert saved["step-00000012"].read_text() == "epoch 4\n"
    assert not saved["step-00000015"].exists()


# -- the folder --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_and_trained_on(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def no_locks(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    run = RunFolder.claim(make_config())
    run.close()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (
        f"--out {run.path}: this file system cannot lock files ({os.strerror(number).lower()})" in record.getMessage()
    )
    assert "another process" not in record.getMessage()


def test_a_claim_that_fails_holds_no_lock(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config()
    with monkeypatch.context() as patch:
        patch.setattr(training_folder, "write_text", full)
        with pytest.raises(PmaeError, match="No space left"):
            RunFolder.claim(config)
    RunFolder.claim(config).close()


def test_a_torn_line_of_skipped_images_comes_again(make_config: MakeConfig) -> None:
    run = RunFolder.claim(make_config())
    run.skip([("a.png", "is empty")])
    run.close()
    with (run.path / "skipped.txt").open("a") as file:
        file.write("b.png\tis cu")
    again = RunFolder.claim(make_config())
    assert again.skip([("a.png", "is empty"), ("b.png", "is cut short")]) == 2
    again.close()
    assert (run.path / "skipped.txt").read_text() == "a.png\tis empty\nb.png\tis cut short\n"


def test_a_library_that_meets_a_full_disk_is_one_line(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom perceptual_mae.cli import doctor, main\n"
        "def run(rest): raise OSError(28, 'No space left on device', '/cache/x')\n"
        "doctor.run = run\nsys.exit(main.main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "pmae: /cache/x cannot be written: no space left on device; make space there\n",
    )


# -- data that changes under a run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_go_come_or_break_while_it_trains(
    make_config: MakeConfig, tmp_path: Path, photographs: torch.Tensor, workers: int
) -> None:
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for index, picture in enumerate(photographs):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{index:02}.png")

    def disturb(moment: Any) -> dict[str, float]:
        (folder / "03.png").unlink()
        (folder / "04.png").write_bytes((folder / "04.png").read_bytes()[:300])
        (folder / "05.png").write_bytes(b"")
        (folder / "06.png").rename(folder / "99.png")
        (folder / "new.png").write_bytes((folder / "00.png").read_bytes())
        return {}

    settings: dict[str, Any] = {"data": str(folder), "batch_size": 4, "max_steps": None, "workers": workers}
    with watched_by(At(3, disturb)):
        run = pretrain(make_config(epochs=6, **settings))
    assert len(RunFolder.read(run).records()) == 18
    listed = dict(line.split("\t") for line in (run / "skipped.txt").read_text().splitlines())
    assert listed.keys() == {"03.png", "04.png", "05.png", "06.png"}
    assert listed["03.png"] == listed["06.png"] == "no such file or directory"
    assert listed["05.png"] == "empty"
    assert "cut" in listed["04.png"] or "truncated" in listed["04.png"]
