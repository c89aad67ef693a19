"""Settings of fine-tuning: recipes, what is refused, and that a run's file gives them back."""

import dataclasses
from typing import Any

import pytest
import yaml

from perceptual_mae.errors import UsageError
from perceptual_mae.settings import to_dict
from perceptual_mae.transfer.config import (
    CONFIGS,
    ClassificationConfig,
    DetectionConfig,
    FinetuneConfig,
    FinetuneOptimizerConfig,
    SegmentationConfig,
    config_of,
)


def make(task: str = "classification", **settings: Any) -> FinetuneConfig:
    return CONFIGS[task](encoder="random:micro/8", data="photos", **settings)


@pytest.mark.parametrize(
    ("recipe", "lr", "betas"),
    # MAE's table 9: base rate 5e-4 for 256 images; the paper's 1e-3 and its betas.
    [("mae", 5e-4, (0.9, 0.999)), ("paper", 1e-3, (0.9, 0.95))],
)
def test_classification_recipes_are_the_published_ones(recipe: str, lr: float, betas: tuple[float, float]) -> None:
    config = make(recipe=recipe, batch_size=1024)
    rules = config.rules
    assert config.learning_rate == pytest.approx(4 * lr)
    assert rules.betas == betas
    assert (rules.layer_decay, rules.drop_path, rules.weight_decay) == (0.65, 0.1, 0.05)
    assert (config.total_epochs, rules.warmup_epochs) == (100, 5)
    mix = ClassificationConfig(encoder="", data="").mix
    assert (mix.auto_augment, mix.erasing, mix.mixup, mix.cutmix, mix.smoothing) == (
        "rand-m9-mstd0.5-inc1",
        0.25,
        0.8,
        1.0,
        0.1,
    )


def test_a_rate_that_is_given_is_for_the_batch_as_it_is() -> None:
    assert make(lr=3e-4, batch_size=1024).learning_rate == 3e-4
    assert make("detection", batch_size=2).learning_rate == make("detection", batch_size=64).learning_rate == 1e-4


def test_warm_up_is_the_recipes_but_not_most_of_a_short_run() -> None:
    assert make().warmup_share(100) == pytest.approx(0.05)
    assert make().warmup_share(3) == 0.2
    assert make(optimizer=FinetuneOptimizerConfig(warmup_epochs=2)).warmup_share(3) == pytest.approx(2 / 3)


@pytest.mark.parametrize("task", CONFIGS)
def test_a_file_gives_the_settings_back(task: str) -> None:
    config = make(task, epochs=3, lr=1e-3, optimizer=FinetuneOptimizerConfig(betas=(0.8, 0.9)))
    assert config_of(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config
    assert config.task == task
    config.check()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"data": "x"}, "no run of `pmae finetune`"), ({"task": "poetry"}, "no task 'poetry'")],
)
def test_files_of_other_things(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        config_of(settings)
    with pytest.raises(UsageError, match=r"unknown setting layer_decy; did you mean layer_decay\?"):
        config_of({"task": "detection", "encoder": "", "data": "", "layer_decy": 1})
    with pytest.raises(UsageError, match="the setting data is missing"):
        config_of({"task": "detection", "encoder": ""})


@pytest.mark.parametrize(
    ("task", "settings", "flag"),
    [
        ("classification", {"epochs": 0}, "--epochs 0"),
        ("classification", {"max_steps": 0}, "--max-steps 0"),
        ("classification", {"batch_size": 0}, "--batch-size 0"),
        ("classification", {"lr": 0.0}, "--lr 0.0"),
        ("classification", {"layer_decay": 1.1}, "--layer-decay 1.1"),
        ("classification", {"layer_decay": 0.0}, "--layer-decay 0.0"),
        ("classification", {"drop_path": 1.0}, "--drop-path 1.0"),
        ("classification", {"ema": 1.0}, "--ema 1.0"),
        ("classification", {"optimizer": FinetuneOptimizerConfig(betas=(2.0, 2.0))}, "--optimizer.betas"),
        (
            "classification",
            {"optimizer": FinetuneOptimizerConfig(clip_grad=0.0)},
            "--optimizer.clip-grad 0.0: must be positive",
        ),
        (
            "classification",
            {"optimizer": FinetuneOptimizerConfig(warmup_epochs=-1.0)},
            "--optimizer.warmup-epochs -1.0",
        ),
        ("classification", {"optimizer": FinetuneOptimizerConfig(weight_decay=-1.0)}, "--optimizer.weight-decay -1.0"),
        ("classification", {"seed": 2**70}, "--seed"),
        ("classification", {"workers": -1}, "--workers -1"),
        ("classification", {"save_every": 0}, "--save-every 0"),
        ("classification", {"image_size": "64*64"}, "--image-size 64"),
        ("classification", {"image_size": 0}, "--image-size 0"),
        ("classification", {"optimizer": FinetuneOptimizerConfig(accumulate=3)}, "--optimizer.accumulate 3"),
        ("detection", {"window": 0}, "--window 0"),
        ("detection", {"sampled": 0}, "--sampled 0"),
        ("detection", {"jitter": (2.0, 1.0)}, "--jitter"),
        ("detection", {"recipe": "paper"}, "--recipe paper: detection has only mae"),
        ("segmentation", {"scale": (0.0, 1.0)}, "--scale"),
        ("segmentation", {"head_width": 0}, "--head-width 0"),
    ],
)
def test_what_cannot_be_right_is_refused(task: str, settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        make(task, **settings).check()
    assert str(caught.value).startswith(flag)


@pytest.mark.parametrize("cls", [ClassificationConfig, DetectionConfig, SegmentationConfig])
def test_every_setting_is_documented(cls: type[FinetuneConfig]) -> None:
    """`--help` shows these words."""
    told = f"{FinetuneConfig.__doc__}{cls.__doc__}"
    for f in dataclasses.fields(cls):
        nested = dataclasses.is_dataclass(getattr(make(cls(encoder="", data="").task), f.name))
        assert nested or f" {f.name}: " in told, f.name
