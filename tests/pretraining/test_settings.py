"""Settings: what can be said, what is refused and in which words."""

import dataclasses
import typing
from typing import Any

import pytest
import yaml

from perceptual_mae.errors import UsageError
from perceptual_mae.pretraining.config import (
    CropConfig,
    OptimizerConfig,
    PixelConfig,
    PretrainConfig,
)
from perceptual_mae.settings import differences, from_dict, to_dict

FREE = {
    *("out", "epochs", "max_steps", "device", "workers", "save_every", "loader.max_pixels"),
    *(f"log.{name}" for name in ("every", "pictures", "picture_images", "validate_every", "validation_images")),
    *(f"log.{name}" for name in ("knn_every", "knn_images", "tensorboard", "trackers", "project")),
    *("checkpoint.minutes", "checkpoint.keep", "checkpoint.milestones", "spikes.patience", "spikes.rollbacks"),
    *("sharding", "loader.cache", "loader.cache_gib", "loader.timeout", "loader.retries"),
}
"""Settings that do not change which training it is."""

OTHER: dict[str, Any] = {"crop.scale": (0.3, 0.9), "crop.ratio": (0.5, 2.0), "crop.flip": 0.25}
"""Other values than the default for settings that do not take any text."""

FULL = PretrainConfig(
    data="./päth with spaces",
    image_size="192x256",
    max_steps=7,
    lr=1e-3,
    workers=3,
    optimizer=OptimizerConfig(betas=(0.5, 0.6), warmup_epochs=2.5, clip_grad=1.0),
    pixels=PixelConfig(channels=4, mean=(0.1, 0.2, 0.3, 0.4), std=(1.0,)),
    crop=CropConfig(scale=(0.4, 0.9)),
)


@pytest.mark.parametrize("config", [PretrainConfig(data="photos"), FULL], ids=["defaults", "everything"])
def test_round_trip_through_yaml(config: PretrainConfig) -> None:
    text = yaml.safe_dump(to_dict(config), allow_unicode=True)
    assert "python/tuple" not in text
    assert from_dict(PretrainConfig, yaml.safe_load(text)) == config
    assert from_dict(PretrainConfig, to_dict(config)) == config


