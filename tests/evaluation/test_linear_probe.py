"""The cached linear probe against scikit-learn's logistic regression and against autograd; what it may look at."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from perceptual_mae.data import eval_batches, open_source
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.evaluation import linear_probe
from perceptual_mae.evaluation.linear_probe import (
    cached_probe,
    fit_probe,
    folds,
    standardised,
    statistics,
    train_rates,
)
from perceptual_mae.evaluation.probe_config import LinearProbeConfig
from perceptual_mae.evaluation.scores import NothingToClassify

TINY_IMAGENET = Path(__file__).parents[3] / "shared" / "data" / "tiny-imagenet-40"
FEW = LinearProbeConfig(learning_rates=(0.001, 0.01, 0.1), epochs=2)
"""Fast."""

Split = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def digits() -> Split:
    """1,000 handwritten digits to learn and 797 to test; some of their 64 pixels are always white."""
    images = load_digits()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images.data)))
    features, labels = torch.from_numpy(images.data).float()[order], torch.from_numpy(images.target)[order]
    return features[:1000], labels[:1000], features[1000:], labels[1000:]


@pytest.fixture(scope="module")
def thumbnails() -> Split:
    """Photographs of 40 classes, 8 x 8 pixels of each: 4,000 to learn and 2,000 to test."""
    if not TINY_IMAGENET.is_dir():
        pytest.skip("no ../shared/data/tiny-imagenet-40 beside the repository")
    found: list[Tensor] = []
    for split, count in (("train", 4000), ("validation", 2000)):
        source = open_source(str(TINY_IMAGENET), split)
        assert source is not None
        chosen = np.linspace(0, len(source) - 1, count).astype(int).tolist()
        batches = list(eval_batches(source, chosen, image_size=(8, 8)))
        found += [torch.cat([batch.images.flatten(1).float() for batch in batches])]
        found += [torch.cat([batch.labels for batch in batches])]
    return found[0], found[1], found[2], found[3]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer steps and fewer judges than a good result takes."""
    monkeypatch.setattr(linear_probe, "STEPS", 60)
    monkeypatch.setattr(linear_probe, "JUDGES", 60)


def sklearn_accuracy(split: Split) -> float:
    """Logistic regression on standardised features; the strength of its penalty chosen on a tenth of the training."""
    train, train_labels, test, test_labels = (part.numpy() for part in split)
    fitted, held = next(StratifiedShuffleSplit(1, test_size=0.1, random_state=0).split(train, train_labels))

    def model(C: float) -> LogisticRegression:
        return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=200, tol=1e-3))

    strengths = {C: model(C).fit(train[fitted], train_labels[fitted]) for C in (1e-3, 1e-2, 1e-1, 1.0)}
    best = max(strengths, key=lambda C: strengths[C].score(train[held], train_labels[held]))
    return float(model(best).fit(train, train_labels).score(test, test_labels))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ["digits", "thumbnails"])
def test_agrees_with_logistic_regression(name: str, request: pytest.FixtureRequest) -> None:
    split: Split = request.getfixturevalue(name)
    result = cached_probe(*split)
    assert result.scores.top1 == pytest.approx(sklearn_accuracy(split), abs=0.015)
    rates = [rate for rate, _ in result.held_out]
    assert len(rates) == 13
    assert rates[0] < result.lr < rates[-1]  # the grid holds the best rate
    assert result.notes == ()


def by_autograd(features: Tensor, labels: Tensor, classes: int, rate: float, batches: list[list[int]]) -> Tensor:
    """One rate alone: an ordinary linear layer under `torch.optim.SGD` in float64, with its bias as a parameter."""
    layer = torch.nn.Linear(features.shape[1], classes, dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for batch in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(features[batch].double()), labels[batch]).backward()
        optimizer.step()
        schedule.step()
    return torch.cat([layer.weight.detach().T, layer.bias.detach()[None]])


def test_every_rate_is_trained_as_it_would_be_alone(digits: Split) -> None:
    features, labels = digits[0][:200], digits[1][:200]
    rates = (0.003, 0.05, 2.0)
    scaled = standardised(features, *statistics(features))
    # One batch an epoch, so that the order does not matter: `STEPS` epochs.
    weights = train_rates(scaled[None], labels, 10, rates, LinearProbeConfig(epochs=20, batch_size=200))
    assert weights.shape == (65, 3, 10)
    for number, rate in enumerate(rates):
        alone = by_autograd(scaled[:, :-1], labels, 10, rate, [list(range(200))] * 300)
        torch.testing.assert_close(weights[:, number].double(), alone, rtol=1e-3, atol=1e-4)
        assert alone.abs().max() > 0.1


