"""Runs and evaluations as Python and notebooks see them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import perceptual_mae as pm
from perceptual_mae import api
from perceptual_mae.errors import UsageError
from perceptual_mae.pretraining.config import CheckpointConfig, LogConfig, OptimizerConfig, PretrainConfig

SMALL: dict[str, Any] = {
    "data": "photos",
    "model": "micro",
    "image_size": 32,
    "patch_size": 8,
    "batch_size": 16,
    "max_steps": 4,
    "device": "cpu",
    "workers": 0,
    "log": {"every": 2, "pictures": 1, "validate_every": 0.0, "tensorboard": False},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pm.Run:
    return pm.pretrain(out=tmp_path_factory.mktemp("run") / "mine", progress=False, **SMALL)


def test_a_run_says_what_it_is(run: pm.Run) -> None:
    assert [record["step"] for record in run.metrics] == [2, 4]
    assert run.config.log == LogConfig(every=2, pictures=1, validate_every=0.0, tensorboard=False)
    assert run.report.is_file()
    assert repr(run) == f"Run({str(run.path)!r}: micro / mse, step 4 of 4, finished)"
    page = run._repr_html_()
    assert page.startswith("<code>Run(&#x27;")
    assert 'src="data:image/' in page
    assert repr(pm.Run(str(run.path))) == repr(run)


def test_settings_go_by_name_on_top_of_others(run: pm.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(api, "pretrain", lambda config, console: seen.append((config, console)) or run.path)
    base = PretrainConfig(data="photos", lr=1e-3, optimizer=OptimizerConfig(betas=(0.8, 0.9)))
    pm.pretrain(base, epochs=3, optimizer={"weight_decay": 0.1}, checkpoint=CheckpointConfig(keep=7))
    pm.pretrain(base, progress=False)
    (changed, console), (same, nowhere) = seen
    assert (changed.epochs, changed.lr, changed.checkpoint.keep) == (3, 1e-3, 7)
    assert changed.optimizer == OptimizerConfig(betas=(0.8, 0.9), weight_decay=0.1)
    assert (same, nowhere) == (base, None)
    assert console is not None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "the setting data is missing"),
        ({"data": "photos", "bach_size": 3}, "unknown setting bach_size; did you mean batch_size?"),
        ({"data": "photos", "model": "giant"}, "the setting model cannot be 'giant'"),
        ({"data": "photos", "optimizer": {"decay": 1}}, "unknown setting optimizer.decay"),
        ({"data": "photos", "mask_ratio": 1.5}, "--mask-ratio 1.5: must lie between 0 and 1"),
    ],
)
def test_wrong_settings_are_said_as_on_the_command_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        pm.pretrain(**settings)
    assert words in str(caught.value)
    with pytest.raises(UsageError, match=r"the settings are a PretrainConfig or go by name"):
        pm.pretrain("./photos")  # type: ignore[arg-type]


def test_figures_are_returned(run: pm.Run) -> None:
    drawn = [run.reconstructions(count=2), run.attention(count=2), *run.curves().values()]
    assert len(drawn) > 3
    for figure in drawn:
        assert isinstance(figure, Figure)
        shown = Image.open(io.BytesIO(figure._repr_png_()))  # type: ignore[attr-defined] # what a notebook asks for
        assert np.asarray(shown).std() > 1
        assert shown.width > 300
    assert {file.name for file in (run.path / "figures").iterdir()} == {
        "reconstruction-00000000.png",
        "reconstruction-00000004.png",
    }


def test_an_encoder_is_the_one_that_was_trained(run: pm.Run) -> None:
    encoder = run.encoder()
    assert encoder(torch.rand(1, 3, 32, 32)).shape == (1, 17, 96)
    assert run.encoder(image_size=48)(torch.rand(1, 3, 48, 48)).shape == (1, 37, 96)


def test_an_evaluation_is_numbers_and_a_table(run: pm.Run, tmp_path: Path) -> None:
    parts = {"parts": ["knn"], "pools": ["mean"], "train_images": 60, "test_images": 30, "workers": 0}
    found = pm.evaluate(run, progress=False, cache=str(tmp_path), **parts)
    assert found.folder == run.path / "evaluation"
    top1 = found.results["parts"]["knn/mean"]["result"]["20"]["top1"]
    assert found.scores["knn/mean/top1"] == top1
    assert str(found).startswith("k-NN, k = 20")
    assert f"{top1:.1%}" in str(found)
    assert found._repr_markdown_().startswith("# mine on photos")
    again = pm.evaluate(run.path, progress=False, cache=str(tmp_path), **parts)
    assert again.scores == found.scores
    with pytest.raises(UsageError, match=r"unknown setting part; did you mean parts"):
        pm.evaluate(run, part=["knn"])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no run folder"):
        pm.Run(tmp_path)


def test_everything_that_is_offered_is_there() -> None:
    for name in pm.__all__:
        assert getattr(pm, name) is not None
    assert dir(pm) == sorted(pm.__all__)
    assert callable(pm.pretrain)
    assert callable(pm.evaluate)  # functions, and no subpackages that hide them
    with pytest.raises(AttributeError, match="has no attribute 'pre_train'"):
        pm.pre_train  # noqa: B018
