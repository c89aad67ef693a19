"""`pmae` as a person types it: mistakes in one line, and what the commands leave."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from perceptual_mae import __version__
from perceptual_mae.api import pretrain
from perceptual_mae.cli.main import main
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.settings import to_dict


@pytest.fixture(scope="module")
def run(config_for: Callable[..., PretrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps."""
    return pretrain(config_for(tmp_path_factory.mktemp("cli") / "run", max_steps=2))


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code of a command and the one line it wrote to stderr."""
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("pmae: ")
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return code, captured.err.removeprefix("pmae: ").strip()


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pretain", "no command 'pretain'; did you mean pretrain?; `pmae --help` lists them"),
        ("xyzzy", "no command 'xyzzy'; `pmae --help` lists them"),
        ("pretrain", "--data is missing; see `pmae pretrain --help`"),
        ("reconstruct", "RUN is missing; see `pmae reconstruct --help`"),
        ("pretrain --bach-size 3", "unknown flag --bach-size; did you mean --batch-size?; see `pmae pretrain --help`"),
        ("pretrain --bach_size=3", "unknown flag --bach-size; did you mean --batch-size?; see `pmae pretrain --help`"),
        (
            "pretrain --data photos --optimizer.weight-dekay 1",
            "unknown flag --optimizer.weight-dekay; did you mean --optimizer.weight-decay?; see `pmae pretrain --help`",
        ),
        (
            "pretrain --data photos --seed 99999999999999999999999",
            "--seed 99999999999999999999999: must have less than 64 bits",
        ),
        ("doctor --xyzzy", "unknown flag --xyzzy; see `pmae doctor --help`"),
        ("pretrain --data photos --epochs many", "--epochs many: give a whole number; see `pmae pretrain --help`"),
        ("pretrain --data photos --seed 1.5", "--seed 1.5: give a whole number; see `pmae pretrain --help`"),
        ("pretrain --data photos --compile maybe", "--compile maybe: give true or false; see `pmae pretrain --help`"),
        (
            "pretrain --data photos --model hge",
            "--model hge: give one of micro, tiny, small, base, large, huge; did you mean huge?; "
            "see `pmae pretrain --help`",
        ),
        (
            "pretrain --data photos --workers many",
            "--workers many: give a whole number or auto; see `pmae pretrain --help`",
        ),
        ("pretrain --data photos --image-size 33", "--image-size 33: not a multiple of --patch-size 16"),
        ("pretrain --data photos --lr -1", "--lr -1.0: must be positive"),
        (
            "pretrain --data photos --method msg-gan --architecture mae",
            "--architecture mae: the method msg-gan has only msg-mae",
        ),
        ("pretrain --data photos --architecture msg-mae", "--architecture msg-mae: the method mse has only mae"),
        (
            "pretrain --data photos --method ls-gan --image-size 24 --patch-size 8",
            "--image-size 24: the discriminator of ls-gan needs at least 32 pixels a side",
        ),
        (
            "pretrain --data photos --loss-network timm:resnet18",
            "--loss-network timm:resnet18: the method mse looks through no fixed network; "
            "leave it out, or use dvae-p or timm-p",
        ),
        (
            "pretrain --data photos --discriminator.r1-every 0",
            "--discriminator.r1-every 0: must be at least 1",
        ),
        ("pretrain --data photos --ada.start 2", "--ada.start 2.0: must lie between 0 and 1"),
    ],
)
def test_wrong_usage_is_one_line(capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    assert said(capsys, *arguments.split()) == (2, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pretrain --data photos --val-data /nowhere --model micro --out", "--val-data /nowhere: there is no such"),
        ("shard /nowhere --out", "DATA /nowhere: there is no such"),
        ("compare --data photos --methods mze --out", "--methods mze: there are mse"),
    ],
)
def test_the_flag_that_was_typed_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: str, message: str
) -> None:
    code, line = said(capsys, *arguments.split(), str(tmp_path / "out"))
    assert code == 2
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("data: photos\noptimizer: 3\n", "--config "),
        ("data: photos\nlosses: null\n", "--config "),
        ("data: photos\npixels: [1]\n", "--config "),
        ("data: photos\nbach_size: 3\n", "unknown setting bach_size; did you mean batch_size?"),
        (
            "data: photos\noptimizer:\n  weight_dekay: 3\n",
            "unknown setting optimizer.weight_dekay; did you mean optimizer.weight_decay?",
        ),
        ("xyzzy: 3\n", "unknown setting xyzzy;"),
        ("data: photos\nepochs: many\n", "--epochs many: give a whole number"),
        ("data: [\n", "--config "),
        ("- data\n", "--config "),
    ],
)
def test_wrong_yaml_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, settings: str, message: str
) -> None:
    (tmp_path / "settings.yaml").write_text(settings)
    code, line = said(capsys, "pretrain", "--config", str(tmp_path / "settings.yaml"), "--out", str(tmp_path / "run"))
    assert code == 2
    assert line.startswith(message)
    assert not (tmp_path / "run").exists()


def test_a_method_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = said(capsys, "pretrain", "--data", "photos", "--method", "stylegan-ada-p")
    assert code == 2
    assert line.startswith("--method stylegan-ada-p: there are mse, ms-ssim, ls-gan, ")
    assert line.endswith("; did you mean stylegan2-ada-p?")


@pytest.mark.parametrize(
    ("method", "needs"), [("dvae-p", "pmae convert-dvae encoder.pkl"), ("timm-p", "timm:NAME:FILE")]
)
def test_a_loss_network_that_is_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, method: str, needs: str
) -> None:
    code, line = said(
        capsys, "pretrain", "--data", "photos", "--model", "micro", "--method", method, "--out", str(tmp_path / "run")
    )
    assert code == 2
    assert f"--method {method} needs --loss-network" in line
    assert needs in line
    # The same folder is free for the right line.
    config = PretrainConfig(
        "photos", out=str(tmp_path / "run"), model="micro", image_size=32, patch_size=8, max_steps=1
    )
    pretrain(config)


@pytest.mark.parametrize("name", ["nope.yaml", "."])
def test_a_config_that_is_no_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    code, line = said(capsys, "pretrain", "--config", str(tmp_path / name))
    assert code == 2
    assert f"--config {tmp_path / name}: there is no such file (a run's settings are in its config.yaml)" in line


@pytest.mark.parametrize("command", ["reconstruct", "report"])
def test_no_run_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    code, line = said(capsys, command, str(tmp_path / "nope"))
    assert code == 2
    assert "nope is no" in line
    assert "run folder" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "./nowhere"], "--data ./nowhere: there is no such file or folder"),
        (["--data", "photoes"], "did you mean photos?"),
        (["--device", "cuda"], "--device cuda: PyTorch finds no GPU here"),
        (["--log.knn-every", "1", "--val-data", "UNLABELLED"], "--log.knn-every: k-NN needs"),
    ],
)
def test_what_cannot_be_trained_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: list[str], message: str
) -> None:
    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "unlabelled").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "unlabelled" / "a.png")
    flags = [flag.replace("UNLABELLED", str(tmp_path / "unlabelled")) for flag in flags]
    data = [] if "--data" in flags else ["--data", "photos"]
    code, line = said(capsys, "pretrain", *data, *flags, "--out", str(tmp_path / "run"), "--model", "micro")
    assert code == 2
    assert message in line


def test_failures_end_with_1(capsys: pytest.CaptureFixture[str], tmp_path: Path, run: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints")
    code, line = said(capsys, "reconstruct", str(copy))
    assert (code, line) == (1, f"{copy} has no checkpoint yet: train it with `pmae pretrain`")
    claimed = RunFolder.claim(RunFolder.read(run).config)
    code, line = said(capsys, "pretrain", "--config", str(run / "config.yaml"))
    claimed.close()
    assert (code, line) == (1, f"--out {run}: another process is training in this folder")


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("perceptual_mae.doctor.examine", interrupted)
    assert said(capsys, "doctor") == (130, "interrupted")


def test_errors_of_several_lines_are_said_in_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from perceptual_mae.errors import PmaeError

    def fails(*args: Any) -> None:
        raise PmaeError("this\n  and that")

    monkeypatch.setattr("perceptual_mae.doctor.examine", fails)
    assert said(capsys, "doctor") == (1, "this and that")


@pytest.mark.parametrize("arguments", [["--help"], ["pretrain", "--help"], ["doctor"]])
@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_reader_that_has_gone_is_not_told(arguments: list[str], buffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "perceptual_mae.cli.main", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"PYTHONUNBUFFERED": buffered},
    )
    os.close(writer)
    assert done.stderr == ""


# -- what commands do --------------------------------------------------------------------------------------------------


def test_the_config_of_a_run_repeats_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, make_config: Callable[..., PretrainConfig]
) -> None:
    original = pretrain(make_config("original", image_size="32x48", max_steps=2))
    repeated = tmp_path / "repeated"
    assert main(["pretrain", "--config", str(original / "config.yaml"), "--out", str(repeated)]) == 0
    assert "report: " in capsys.readouterr().err.replace("\n", "")
    one, two = (load_file(path / "encoder.safetensors") for path in (original, repeated))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    settings = [yaml.safe_load((path / "config.yaml").read_text()) for path in (original, repeated)]
    assert settings[0] | {"out": str(repeated)} == settings[1]


def test_flags_reach_the_run(tmp_path: Path, make_config: Callable[..., PretrainConfig]) -> None:
    flags = "--data photos --model micro --image-size 16x24 --patch-size 8 --batch-size 4 --max-steps 1 --device cpu"
    flags += " --optimizer.betas [0.8,0.9] --optimizer.clip_grad=1 --pixels.channels 1 --log.tensorboard false"
    flags += " --log.pictures 0 --workers 0 --lr=1e-3 --val-data null"
    assert main(["pretrain", *flags.split(), f"--out={tmp_path}/my-first-run"]) == 0
    config = RunFolder.read(tmp_path / "my-first-run").config
    assert config.size == (16, 24)
    assert (config.optimizer.betas, config.optimizer.clip_grad) == ((0.8, 0.9), 1.0)
    assert (config.pixels.channels, config.lr, config.val_data, config.workers) == (1, 1e-3, None, 0)
    assert to_dict(config)["log"]["tensorboard"] is False


def test_reconstruct_writes_a_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path, run: Path) -> None:
    assert main(["reconstruct", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "figures" / "reconstruct.png")
    widths = {}
    for count in (2, 4):
        out = tmp_path / f"{count}.png"
        flags = ["--out", str(out), "--count", str(count), "--data", "photos", "--mask-ratio", "0.5", "--seed", "3"]
        assert main(["reconstruct", str(run), *flags]) == 0
        with Image.open(out) as picture:
            picture.load()
            widths[count] = picture.size
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 500  # photographs are in it
    # A row an image: original, masked, reconstruction, pasted, each drawn several times as large as its 32 pixels.
    assert min(widths[2]) >= 2 * 32
    assert widths[2][0] >= 4 * 32
    assert widths[4][1] > 1.5 * widths[2][1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--count", "0"], "--count 0: must be at least 1"),
        (["--mask-ratio", "1"], "--mask-ratio 1.0: must lie between 0 and 1 (1 excluded)"),
        (["--data", "./nowhere"], "--data ./nowhere: there is no such file or folder"),
    ],
)
def test_reconstruct_refuses(capsys: pytest.CaptureFixture[str], run: Path, flags: list[str], message: str) -> None:
    code, line = said(capsys, "reconstruct", str(run), *flags)
    assert code == 2
    assert line.startswith(message)


def test_report_is_written_anew(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert "</html>" in (run / "report.html").read_text(encoding="utf-8")


def test_doctor_shows_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for package in ("torch", "torchvision", "timm", "accelerate", "datasets", "safetensors", "pillow"):
        assert re.search(rf"^{package} +{re.escape(version(package))}", text, re.MULTILINE), package
    assert re.search(r"^CPU +\d+ cores", text, re.MULTILINE)
    assert "GPU" in text


def test_doctor_knows_what_the_package_declares() -> None:
    from perceptual_mae import doctor

    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = declared["optional-dependencies"].keys() - {"dev", "docs"}
    assert doctor.EXTRAS.keys() == extras
    assert set(doctor.SHOWN) <= set(doctor.requirements()[""]) | {"torch"}


def test_doctor_names_what_is_missing_and_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from perceptual_mae import doctor

    installed = doctor.version_of
    monkeypatch.setattr(
        doctor, "version_of", lambda name: None if name in ("timm", "rich", "onnx") else installed(name)
    )
    monkeypatch.setattr(doctor, "requirements", lambda: {"": ["timm", "rich", "pyyaml"], "onnx": ["onnx", "pillow"]})
    monkeypatch.setenv("COLUMNS", "200")
    findings = {finding.topic: finding for finding in doctor.examine()}
    assert (findings["timm"].found, findings["timm"].advice) == ("missing", "pip install timm")
    assert findings["rich"].advice == "pip install rich"
    assert "pyyaml" not in findings, "what is there is not worth a line"
    assert re.fullmatch(r"pillow [\d.]+, onnx not installed \(pmae export --to onnx\)", findings["[onnx]"].found)
    assert main(["doctor"]) == 0
    assert "pip install 'perceptual-mae[onnx]'" in capsys.readouterr().out
    assert findings["perceptual-mae"].found == __version__
