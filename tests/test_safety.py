"""What a stranger's file or a shared run folder can do: nothing executes, and no secret is in what is passed on."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import perceptual_mae
from perceptual_mae.cli.main import main
from perceptual_mae.credentials import public, without_credentials
from perceptual_mae.errors import UsageError
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.settings import to_dict

PACKAGE = Path(perceptual_mae.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "telnetlib"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.hub.load", "torch.jit.load"),
    *("torch.hub.load_state_dict_from_url", "pd.read_pickle", "pandas.read_pickle", "np.fromregex"),
    "dcp.FileSystemReader",  # its `.metadata` is a pickle
    *("yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "tempfile.mktemp"),
}
ALLOWED = {
    ("foreign_pickle.py", "pickle"),  # names stand for nothing but what it lists; tests/test_foreign_pickle.py
}


def dangers(module: ast.Module) -> Iterator[str]:
    """Calls and imports by which a file could make this program do something."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (name for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
        if name in FORBIDDEN_CALLS:
            yield name
        if name == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        if name in {"np.load", "numpy.load"} and given.get("allow_pickle", "False") != "False":
            yield "np.load with allow_pickle"
        if "trust_remote_code" in given and given["trust_remote_code"] != "False":
            yield "trust_remote_code"
        if given.get("shell", "False") != "False":
            yield "shell=True"
        if name.endswith((".extractall", "unpack_archive")):
            yield f"{name}: an archive names its own targets"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_in_the_package_executes_what_a_file_says(path: Path) -> None:
    found = set(dangers(ast.parse(path.read_text(encoding="utf-8"))))
    assert found <= {name for file, name in ALLOWED if file == path.name}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader)",
        "load_dataset(name, trust_remote_code=True)",
        "subprocess.run(command, shell=True)",
        "eval(text)",
        "tar.extractall(folder)",
        "torch.hub.load('user/name', 'model')",
    ],
)
def test_dangers_are_found(code: str) -> None:
    assert list(dangers(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["model.eval()", "torch.load(p, weights_only=True)", "np.load(p)", "yaml.safe_load(t)", "torch.compile(m)"]
)
def test_what_is_safe_is_let_be(code: str) -> None:
    assert not list(dangers(ast.parse(code)))


# -- secrets -----------------------------------------------------------------------------------------------------------

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("https://me:hunter2@host/a.tar", "https://host/a.tar"),
        ("wds:https://me:hunter2@host:8080/{000..127}.tar", "wds:https://host:8080/{000..127}.tar"),
        ("https://me:p@ss/hunter2@host/a", "https://ss/hunter2@host/a"),  # no address: a slash in a password is %2F
        ("s3://key:hunter2@bucket/x/*.tar", "s3://bucket/x/*.tar"),
        ("https://host/a.tar?X-Amz-Signature=hunter2&x=1 is not there", "https://host/a.tar is not there"),
        ("https://host/a.tar#hunter2", "https://host/a.tar"),
        ("https://host/?token=hunter2", "https://host/"),
        ("two: ftp://a:hunter2@x/y and HTTPS://b:hunter2@z", "two: ftp://x/y and HTTPS://z"),
        ("hf_" + "hunter2" * 5, "hf_..."),
        ("C:/photos?", "C:/photos?"),
        ("me@host:photos", "me@host:photos"),
        ("./photos/who?.jpg", "./photos/who?.jpg"),
        ("hub:user/name", "hub:user/name"),
    ],
)
def test_addresses_lose_what_is_secret(text: str, bare: str) -> None:
    assert without_credentials(text) == bare
    assert without_credentials(bare) == bare


def test_nested_values_lose_it_everywhere() -> None:
    value = {"data": "https://a:hunter2@h/x", "deep": [{"x": ("s3://k:hunter2@b",)}], "n": 3, "none": None, "b": True}
    assert public(value) == {"data": "https://h/x", "deep": [{"x": ["s3://b"]}], "n": 3, "none": None, "b": True}


def signed(out: Path, day: int, **more: Any) -> PretrainConfig:
    address = f"wds:https://me:{SECRET}@host/{{0..9}}.tar?X-Amz-Signature={SECRET}{day}"
    return PretrainConfig(data=address, val_data=f"https://host/val.tar?sig={SECRET}", out=str(out), **more)


def test_a_run_folder_holds_no_secret_and_a_new_signature_continues_it(tmp_path: Path) -> None:
    config = signed(tmp_path / "run", 1)
    run = RunFolder.claim(config)
    run.append({"step": 1})
    run.describe(state="stopped", message=f"{config.data}: no answer", notes=[config.data])
    run.close()
    for file in run.path.rglob("*"):
        assert not file.is_file() or SECRET not in file.read_text(), file
    assert yaml.safe_load((run.path / "config.yaml").read_text())["data"] == "wds:https://host/{0..9}.tar"
    assert json.loads((run.path / "run.json").read_text())["message"] == "wds:https://host/{0..9}.tar: no answer"

    again = RunFolder.claim(signed(tmp_path / "run", 2))
    assert SECRET in again.config.data  # what is read with keeps it
    again.close()
    with pytest.raises(UsageError, match="belongs to another configuration") as error:
        RunFolder.claim(signed(tmp_path / "run", 2, seed=1))
    assert SECRET not in str(error.value)


def test_a_comparison_keeps_a_secret_only_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from perceptual_mae.measure import comparison

    file = tmp_path / "settings" / "run.yaml"
    while_it_trains: list[tuple[bool, int]] = []

    class Process:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            while_it_trains.append((SECRET in file.read_text(), file.stat().st_mode & 0o077))

        def wait(self, timeout: float) -> int:
            return 0

    monkeypatch.setattr(comparison.subprocess, "Popen", Process)
    assert comparison.train(signed(tmp_path / "run", 1), tmp_path, None) is None
    assert while_it_trains == [(True, 0)]
    assert SECRET not in file.read_text()
    assert "wds:https://host/{0..9}.tar" in file.read_text()


def test_messages_and_reports_hold_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from perceptual_mae.report.html import write_report

    config = signed(tmp_path / "run", 1)
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(to_dict(config) | {"data": f"nothing://me:{SECRET}@host/x", "device": "cpu"}))
    assert main(["pretrain", "--config", str(file)]) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("pmae: ")
    assert SECRET not in said
    run = RunFolder.claim(config)
    run.describe(message=f"{config.data} is gone", state="stopped")
    run.close()
    page = write_report(run.path).read_text()
    assert "host/{0..9}.tar" in page
    assert SECRET not in page
