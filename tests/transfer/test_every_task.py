"""What holds for every task: a run that was cut goes on exactly, and a network that was saved says the same again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from perceptual_mae import load_finetuned
from perceptual_mae.finetune import finetune
from perceptual_mae.settings import from_dict, to_dict
from perceptual_mae.training.loop import TrainingLoop
from perceptual_mae.transfer.config import CONFIGS, FinetuneConfig, config_of
from perceptual_mae.transfer.folder import MODEL, FinetuneFolder

OWN: dict[str, dict[str, Any]] = {
    "classification": {"data": "two_kinds"},
    "detection": {"data": "few_objects", "sampled": 16},
    "segmentation": {"data": "few_masks"},
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> FinetuneConfig:
    """Five steps of a task, with everything random in them; checkpoints after every second one."""
    own = OWN[request.param]
    settings: dict[str, Any] = {
        "task": request.param,
        "encoder": "random:micro/8",
        "out": str(tmp_path / "whole"),
        "image_size": 64,
        "batch_size": 2,
        "max_steps": 5,
        "drop_path": 0.2,
        "lr": 1e-3,
        "save_every": 2,
        "device": "cpu",
        "workers": 0,
        "log": {"every": 1, "evaluate_every": 1000.0, "pictures": 2, "tensorboard": False},
        "checkpoint": {"minutes": 1e9, "keep": 9},
        "loader": {"max_pixels": 10_000},
    }
    return config_of(settings | own | {"data": str(request.getfixturevalue(own["data"]))})


def elsewhere(config: FinetuneConfig, name: str) -> FinetuneConfig:
    return from_dict(type(config), to_dict(config) | {"out": str(Path(config.out).with_name(name))})


def outcome(config: FinetuneConfig) -> Iterator[Any]:
    """What a run comes to, but for its speed."""
    for file in (Path(config.out) / MODEL, Path(config.out) / "checkpoints" / "step-00000005" / "model.safetensors"):
        yield {name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()}
    timed = {"seconds", "images_per_second"}
    yield [{k: v for k, v in r.items() if k not in timed} for r in FinetuneFolder.read(config.out).records()]


def test_a_cut_run_goes_on_exactly_and_its_network_predicts(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(config)
    cut = elsewhere(config, "cut")
    with monkeypatch.context() as patched:
        take = TrainingLoop.learn_from

        def killed(loop: Any, batches: Any) -> dict[str, float]:
            if loop.step == 3:
                raise KeyboardInterrupt
            return take(loop, batches)

        patched.setattr(TrainingLoop, "learn_from", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune(cut)
    console = Console(record=True, width=200, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    finetune(cut, console)
    console.file.close()
    assert "continuing after step 2 of 5" in console.export_text()
    for one, other in zip(outcome(config), outcome(cut), strict=True):
        assert one == other

    learnt = load_finetuned(config.out)
    assert learnt.task == config.task
    assert learnt.description["max_pixels"] == 10_000
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((64, 64), (40, 90))]
    said = learnt.network.predict(images)
    again = load_finetuned(Path(config.out) / MODEL).network.predict(images)
    for first, second in zip(said, again, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    if "labels" in said[1] and "boxes" not in said[1]:
        assert said[1]["labels"].shape == (40, 90)
    assert (Path(config.out) / "report.html").stat().st_size > 10_000
    assert (Path(config.out) / "results.json").is_file()
