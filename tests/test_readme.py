"""What the README and the guides show is what the code does."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch

from perceptual_mae.cli import finetune, predict
from perceptual_mae.cli.pretrain import make_parser
from perceptual_mae.transfer.config import CONFIGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EVALUATION = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
TRANSFER = (ROOT / "docs" / "transfer.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README + "\n" + API, flags=re.DOTALL | re.MULTILINE)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
SHELL = "\n".join(text for kind, text in BLOCKS if not kind)


def test_the_model_example_runs_as_printed() -> None:
    example = next(code for code in PYTHON if "from_size" in code)
    names: dict[str, object] = {}
    exec(example, names)
    seen = names["seen"]
    for name, shape in re.findall(r"seen\.(\w+)\s+# \(([\d, ]+)\)", example):
        assert tuple(getattr(seen, name).shape) == tuple(map(int, shape.split(","))), name
    assert isinstance(seen.mask, torch.Tensor)  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", PYTHON)
def test_every_python_example_imports_what_there_is(code: str) -> None:
    lines = [line for line in code.splitlines() if line.startswith(("import ", "from "))]
    exec("\n".join(lines), {})


def test_every_pretrain_command_has_known_flags() -> None:
    commands = [line.split("#")[0] for line in SHELL.splitlines() if "pretrain --data" in line]
    assert len(commands) >= 2
    for command in commands:
        make_parser().parse(shlex.split(command.split(" pretrain ")[1]))


def test_the_encoder_example_runs_as_printed() -> None:
    example = next(code for code in PYTHON if "load_encoder" in code)
    names: dict[str, object] = {}
    exec(example, names)
    assert tuple(names["tokens"].shape) == (2, 65, 192)  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", [README, EVALUATION], ids=["README", "docs/evaluation.md"])
def test_every_measuring_command_has_known_flags(text: str) -> None:
    commands = re.findall(r"^ *pmae (evaluate|attention|embed|compare) ([^#\n]*)", text, flags=re.MULTILINE)
    assert {name for name, _ in commands} >= {"evaluate", "compare"}
    for name, rest in commands:
        importlib.import_module(f"perceptual_mae.cli.{name}").make_parser().parse(shlex.split(rest))


def test_every_finetuning_command_has_known_flags() -> None:
    joined = (README + TRANSFER).replace("\\\n", " ")
    commands = re.findall(r"^ *pmae finetune (\w+) ([^#\n]*)", joined, flags=re.MULTILINE)
    assert {task for task, _ in commands} == set(CONFIGS)
    for task, rest in commands:
        finetune.make_parser(task).parse(shlex.split(rest))
    for rest in re.findall(r"^ *pmae predict ([^#\n]*)", joined, flags=re.MULTILINE):
        predict.make_parser().parse(shlex.split(rest))


def test_every_picture_is_there() -> None:
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture


@pytest.mark.slow
def test_the_first_example_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = next(code for code in PYTHON if "pm.pretrain" in code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names: dict[str, object] = {}
    exec(example, names)
    assert (tmp_path / "runs" / "first" / "metrics.jsonl").read_text().splitlines()[-1].startswith('{"step": 20,')
    tokens = names["encoder"](torch.rand(2, 3, 64, 64))  # type: ignore[operator]
    assert tokens.shape == (2, 65, 96)