def test_every_image_is_seen_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_probe, "STEPS", 0)
    # Orthogonal features: after one epoch at a small rate, each image has moved its own weight and no other.
    features = torch.eye(50)[None]
    config = LinearProbeConfig(epochs=1, batch_size=20, momentum=0.0)
    weights = train_rates(features, torch.arange(50) % 2, 2, (1e-3,), config)[:, 0]
    assert (weights[torch.arange(50), torch.arange(50) % 2] > 0).all()
    # 50 images are three batches of 16, 17 and 17, not one of 10.
    steps = weights.abs().amax(dim=1)
    expected = {1e-3 * 0.5 / size * 0.5 * (1 + math.cos(math.pi * at / 3)) for at, size in enumerate((16, 17, 17))}
    assert sorted({round(float(step), 9) for step in steps}) == sorted(round(step, 9) for step in expected)
    # In another order each epoch: in the same one, images that share a batch would always move alike.
    twice = train_rates(features, torch.arange(50) % 2, 2, (1e-3,), replace(config, epochs=2))[:, 0]
    assert len({round(float(step), 8) for step in twice.abs().amax(dim=1)}) > 3


@pytest.mark.usefixtures("hasty")
def test_test_labels_choose_nothing(digits: Split) -> None:
    train, train_labels, test, test_labels = digits
    first = cached_probe(train, train_labels, test, test_labels, FEW)
    shuffled = test_labels[torch.from_numpy(np.random.default_rng(1).permutation(len(test_labels)))]
    second = cached_probe(train, train_labels, test, shuffled, FEW)
    assert (first.lr, first.held_out) == (second.lr, second.held_out)
    assert torch.equal(first.scores.confusion.sum(dim=0), second.scores.confusion.sum(dim=0))  # the predictions
    assert first.scores.top1 > 0.8
    assert second.scores.top1 < 0.2


@pytest.mark.usefixtures("hasty")
def test_chooses_the_best_rate_on_what_it_did_not_train_on() -> None:
    # Labels are noise: the training images can be learnt by heart, at a high rate, and held-out ones cannot.
    random = torch.Generator().manual_seed(0)
    features, labels = torch.randn(400, 600, generator=random), torch.randint(2, (400,), generator=random)
    probe = fit_probe(features, labels, 2, replace(FEW, learning_rates=(1e-4, 0.1)))
    assert (probe(features).argmax(dim=1) == labels).double().mean() > 0.9
    assert all(0.35 < accuracy < 0.65 for _, accuracy in probe.held_out)
    best = max(accuracy for _, accuracy in probe.held_out)
    assert dict(probe.held_out)[probe.lr] == best


