"""MAE's linear probe against its rules written out in float64; what is left after an interruption."""

import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from skimage import data
from timm.models import VisionTransformer
from torch import Tensor

from perceptual_mae.augment.crops import center_crop_resize
from perceptual_mae.data import MAX_PIXELS, Item
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.evaluation.mae_probe import STATE, ProbeTraining, learning_rate, mae_probe, make_head
from perceptual_mae.evaluation.probe_config import MaeProbeConfig
from perceptual_mae.evaluation.scores import NothingToClassify
from perceptual_mae.models.encoder import Encoder

SHORT = MaeProbeConfig(epochs=4, warmup_epochs=1, base_lr=20.0, batch_size=12)


@dataclass
class Tiles:
    """Pieces of three photographs, `(3, 40, 40)`; the class is the photograph."""

    count: int = 36
    first: int = 0
    labels: dict[int, int] = field(default_factory=dict)
    name: str = "tiles"
    classes: tuple[str, ...] = ("astronaut", "coffee", "chelsea")

    def __post_init__(self) -> None:
        self.photos = [torch.from_numpy(photo()).permute(2, 0, 1) for photo in (data.astronaut, data.coffee, data.cat)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        place = self.first + index
        photo = self.photos[place % 3]
        row, column = 40 * (place // 3 // 9), 40 * (place // 3 % 9)
        tile = photo[:, row : row + 40, column : column + 40].contiguous()
        return Item(tile, f"tile {place}", self.labels.get(index, place % 3))

    def fingerprint(self) -> str:
        return f"tiles {self.first} {self.count}"


TRAIN, TEST = Tiles(36), Tiles(30, first=36)


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    network = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    return Encoder(network, "small", (32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def images_of(source: Tiles) -> Tensor:
    return torch.stack([center_crop_resize(source[index].data, (32, 32)) for index in range(len(source))])


def labels_of(source: Tiles) -> Tensor:
    return torch.tensor([source[index].label for index in range(len(source))])


def test_steps_follow_the_layer_wise_rule(encoder: Encoder) -> None:
    """BatchNorm, softmax, LARS with momentum and the schedule, in float64 and by hand."""
    config = MaeProbeConfig(batch_size=36, base_lr=3.0)
    training = ProbeTraining(encoder, 3, config)
    images, labels = images_of(TRAIN), labels_of(TRAIN)
    features = encoder(images / 255)[:, 0].double()
    W, b = training.head[1].weight.detach().double().clone(), training.head[1].bias.detach().double().clone()
    start = W.clone()
    v, v_b = torch.zeros_like(W), torch.zeros_like(b)
    for step, epoch in enumerate((2.0, 2.5, 30.25)):
        part = slice(12 * step, 12 * step + 12)
        z = (features[part] - features[part].mean(dim=0)) / (features[part].var(dim=0, correction=0) + 1e-6).sqrt()
        p = (z @ W.T + b).exp()
        error = (p / p.sum(dim=1, keepdim=True) - torch.eye(3)[labels[part]]) / 12
        g, g_b = error.T @ z, error.sum(dim=0)
        v = 0.9 * v + 0.001 * W.norm() / g.norm() * g  # the weight is scaled by its trust ratio
        v_b = 0.9 * v_b + g_b  # the bias is not
        peak = 3.0 * 36 / 256
        lr = peak * epoch / 10 if epoch < 10 else peak * (1 + math.cos(math.pi * (epoch - 10) / 80)) / 2
        W, b = W - lr * v, b - lr * v_b

        training.step(images[part], labels[part], epoch)
        torch.testing.assert_close(training.head[1].weight.double(), W, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(training.head[1].bias.double(), b, rtol=1e-4, atol=1e-6)
    # Had the rule not been applied to it, the weight would have moved a hundred times as far.
    assert 0 < (W - start).norm() < 0.01 * start.norm()


def test_learning_rate_is_maes() -> None:
    config = MaeProbeConfig(batch_size=16384)
    assert config.lr == pytest.approx(6.4)
    assert [learning_rate(epoch, config) for epoch in (0, 5, 10, 50, 90)] == pytest.approx([0, 3.2, 6.4, 3.2, 0])
    assert learning_rate(0, replace(config, warmup_epochs=0)) == config.lr
    only_warmup = replace(config, epochs=5, warmup_epochs=10)
    assert learning_rate(4.9, only_warmup) == pytest.approx(6.4 * 0.49)


def test_head_is_maes() -> None:
    norm, linear = make_head(2000, 30, seed=0)
    assert (norm.eps, norm.affine) == (1e-6, False)
    assert float(linear.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not linear.bias.any()
    assert torch.equal(make_head(20, 3, 1)[1].weight, make_head(20, 3, 1)[1].weight)
    assert not torch.equal(make_head(20, 3, 1)[1].weight, make_head(20, 3, 2)[1].weight)
    assert MaeProbeConfig().crop.scale == (0.08, 1.0)


@pytest.mark.parametrize("pool", ["cls", "mean", "both"])
def test_learns_and_leaves_the_encoder_alone(encoder: Encoder, pool: Any, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    calls: list[tuple[int, int]] = []
    config = replace(SHORT, epochs=30, warmup_epochs=3, base_lr=60.0)
    result = mae_probe(
        encoder, TRAIN, TRAIN, config, pool=pool, folder=tmp_path, progress=lambda *call: calls.append(call)
    )
    assert calls == [(step, 90) for step in range(1, 91)]
    assert result.scores.top1 > 0.55  # chance is a third
    assert result.lr == 60 * 12 / 256
    assert result.held_out == ()
    assert encoder.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())

    # Tested on central crops with the statistics that BatchNorm has gathered.
    head = torch.load(tmp_path / STATE, weights_only=True)["head"]
    tokens = encoder(images_of(TRAIN) / 255)
    vectors = {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(dim=1)}
    vectors["both"] = torch.cat([vectors["cls"], vectors["mean"]], dim=1)
    z = (vectors[pool] - head["0.running_mean"]) / (head["0.running_var"] + 1e-6).sqrt()
    guesses = (z @ head["1.weight"].T + head["1.bias"]).argmax(dim=1)
    assert result.scores.top1 == float((guesses == labels_of(TRAIN)).double().mean())


def test_an_earlier_block_gives_other_features(encoder: Encoder) -> None:
    training = ProbeTraining(encoder, 3, SHORT, "mean", block=0)
    images = images_of(TRAIN)
    expected = encoder(images / 255, block=0)[:, 1:].mean(dim=1)
    torch.testing.assert_close(training.features(images), expected)
    assert not torch.allclose(expected, encoder(images / 255)[:, 1:].mean(dim=1), atol=0.1)


class StoppedError(Exception):
    pass


def stop_at(step: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done == step:
            raise StoppedError

    return progress


@pytest.mark.parametrize("step", [2, 6, 8, 12])  # in the first epoch, after one, in one, after the last
def test_goes_on_exactly_after_an_interruption(encoder: Encoder, tmp_path: Path, step: int) -> None:
    whole = mae_probe(encoder, TRAIN, TEST, SHORT, folder=tmp_path / "whole")
    with pytest.raises(StoppedError):
        mae_probe(encoder, TRAIN, TEST, SHORT, folder=tmp_path / "cut", progress=stop_at(step))
    steps: list[int] = []
    again = mae_probe(
        encoder, TRAIN, TEST, SHORT, folder=tmp_path / "cut", progress=lambda done, total: steps.append(done)
    )
    assert steps == list(range(3 * (step // 3) + 1, 13))
    assert again.as_dict() == whole.as_dict()
    states = [torch.load(tmp_path / name / STATE, weights_only=True) for name in ("whole", "cut")]
    assert states[0]["epoch"] == states[1]["epoch"] == 4
    for name, tensor in states[0]["head"].items():
        assert torch.equal(tensor, states[1]["head"][name]), name
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [STATE]


@pytest.mark.parametrize("change", ["config", "pool", "weights", "images"])
def test_the_state_of_another_probe_is_written_over(encoder: Encoder, tmp_path: Path, change: str) -> None:
    mae_probe(encoder, TRAIN, TEST, SHORT, folder=tmp_path)
    config = replace(SHORT, base_lr=1.0) if change == "config" else SHORT
    pool: Any = "mean" if change == "pool" else "cls"
    if change == "weights":
        encoder.network.cls_token += 0.1
    train = Tiles(36, first=3) if change == "images" else TRAIN
    steps: list[int] = []
    mae_probe(encoder, train, TEST, config, pool=pool, folder=tmp_path, progress=lambda done, total: steps.append(done))
    assert steps == list(range(1, 13))


def test_a_probe_goes_on_over_the_same_images_only(encoder: Encoder, tmp_path: Path) -> None:
    """Where other sizes are skipped they are others; of the usual limit nothing is said, as in earlier states."""

    def steps(**options: Any) -> int:
        done: list[int] = []
        mae_probe(encoder, TRAIN, TEST, SHORT, folder=tmp_path, progress=lambda *step: done.append(step[0]), **options)
        return len(done)

    assert (steps(), steps(max_pixels=MAX_PIXELS)) == (12, 0)
    assert "max_pixels" not in torch.load(tmp_path / STATE, weights_only=True)["identity"]
    assert (steps(max_pixels=5000), steps(max_pixels=5000), steps(max_pixels=6000), steps()) == (12, 0, 12, 12)


def test_a_damaged_state_is_told_and_begun_anew(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = mae_probe(encoder, TRAIN, TEST, SHORT, folder=tmp_path)
    content = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        again = mae_probe(encoder, TRAIN, TEST, SHORT, folder=tmp_path)
    assert "cannot be read" in caplog.text
    assert again.as_dict() == whole.as_dict()
    assert torch.load(tmp_path / STATE, weights_only=True)["epoch"] == 4


def test_images_without_a_label_teach_nothing(encoder: Encoder) -> None:
    images, labels = images_of(TRAIN)[:12], labels_of(TRAIN)[:12]
    holes = labels.clone()
    holes[[1, 5, 6]] = -1
    some, alone, none = (ProbeTraining(encoder, 3, SHORT) for _ in range(3))
    some.step(images, holes, 1.0)
    alone.step(images[holes >= 0], labels[holes >= 0], 1.0)
    none.step(images, torch.full_like(labels, -1), 1.0)
    for name, tensor in some.head.state_dict().items():
        torch.testing.assert_close(tensor, alone.head.state_dict()[name])
    assert torch.equal(none.head[1].weight, make_head(24, 3, 0)[1].weight)
    assert not torch.equal(some.head[1].weight, none.head[1].weight)
    one = replace(SHORT, epochs=1)
    assert mae_probe(encoder, TRAIN, Tiles(30, first=36, labels={0: -1, 7: -1}), one).scores.count == 28


def test_data_that_cannot_be_probed(encoder: Encoder) -> None:
    nothing = dict.fromkeys(range(36), -1)
    with pytest.raises(NothingToClassify, match="one class"):
        mae_probe(encoder, Tiles(36, labels=nothing | {3: 1, 4: 1}), TEST, SHORT)
    with pytest.raises(NothingToClassify, match="no labels"):
        mae_probe(encoder, Tiles(36, labels=nothing), TEST, SHORT)
    with pytest.raises(NothingToClassify, match="to test on"):
        mae_probe(encoder, TRAIN, Tiles(30, first=36, labels=nothing), SHORT)
    with pytest.raises(ValueError, match="number their classes differently"):
        mae_probe(encoder, TRAIN, Tiles(30, first=36, classes=("coffee", "chelsea")), SHORT)
    with pytest.raises(UsageError, match="epochs"):
        MaeProbeConfig(epochs=0)


def test_a_block_that_is_not_there_is_refused(encoder: Encoder) -> None:
    with pytest.raises(UsageError, match=r"^--block 9: small has blocks 0 to 1, or -1 to -2 from the end$"):
        mae_probe(encoder, TRAIN, TEST, SHORT, block=9)


def test_a_loss_that_is_not_finite_is_told(encoder: Encoder) -> None:
    encoder.network.norm.weight[0] = torch.nan
    with pytest.raises(PmaeError, match="not finite"):
        mae_probe(encoder, TRAIN, TEST, SHORT)