def test_settings_that_a_file_does_not_name_have_their_defaults() -> None:
    config = from_dict(PretrainConfig, {"data": "photos", "optimizer": {"weight_decay": 0.1}})
    assert config == PretrainConfig(data="photos", optimizer=OptimizerConfig(weight_decay=0.1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bach_size": 3}, "unknown setting bach_size; did you mean batch_size?"),
        ({"optimizer": {"weight_dekay": 0.1}}, "setting optimizer.weight_dekay; did you mean optimizer.weight_decay?"),
        ({"log": {"evry": 1}}, "unknown setting log.evry; did you mean log.every?"),
        ({"qqqqqq": 1}, "unknown setting qqqqqq$"),
    ],
)
def test_unknown_settings_are_refused_with_the_nearest(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        from_dict(PretrainConfig, {"data": "photos"} | settings)


def leaves(config: Any, path: str = "") -> dict[str, Any]:
    """Every setting by its dotted name."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        nested = dataclasses.is_dataclass(value)
        found |= leaves(value, f"{path}{field.name}.") if nested else {path + field.name: value}
    return found


def changed(config: PretrainConfig, name: str) -> PretrainConfig:
    """The same settings with another value of one."""
    *group, leaf = name.split(".")
    owner: Any = getattr(config, group[0]) if group else config
    other = dataclasses.replace(owner, **{leaf: OTHER.get(name, "something else")})
    return dataclasses.replace(config, **{group[0]: other}) if group else other


@pytest.mark.parametrize("name", leaves(PretrainConfig(data="photos")))
def test_every_setting_is_either_free_or_makes_another_training(name: str) -> None:
    old = PretrainConfig(data="photos")
    found = differences(old, changed(old, name))
    assert found == ([] if name in FREE else [f"{name}: {leaves(old)[name]}, now {OTHER.get(name, 'something else')}"])


def test_all_differences_are_named() -> None:
    old = PretrainConfig(data="photos")
    new = PretrainConfig(data="photos", seed=3, epochs=999, optimizer=OptimizerConfig(clip_grad=1.0))
    assert differences(old, new) == ["seed: 0, now 3", "optimizer.clip_grad: None, now 1.0"]
    assert differences(old, old) == []


@pytest.mark.parametrize(
    ("given", "size"), [(224, (224, 224)), ("224", (224, 224)), ("192x256", (192, 256)), ("32x8", (32, 8))]
)
def test_image_size(given: int | str, size: tuple[int, int]) -> None:
    assert PretrainConfig(data="photos", image_size=given).size == size


@pytest.mark.parametrize("given", ["", "x", "224x", "x224", "224X224", "224 x 224", "1x2x3", "-32", "12.5", "big"])
def test_image_sizes_that_are_none(given: str) -> None:
    with pytest.raises(UsageError, match=r"--image-size .*: give one side such as 224, or HEIGHTxWIDTH"):
        PretrainConfig(data="photos", image_size=given).check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 225}, "--image-size 225: not a multiple of --patch-size 16"),
        ({"image_size": "224x100"}, "--image-size 224x100: not a multiple of --patch-size 16"),
        ({"image_size": 0}, "--image-size 0: not a multiple"),
        ({"patch_size": 0}, "--patch-size 0: must be at least 1"),
        ({"patch_size": -16}, "--patch-size -16: must be at least 1"),
        ({"method": "mze"}, "--method mze: there (is|are) .*mse"),
        ({"mask_ratio": 1.0}, "--mask-ratio 1.0: must lie between 0 and 1"),
        ({"mask_ratio": -0.1}, "--mask-ratio -0.1"),
        ({"mask_ratio": float("nan")}, "--mask-ratio nan"),
        ({"batch_size": 0}, "--batch-size 0: must be at least 1"),
        ({"epochs": 0}, "--epochs 0: must be at least 1"),
        ({"max_steps": 0}, "--max-steps 0: must be at least 1"),
        ({"save_every": 0}, "--save-every 0: must be at least 1"),
        ({"lr": 0.0}, "--lr 0.0: must be positive"),
        ({"lr": -1e-3}, "--lr -0.001: must be positive"),
        ({"lr": float("nan")}, "--lr nan: must be positive"),
        ({"mask_ratio": 0.0}, "--mask-ratio 0.0: removes none of the 196 patches, and mse learns from those alone"),
        ({"mask_ratio": 0.5, "image_size": 16, "patch_size": 16}, "--mask-ratio 0.5: removes none of the 1 patches"),
        ({"optimizer": {"betas": [1.0, 0.9]}}, r"--optimizer.betas \[1.0, 0.9\]: must lie between 0 and 1"),
        ({"discriminator": {"betas": [0.0, -0.9]}}, r"--discriminator.betas \[0.0, -0.9\]: must lie"),
        ({"optimizer": {"weight_decay": -1.0}}, "--optimizer.weight-decay -1.0: must be 0 or more"),
        ({"optimizer": {"warmup_epochs": -1.0}}, "--optimizer.warmup-epochs -1.0: must be 0 or more"),
        ({"optimizer": {"clip_grad": 0.0}}, "--optimizer.clip-grad 0.0: must be positive"),
        ({"pixels": {"std": [0.2, 0.0, 0.2]}}, r"--pixels.std \[0.2, 0.0, 0.2\]: must be positive"),
        ({"log": {"validation_images": -1}}, "--log.validation-images -1: must be at least 1"),
        ({"log": {"knn_images": -1}}, "--log.knn-images -1: must be at least 1"),
        ({"workers": -1}, "--workers -1: must be auto, 0 or more"),
        ({"optimizer": {"accumulate": 0}}, "--optimizer.accumulate 0: must divide --batch-size 256"),
        ({"optimizer": {"accumulate": 3}}, "--optimizer.accumulate 3: must divide --batch-size 256"),
        ({"log": {"every": 0}}, "--log.every 0: must be at least 1"),
        ({"log": {"picture_images": 0}}, "--log.picture-images 0: must be at least 1"),
        ({"checkpoint": {"keep": 0}}, "--checkpoint.keep 0: must be at least 1"),
        ({"checkpoint": {"milestones": -1}}, "--checkpoint.milestones -1: must be 0 or more"),
        ({"pixels": {"channels": 0}}, "--pixels.channels 0: must be at least 1"),
        ({"crop": {"scale": [0.0, 1.0]}}, r"--crop.scale \[0.0, 1.0\]: give the least and the greatest share"),
        ({"crop": {"scale": [0.9, 0.3]}}, "--crop.scale"),
        ({"crop": {"ratio": [0.0, 2.0]}}, r"--crop.ratio \[0.0, 2.0\]: give the least and the greatest"),
        ({"crop": {"flip": 1.5}}, "--crop.flip 1.5: give a probability"),
    ],
)
def test_settings_that_cannot_be_right(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        from_dict(PretrainConfig, {"data": "photos"} | settings).check()
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_settings_that_are_right() -> None:
    FULL.check()
    PretrainConfig(data="photos", method="ms-ssim", mask_ratio=0.0, max_steps=1, workers="auto", lr=None).check()
    PretrainConfig(data="photos", optimizer=OptimizerConfig(betas=(0.0, 0.5), warmup_epochs=0)).check()


@pytest.mark.parametrize(
    ("recipe", "model", "batch", "expected"),
    [
        ("default", "base", 256, 6e-4),
        ("default", "base", 4096, 2.4e-3),  # MAE's own (arXiv 2111.06377, table 8), from which both rules begin
        ("default", "tiny", 16, 1.5e-4),  # the square root of a 16th is a quarter
        ("default", "micro", 256, 1.5e-3),
        ("default", "micro", 64, 7.5e-4),
        ("paper", "base", 256, 1.5e-4),
        ("paper", "micro", 256, 1.5e-4),
        ("paper", "base", 4096, 2.4e-3),
        ("paper", "base", 16, 9.375e-6),  # in proportion
    ],
)
def test_learning_rate_grows_with_the_batch(recipe: str, model: str, batch: int, expected: float) -> None:
    config = from_dict(PretrainConfig, {"data": "photos", "recipe": recipe, "model": model, "batch_size": batch})
    assert config.learning_rate == pytest.approx(expected)
    assert dataclasses.replace(config, lr=1e-3).learning_rate == 1e-3


def test_warm_up_is_40_of_300_epochs_or_what_was_asked_for() -> None:
    assert PretrainConfig(data="photos").warmup_share(300) * 300 == pytest.approx(40)
    assert PretrainConfig(data="photos").warmup_share(30) * 30 == pytest.approx(4)
    for epochs, warmup, share in [(100, 5, 0.05), (100, 0, 0.0), (3, 40, 1.0), (2.5, 1, 0.4)]:
        config = PretrainConfig(data="photos", optimizer=OptimizerConfig(warmup_epochs=warmup))
        assert config.warmup_share(epochs) == pytest.approx(share)


def test_every_setting_is_described() -> None:
    def check(cls: Any) -> None:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if dataclasses.is_dataclass(hints[field.name]):
                check(hints[field.name])
            else:
                assert f"        {field.name}: " in cls.__doc__, f"{cls.__name__}.{field.name}"

    check(PretrainConfig)
