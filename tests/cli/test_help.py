"""`pmae --help` of every command, and `pmae --version`."""

import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from perceptual_mae import __version__
from perceptual_mae.cli.main import COMMANDS, main

HEAVY = ("torch", "torchvision", "timm", "accelerate", "datasets", "numpy", "matplotlib", "sklearn", "skimage", "PIL")
HELP = f"""
import sys
from perceptual_mae.cli.main import main
assert main(sys.argv[1:]) == 0
print("HEAVY", sorted(set({HEAVY!r}) & set(sys.modules)))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], [], *([name, "--help"] for name in COMMANDS)])
def test_help_comes_at_once_and_imports_nothing_heavy(arguments: list[str]) -> None:
    took, output = [], ""
    for _ in range(3):  # the machine may be busy: the best of three
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", HELP, *arguments], capture_output=True, text=True, check=False)
        took.append(time.monotonic() - began)
        output = done.stdout
        assert done.returncode == 0, done.stderr
        if took[-1] < 1:
            break
    assert output.splitlines()[-1] == "HEAVY []"
    assert min(took) < 2


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", text, re.MULTILINE)
    files = {path.stem for path in Path(sys.modules[main.__module__].__file__ or "").parent.glob("*.py")}
    assert files - {"__init__", "main", "parser"} == {name.replace("-", "_") for name in COMMANDS}


def test_help_shows_flags_as_people_type_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--help"]) == 0
    text = capsys.readouterr().out
    for flag in ("--image-size", "--optimizer.weight-decay", "--log.validate-every", "--data"):
        assert flag in text
    assert not re.search(r"--[a-z.]*_", text)
    assert "passes over the images" in text  # what a setting means
    assert "type: " not in text
    assert "--optimizer CONFIG" not in text
    words = " ".join(text.split())
    for said in (
        "--batch-size N images per step, over all processes and micro-batches together (default: 256)",
        "--architecture mae|msg-mae generator",
        "--optimizer.betas [X,X] decay rates of AdamW's moments (default: [0.9,0.95])",
        "--workers N|auto processes",
        "minutes of set-up) (default: false)",
        "(built in) (required)",
    ):
        assert said in words


def test_help_of_several_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: pmae predict RUN IMAGES... --out OUT [options]\n")
    assert main(["evaluate", "--help"]) == 0
    assert "(default: reconstruction,knn,linear)" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pmae {__version__}\n"
    assert __version__ == version("perceptual-mae")
