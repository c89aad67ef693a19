"""Settings that lie: YAML files, run folders and flags."""

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import bounded, damaged, fuzz, hostile, mutated, odd_text, outcome
from hypothesis import example, given
from hypothesis import strategies as st

from perceptual_mae import plain_yaml
from perceptual_mae.cli import pretrain as pretrain_command
from perceptual_mae.cli.main import main
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder, is_run
from perceptual_mae.settings import from_dict, to_dict
from perceptual_mae.transfer.config import ClassificationConfig, DetectionConfig, SegmentationConfig, config_of

PRETRAIN = to_dict(PretrainConfig(data="photos"))
CONFIGS = [
    to_dict(cls(encoder="runs/mine", data="x")) for cls in (ClassificationConfig, DetectionConfig, SegmentationConfig)
]
LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
"""Forty lines that come to a million million words when they are written out."""
DOCUMENTS = (
    *("", "null", "3", "[]", "{}", "? [1, 2]\n: x", "{1: 2}", "null: null", "- data: photos", "---\na: 1\n---\nb: 2"),
    *("data: &x [*x]", "data: &x {a: *x}", "optimizer: &x {optimizer: *x}", LAUGHS, f"{LAUGHS}\ntask: *a39"),
    *(f"{LAUGHS}\ndata: *a39", f"{LAUGHS}\noptimizer: {{betas: *a39}}", f"{LAUGHS}\nmodel: *a39\ndata: photos"),
    *("[" * 500, "{a: " * 5000, "- " * 5000, "data: " + "[" * 800 + "]" * 800),
    *("data: 2001-99-99", "data: !!int x", "data: !!float x", "data: !!binary x", "data: !!python/object:os.system x"),
    *("data: !!timestamp x", "seed: " + "9" * 5000, "seed: 0x" + "f" * 9999, "lr: 1:2:3:4:5:6", "data: a\ndata: b"),
    *("seed: .inf", "lr: .nan\ndata: photos", "<<: 3", "<<: [1]", "a: *nowhere", "%YAML 9.9\n---\n", "data: \ud800"),
)


@fuzz(120)
@given(values=mutated(PRETRAIN))
def test_settings_of_a_run(values: Any) -> None:
    def use() -> None:
        config = from_dict(PretrainConfig, values) if isinstance(values, dict) else None
        if config is not None:
            config.check()
            assert to_dict(from_dict(PretrainConfig, to_dict(config))) == to_dict(config) or "nan" in repr(config)
            assert config.learning_rate is not None
            assert config.size

    outcome(use)


@fuzz(120)
@given(values=st.sampled_from(CONFIGS).flatmap(mutated))
def test_settings_of_a_task(values: Any) -> None:
    outcome(lambda: config_of(values).check() if isinstance(values, dict) else None)


def as_yaml(values: Any) -> bytes:
    try:
        return yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "surrogatepass")
    except yaml.YAMLError:
        return b""


YAML = st.one_of(
    mutated(PRETRAIN).map(as_yaml),
    damaged(yaml.safe_dump(PRETRAIN).encode()),
    st.sampled_from([document.encode("utf-8", "surrogatepass") for document in DOCUMENTS]),
    st.binary(max_size=60),
)


@fuzz(40)
@given(content=YAML)
def test_a_run_folder(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = tmp_path_factory.mktemp("run")
    (run / "config.yaml").write_bytes(content)
    outcome(lambda: is_run(run))
    outcome(lambda: parsed(content), yaml.YAMLError, UnicodeDecodeError)


def parsed(content: bytes) -> PretrainConfig | None:
    """The settings of a run in the bytes of its `config.yaml`."""
    values = plain_yaml.load(content.decode())
    return RunFolder.parse(values) if isinstance(values, dict) else None


@pytest.mark.parametrize("document", DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_yaml_that_is_made_to_hurt(document: str, tmp_path: Path) -> None:
    content = document.encode("utf-8", "surrogatepass")
    (tmp_path / "config.yaml").write_bytes(content)
    outcome(lambda: is_run(tmp_path))
    outcome(lambda: parsed(content), yaml.YAMLError, UnicodeDecodeError)
    said("pretrain", "--config", str(tmp_path / "config.yaml"), "--print_config")


def said(*arguments: str) -> str:
    """What a command says that is not to train: it ends in order, in one line where it does not help."""
    out, err = io.StringIO(), io.StringIO()
    with bounded(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    assert code in {0, 1, 2}
    if code:
        lines = err.getvalue().splitlines()
        assert len(lines) == 1, err.getvalue()
        assert lines[0].startswith("pmae: ")
        assert lines[0].isprintable(), repr(lines[0])
        assert len(lines[0]) < 4000
    return err.getvalue()


def as_typed(word: str) -> str:
    """A word as a process can be given it: without zero bytes."""
    return word.replace("\0", "")


FLAGS = sorted(
    {flag.replace("_", "-") for action in pretrain_command.make_parser()._actions for flag in action.option_strings}
    - {"-h", "--help", "--print_config", "--print-config"}
)
VALUES = st.one_of(
    odd_text, hostile.map(str), st.sampled_from(["mse", "[0.5, 0.9]", "64x", "9" * 5000, "1e400", "-inf", "nan"])
)


@fuzz(20)
@given(given_flags=st.lists(st.tuples(st.sampled_from(FLAGS), VALUES), min_size=1, max_size=3))
@example([("--image-size", "9" * 5000)])
@example([("--image-size", "٣٢x٣٢")])
@example([("--config", "x" * 300)])
@example([("--optimizer.betas", "[" * 3000)])
@example([("--optimizer", LAUGHS)])
@example([("--data", "\x1b[31m\ud800")])
def test_flags(given_flags: list[tuple[str, str]]) -> None:
    words = [as_typed(word) for flag, value in given_flags for word in (flag, value)]

    def use() -> None:
        parser = pretrain_command.make_parser()
        values = parser.instantiate(parser.parse(["--data", "photos", *words]))
        values.pop("config", None)
        PretrainConfig(**values.as_dict()).check()

    outcome(use)


@fuzz(8)
@given(words=st.lists(odd_text, max_size=4))
@example(["pretrain", "\ud800"])
@example(["\x1b[31m"])
@example(["report", "~nosuchuser/x"])
@example(["report", "x" * 300])
@example(["reconstruct", "~nosuchuser/x"])
@example(["reconstruct", "x" * 300])
@example(["predict", "~nosuchuser/x", "~nosuchuser/y"])
@example(["predict", "x" * 300, "y"])
@example(["embed", "~nosuchuser/x", "--data", "~nosuchuser/y"])
@example(["evaluate", "~nosuchuser/x", "--data", "~nosuchuser/y"])
@example(["finetune", "classification", "random:micro/8", "--data", "~nosuchuser/y"])
@example(["finetune", "detection", "random:micro/8", "--data", "~nosuchuser/y"])
@example(["finetune", "segmentation", "random:micro/8", "--data", "x" * 300])
@example(["pretrain", "--data", "~nosuchuser/y"])
@example(["convert-dvae", "~nosuchuser/x", "~nosuchuser/y"])
@example(["compare", "--data", "photos", "--methods", "\x1b[31m"])
def test_anything_at_all(words: list[str]) -> None:
    said(*map(as_typed, words))