@pytest.mark.usefixtures("hasty")
def test_a_seed_is_a_result(digits: Split) -> None:
    train, labels = digits[0][:300], digits[1][:300]
    first, again, other = (fit_probe(train, labels, 10, replace(FEW, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.weights, again.weights)
    assert first.held_out == again.held_out
    assert not torch.equal(first.weights, other.weights)


@pytest.mark.parametrize(("share", "parts"), [(0.1, 10), (0.5, 2), (0.3, 3)])
def test_folds_are_stratified_and_leave_every_class_something(share: float, parts: int) -> None:
    counts = [1, 2, 3, 40, 1, 200]
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    fold = folds(labels, share, seed=3)
    for label, count in enumerate(counts):
        sizes = torch.bincount(fold[labels == label].clamp(min=0), minlength=parts)
        if count == 1:
            assert fold[labels == label].tolist() == [-1]
        else:
            assert fold[labels == label].min() >= 0
            assert sizes.max() - sizes.min() <= 1
            assert sizes.max() < count
    assert fold.max() == parts - 1
    assert not torch.equal(fold, folds(labels, share, seed=4))


@pytest.mark.usefixtures("hasty")
def test_features_of_any_scale_and_constant_ones(digits: Split) -> None:
    train, labels, test, test_labels = digits[0][:300], digits[1][:300], *digits[2:]
    plain = cached_probe(train, labels, test, test_labels, FEW)
    scale = torch.logspace(-6, 6, 64)
    moved = cached_probe(train * scale + scale, labels, test * scale + scale, test_labels, FEW)
    assert moved.scores.top1 == pytest.approx(plain.scores.top1, abs=0.01)
    # A feature that never changed in training says nothing, whatever it is when tested.
    flat_train = torch.cat([train, torch.full((300, 1), 1000.1)], dim=1)
    flat_test = torch.cat([test, torch.linspace(-1e6, 1e6, len(test))[:, None]], dim=1)
    constant = cached_probe(flat_train, labels, flat_test, test_labels, FEW)
    assert constant.scores.as_dict() == plain.scores.as_dict()


def test_standardised_features_have_mean_0_and_deviation_1(digits: Split) -> None:
    features = digits[0]
    scaled = standardised(features, *statistics(features))
    expected = StandardScaler().fit_transform(features.double().numpy())
    np.testing.assert_allclose(scaled[:, :-1], expected, atol=1e-5)
    assert (scaled[:, -1] == 1).all()
    white = features.std(dim=0) == 0
    assert white.any()
    assert torch.equal((scaled[:, :-1] == 0).all(dim=0), white)


@pytest.mark.usefixtures("hasty")
def test_views_of_an_image_are_held_out_together() -> None:
    # Every image has a number of its own in its feature. Were one view held out and another trained on, the classes,
    # which are noise, could be told.
    random = torch.Generator().manual_seed(0)
    own, labels = torch.randn(200, 400, generator=random), torch.randint(2, (200,), generator=random)
    views = own + 0.05 * torch.randn(4, 200, 400, generator=random)
    probe = fit_probe(views, labels, 2, FEW)
    assert max(accuracy for _, accuracy in probe.held_out) < 0.65
    assert (probe(own).argmax(dim=1) == labels).double().mean() > 0.95
    # All views are trained on: the first alone would leave the others' labels to chance.
    apart = torch.randn(2, 100, 400, generator=random)
    learnt = fit_probe(apart, labels[:100], 2, replace(FEW, learning_rates=(0.01,), epochs=300))
    assert all((learnt(view).argmax(dim=1) == labels[:100]).double().mean() > 0.95 for view in apart)


@pytest.mark.usefixtures("hasty")
def test_one_image_of_every_class() -> None:
    train = torch.eye(5) * 3
    result = cached_probe(train, torch.arange(5), train, torch.arange(5), FEW)
    assert result.scores.top1 == 1
    assert (result.lr, result.held_out) == (0.01, ())
    assert "one training image" in result.notes[0]
    assert result.notes[0] in result.as_dict()["notes"]


@pytest.mark.usefixtures("hasty")
def test_a_rate_at_the_edge_is_told(digits: Split) -> None:
    low = replace(FEW, learning_rates=(1e-7, 1e-6))
    result = cached_probe(digits[0][:200], digits[1][:200], *digits[2:], low)
    assert "learning rate was the best on the held-out images" in result.notes[0]


@pytest.mark.usefixtures("hasty")
def test_labels_that_are_missing(digits: Split) -> None:
    train, train_labels, test, test_labels = digits[0][:300], digits[1][:300].clone(), digits[2], digits[3].clone()
    train_labels[::2], test_labels[::2] = -1, -1
    found = cached_probe(train, train_labels, test, test_labels, FEW)
    alone = cached_probe(train[1::2], train_labels[1::2], test[1::2], test_labels[1::2], FEW)
    assert found.as_dict() == alone.as_dict()
    json.dumps(found.as_dict(), allow_nan=False)
    with pytest.raises(NothingToClassify, match="one class"):
        cached_probe(train, torch.where(train_labels == 3, 3, -1), test, test_labels, FEW)
    with pytest.raises(NothingToClassify, match="to test on"):
        cached_probe(train, train_labels, test, torch.full_like(test_labels, -1), FEW)


@pytest.mark.usefixtures("hasty")
def test_a_class_without_training_images(digits: Split) -> None:
    train, labels, test, test_labels = digits
    known = labels != 9
    result = cached_probe(train[known], labels[known], test, test_labels, FEW)
    assert result.scores.per_class[9] == 0
    assert result.scores.top1 > 0.6
    assert any("no training image" in note for note in result.scores.notes)


def test_features_that_are_no_numbers(digits: Split) -> None:
    damaged = digits[0].clone()
    damaged[3, 3] = torch.nan
    with pytest.raises(PmaeError, match="not finite"):
        cached_probe(damaged, *digits[1:], FEW)


@pytest.mark.parametrize(
    "settings",
    [{"learning_rates": ()}, {"learning_rates": (0.0,)}, {"held_out": 0.0}, {"held_out": 0.6}, {"epochs": 0}],
)
def test_impossible_settings(settings: dict) -> None:
    with pytest.raises(UsageError):
        LinearProbeConfig(**settings)
