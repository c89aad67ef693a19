"""What `pip install` gives a person: small, whole, of one version, and quick to answer."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import perceptual_mae

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel: pip install '.[dev]'")
    folder = tmp_path_factory.mktemp("wheel")
    pip(["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)])
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel by itself: what it needs is taken from this environment, what it is is not."""
    folder = tmp_path_factory.mktemp("installed")
    pip(["install", "--no-deps", "--target", str(folder), str(wheel)])
    return folder


def pip(arguments: list[str]) -> None:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-index"]
    command = [sys.executable, "-m", "pip", arguments[0], *quiet, *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def python(installed: Path, *arguments: str, cwd: Path) -> str:
    """Python with the installed wheel, from a folder that holds no source."""
    told = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=told, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_is_small_and_has_every_file_of_the_package(wheel: Path) -> None:
    assert wheel.stat().st_size < 1_000_000
    with zipfile.ZipFile(wheel) as opened:
        packed = {name for name in opened.namelist() if name.startswith("perceptual_mae/")}
    source = ROOT / "src"
    there = {
        str(path.relative_to(source))
        for path in (source / "perceptual_mae").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == there
    assert any(name.endswith(".j2") for name in packed)
    assert any(name.endswith(".css") for name in packed)


def test_there_is_one_version(wheel: Path) -> None:
    version = perceptual_mae.__version__
    assert wheel.name == f"perceptual_mae-{version}-py3-none-any.whl"
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", changes, flags=re.MULTILINE)[0] in ("Unreleased", version)


@pytest.mark.slow
def test_the_wheel_trains_and_reports_without_the_source(installed: Path, tmp_path: Path) -> None:
    where = python(installed, "-c", "import perceptual_mae; print(perceptual_mae.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed))
    flags = "pretrain --data photos --model micro --image-size 32 --patch-size 8 --batch-size 8 --max-steps 2"
    flags += " --device cpu --workers 0 --log.validate-every 0 --out run"
    python(installed, "-m", "perceptual_mae.cli.main", *flags.split(), cwd=tmp_path)
    assert "<svg" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_help_imports_nothing_that_takes_long(installed: Path, tmp_path: Path) -> None:
    heavy = "torch numpy timm matplotlib gradio transformers jsonargparse rich accelerate"
    code = f"""
import sys
from perceptual_mae.cli.main import main
assert main(["--help"]) == 0
print([name for name in {heavy.split()!r} if name in sys.modules], file=sys.stderr)
import perceptual_mae
assert "torch" not in sys.modules
"""
    told = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=told, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    assert done.stdout.startswith("usage: pmae COMMAND")
