"""Learning to classify: labels, augmentation, mixing, and what is said of data that cannot be learnt."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.metrics import accuracy_score
from timm.models import VisionTransformer

from perceptual_mae import weight_files
from perceptual_mae.augment.settings import CropConfig
from perceptual_mae.data.labelled import Sample
from perceptual_mae.data.sharding import ShardSettings, write_shards
from perceptual_mae.encoders import open_encoder
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.finetune import finetune
from perceptual_mae.models.classifier import Classifier
from perceptual_mae.seeds import seeded
from perceptual_mae.transfer.classification import (
    TIMM,
    Classification,
    CropAndAugment,
    Mixing,
    open_classification,
    open_labelled,
)
from perceptual_mae.transfer.config import ClassificationConfig, MixConfig
from perceptual_mae.transfer.tasks import open_task
from perceptual_mae.weight_files import encoder_metadata

Make = Callable[..., ClassificationConfig]
NONE = MixConfig(auto_augment=None, erasing=0.0, mixup=0.0, cutmix=0.0, smoothing=0.0)


@pytest.fixture
def task(make_classification: Make) -> Classification:
    task, _ = open_task(make_classification())
    assert isinstance(task, Classification)
    return task


def test_evaluation_counts_as_scikit_learn_does(task: Classification) -> None:
    network = task.network.eval()
    torch.nn.init.normal_(network.encoder.head.weight)
    found = task.evaluate(network, torch.device("cpu"))
    samples = [task.validation.read(index) for index in range(len(task.validation))]
    guesses = [int(p["probabilities"].argmax()) for p in network.predict([sample.image for sample in samples])]
    truth = [int(sample.target) for sample in samples]  # type: ignore[arg-type]
    assert found["top1"] == pytest.approx(accuracy_score(truth, guesses))
    assert found["top5"] == 1.0
    assert task.scores is not None
    assert task.scores.count == 16


def mixing(config: MixConfig, task: Classification) -> Mixing:
    assert isinstance(task.network, Classifier)
    return Mixing(config, task.network)


def test_without_mixing_images_stay_and_labels_are_smoothed(task: Classification) -> None:
    images, labels = torch.rand(3, 3, 32, 32), [torch.tensor(0), torch.tensor(1), torch.tensor(1)]
    config = MixConfig(auto_augment=None, erasing=0.0, mixup=0.0, cutmix=0.0, smoothing=0.1)
    same, shares = mixing(config, task)(images, labels)
    assert torch.equal(same, images)
    torch.testing.assert_close(torch.stack(shares), torch.tensor([[0.95, 0.05], [0.05, 0.95], [0.05, 0.95]]))


def test_mixup_mixes_images_as_it_mixes_labels(task: Classification) -> None:
    """Of a black and a white image each pixel tells its share."""
    images = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
    config = MixConfig(auto_augment=None, erasing=0.0, mixup=0.8, cutmix=0.0, smoothing=0.0)
    for seed in range(5):
        with seeded(seed):
            mixed, shares = mixing(config, task)(images, [torch.tensor(0), torch.tensor(1)])
        for image, share in zip(mixed, shares, strict=True):
            torch.testing.assert_close(image, share[1].expand(3, 32, 32))
            assert share.sum().item() == pytest.approx(1, abs=1e-6)
    assert 0 < shares[0][1] < 1


def test_cutmix_cuts_a_rectangle_of_the_share(task: Classification) -> None:
    images = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
    config = MixConfig(auto_augment=None, erasing=0.0, mixup=0.0, cutmix=1.0, smoothing=0.0)
    with seeded(3):
        mixed, shares = mixing(config, task)(images, [torch.tensor(0), torch.tensor(1)])
    assert set(mixed.unique().tolist()) == {0.0, 1.0}
    assert mixed[0].mean().item() == pytest.approx(shares[0][1].item(), abs=1e-6)


def test_the_odd_image_of_a_batch_stays_as_it_is(task: Classification) -> None:
    images, config = torch.rand(3, 3, 32, 32), MixConfig(auto_augment=None, erasing=0.0)
    mixed, shares = mixing(config, task)(images, [torch.tensor(0), torch.tensor(1), torch.tensor(1)])
    assert torch.equal(mixed[2], images[2])
    assert not torch.equal(mixed[0], images[0])
    torch.testing.assert_close(shares[2], torch.tensor([0.05, 0.95]))
    alone, share = mixing(config, task)(images[:1], [torch.tensor(0)])
    assert torch.equal(alone, images[:1])
    torch.testing.assert_close(share[0], torch.tensor([0.95, 0.05]))


def test_erasing_puts_noise_of_the_pixels_own_scale_into_a_rectangle(task: Classification) -> None:
    config = MixConfig(auto_augment=None, erasing=0.999, mixup=0.0, cutmix=0.0)
    network = task.network
    assert isinstance(network, Classifier)
    images = torch.full((64, 3, 32, 32), 0.5)
    with seeded(0):
        erased, _ = mixing(config, task)(images.clone(), [torch.tensor(0)] * 64)
    changed = (erased - 0.5).abs().amax(dim=1) > 1e-6
    assert 0.02 <= changed.float().mean().item() <= 0.34
    rows, columns = changed[0].any(dim=1), changed[0].any(dim=0)
    assert changed[0].float().sum() >= 0.9 * rows.sum() * columns.sum()
    noise = ((erased - network.mean) / network.std).permute(0, 2, 3, 1)[changed]
    assert noise.mean().abs() < 0.1
    assert noise.std().item() == pytest.approx(1, abs=0.05)


def test_augmentation_depends_on_the_seed_alone(photographs: torch.Tensor) -> None:
    augment = CropAndAugment((24, 32), CropConfig(), "rand-m9-mstd0.5-inc1", (0.5, 0.5, 0.5))
    sample = Sample(photographs[0], torch.tensor(1), "one")
    views = []
    for seed in (1, 1, 2, 3, 4):
        with seeded(seed):
            views.append(augment(sample))
    assert torch.equal(views[0].image, views[1].image)
    assert len({view.image.numpy().tobytes() for view in views}) == 4
    assert {tuple(view.image.shape) for view in views} == {(3, 24, 32)}
    assert (views[0].target, views[0].name) == (sample.target, "one")


def test_strongest_policies_do_not_break(photographs: torch.Tensor) -> None:
    """Posterising to no bits at all, which timm can ask for, is refused by newer versions of Pillow."""
    augment = CropAndAugment((32, 32), CropConfig(), "rand-m10-mstd3-inc1-n6", (0.5, 0.5, 0.5))
    for seed in range(60):
        with seeded(seed):
            augment(Sample(photographs[seed % 12], torch.tensor(0), ""))


def test_without_a_validation_split_some_of_each_class_is_held_out(make_classification: Make, two_kinds: Path) -> None:
    train, validation, notes = open_labelled(make_classification(data=str(two_kinds / "train")), 3)
    assert (len(train), len(validation)) == (38, 10)
    names = [{images.title(i) for i in range(len(images))} for images in (train, validation)]
    assert not names[0] & names[1]
    assert sorted(int(validation.read(i).target) for i in range(10)) == [0] * 5 + [1] * 5  # type: ignore[arg-type]
    assert "20% of the images of each class are held out" in notes[0]


def test_labels_mean_the_same_whatever_their_order(make_classification: Make, two_kinds: Path, tmp_path: Path) -> None:
    """Validation data with a class more, sorted before the others, and named by another flag."""
    other = tmp_path / "other"
    shutil.copytree(two_kinds / "val" / "grass", other / "grass")
    shutil.copytree(two_kinds / "val" / "astronaut", other / "aardvark")
    train, validation, notes = open_labelled(make_classification(val_data=str(other)), 3)
    assert train.classes == validation.classes == ("astronaut", "grass")
    assert len(validation) == 8
    assert {int(validation.read(i).target) for i in range(8)} == {1}  # type: ignore[arg-type]
    assert "aardvark" in notes[0]


def test_what_cannot_be_learnt_is_said(make_classification: Make, two_kinds: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(two_kinds / "train" / "grass", flat)
    with pytest.raises(
        UsageError, match=r"--data .*flat: there is nothing to tell apart \(the images have no labels\)"
    ):
        open_task(make_classification(data=str(flat)))
    write_shards(str(two_kinds), tmp_path / "shards", ShardSettings())
    with pytest.raises(UsageError, match=r"--data stream:.*no labels\): a stream carries none; name .* wds:PATTERN"):
        open_task(make_classification(data=f"stream:{tmp_path / 'shards'}"))
    one = tmp_path / "one"
    shutil.copytree(two_kinds / "train" / "grass", one / "grass")
    with pytest.raises(UsageError, match="put those of each class into a folder of its own"):
        open_task(make_classification(data=str(one)))
    strange = tmp_path / "strange"
    shutil.copytree(two_kinds / "val" / "grass", strange / "moss")
    shutil.copytree(two_kinds / "val" / "grass", strange / "fern")
    with pytest.raises(UsageError, match=r"--val-data .*strange: no image has a label of a class that is learnt"):
        open_task(make_classification(val_data=str(strange)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder": "pixels:4"}, "ENCODER pixels:4: pixels:4 is no network that can learn"),
        ({"encoder": "no/such/run"}, "ENCODER no/such/run: "),
        ({"mix": MixConfig(auto_augment="randaug")}, "--mix.auto-augment randaug: give RandAugment in timm's words"),
        ({"mix": MixConfig(auto_augment="rand-x9")}, "--mix.auto-augment rand-x9: give"),
        ({"val_data": "/nowhere"}, "--val-data /nowhere: there is no such"),
        ({"image_size": 36}, "--image-size 36: .*is not a multiple of its patch size, 8"),
    ],
)
def test_encoders_that_do_not_fit(make_classification: Make, settings: dict[str, object], words: str) -> None:
    with pytest.raises(PmaeError, match=words):
        open_task(make_classification(**settings))


def test_broken_images_are_replaced_and_named(make_classification: Make, two_kinds: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(two_kinds, data)
    (data / "train" / "grass" / "0.png").write_bytes(b"no image")
    task, _ = open_task(make_classification(data=str(data)))
    from perceptual_mae.data import SamplePlan
    from perceptual_mae.data.labelled import labelled_loader

    batches = list(labelled_loader(task.train, SamplePlan(len(task.train), 16, 0), task.augment, last_step=3))
    assert [len(batch) for batch in batches] == [16] * 3
    skipped = [skip for batch in batches for skip in batch.skipped]
    assert [skip.name for skip in skipped] == ["grass/0.png"]
    assert all("grass/0.png" not in batch.names for batch in batches)


def test_broken_validation_images_are_listed_in_the_run(
    make_classification: Make, two_kinds: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(two_kinds, data)
    broken = next((data / "val" / "grass").iterdir())
    broken.write_bytes(b"no image")
    run = finetune(make_classification(data=str(data), epochs=1))
    assert (run / "skipped.txt").read_text(encoding="utf-8").startswith(f"grass/{broken.name}\tnot an image")


def test_the_export_is_timms(task: Classification, tmp_path: Path) -> None:
    network = task.network.eval()
    torch.nn.init.normal_(network.encoder.head.weight)
    task.export(network, tmp_path)
    with safe_open(tmp_path / TIMM, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["classes"]) == ["astronaut", "grass"]
    line = metadata["timm"].replace(TIMM, str(tmp_path / TIMM))
    other = eval(line, {"timm": timm}).eval()
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(json.loads(metadata[name])).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    assert torch.equal(other((images - mean) / std), network.logits(images))


def test_the_export_says_what_cannot_be_seen_in_its_weights(make_classification: Make, tmp_path: Path) -> None:
    """Twelve heads of 8 numbers are not usual for the width, and 2 x 8 patches are as many as 4 x 4."""
    network = VisionTransformer(img_size=(16, 64), patch_size=8, embed_dim=96, depth=1, num_heads=12, num_classes=0)
    facts = encoder_metadata((16, 64), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 12)
    save_file(network.state_dict(), tmp_path / "encoder.safetensors", facts)
    config = make_classification(encoder=str(tmp_path / "encoder.safetensors"), image_size=None)
    task, _ = open_classification(config)
    task.export(task.network, tmp_path)
    encoder, _ = open_encoder(tmp_path / TIMM)
    assert (encoder.image_size, encoder.network.blocks[0].attn.num_heads) == ((16, 64), 12)

    resnet = timm.create_model("test_resnet").state_dict()  # heads are nothing that a convolution has
    save_file(resnet, tmp_path / "resnet.safetensors")
    task, _ = open_classification(replace(config, encoder=f"timm:test_resnet:{tmp_path / 'resnet.safetensors'}"))
    task.export(task.network, tmp_path)
    assert "num_heads" not in weight_files.metadata(tmp_path / TIMM)


def test_grey_images_are_learnt_without_colour_policies(make_classification: Make, tmp_path: Path) -> None:
    from perceptual_mae.models import MaskedAutoencoder

    torch.manual_seed(0)
    grey = MaskedAutoencoder.from_size("micro", image_size=32, patch_size=8, in_channels=1)
    save_file(grey.encoder_state_dict(), tmp_path / "grey.safetensors")
    task, _ = open_task(make_classification(encoder=str(tmp_path / "grey.safetensors")))
    sample = task.augment(task.train.read(0))
    assert sample.image.shape == (1, 32, 32)
    assert np.isfinite(task.evaluate(task.network.eval(), torch.device("cpu"))["top1"])
