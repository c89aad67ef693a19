"""k-NN against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from perceptual_mae.data import Batch
from perceptual_mae.evaluation import knn
from perceptual_mae.evaluation.knn import KS, knn_accuracy, knn_scores, knn_votes, mean_token_features
from perceptual_mae.evaluation.scores import NothingToClassify
from perceptual_mae.models import MaskedAutoencoder


def clusters(seed: int, count: int, classes: int = 5, dim: int = 12) -> tuple[Tensor, Tensor]:
    """Features of overlapping classes, of very different lengths."""
    centres = np.random.default_rng(100).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    features = (centres[labels] + 1.5 * rng.normal(size=(count, dim))) * rng.uniform(0.1, 10, (count, 1))
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def sklearn_model(train: Tensor, labels: Tensor, k: int, temperature: float) -> KNeighborsClassifier:
    model = KNeighborsClassifier(
        k, algorithm="brute", metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    return model.fit(train.double().numpy(), labels.numpy())


def sklearn_predictions(train: Tensor, labels: Tensor, test: Tensor, k: int, temperature: float) -> np.ndarray:
    return sklearn_model(train, labels, k, temperature).predict(test.double().numpy())


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (10, 0.07), (20, 0.07), (20, 1.0), (300, 0.2)])
def test_equals_scikit_learn(k: int, temperature: float) -> None:
    train, train_labels = clusters(0, 300)
    test, test_labels = clusters(1, 80)
    predictions = sklearn_predictions(train, train_labels, test, k, temperature)
    accuracy = knn_accuracy(train, train_labels, test, test_labels, k, temperature)
    assert accuracy == pytest.approx(float((predictions == test_labels.numpy()).mean()))
    assert 0.3 < accuracy < 0.99  # neither chance nor trivial
    # One by one: each is classified as scikit-learn does.
    for feature, prediction in zip(test, predictions, strict=True):
        assert knn_accuracy(train, train_labels, feature[None], torch.tensor([prediction]), k, temperature) == 1


def test_weights_matter() -> None:
    # Two far neighbours of class 1 outvote a near one of class 0 only at a high temperature.
    train = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.5, -1.0]])
    labels = torch.tensor([0, 1, 1])
    test = torch.tensor([[1.0, 0.01]])
    assert knn_accuracy(train, labels, test, torch.tensor([0]), k=3, temperature=0.07) == 1
    assert knn_accuracy(train, labels, test, torch.tensor([0]), k=3, temperature=10) == 0


def test_scores_for_every_k_equal_scikit_learn() -> None:
    train, train_labels = clusters(0, 300)
    test, test_labels = clusters(1, 80)
    found = knn_scores(train, train_labels, test, test_labels)
    assert tuple(found) == KS == (10, 20, 100, 200)
    for k, scores in found.items():
        predictions = torch.from_numpy(sklearn_predictions(train, train_labels, test, k, 0.07))
        assert scores.top1 == float((predictions == test_labels).double().mean())
        assert scores.confusion.sum(dim=0).tolist() == torch.bincount(predictions, minlength=5).tolist()
        assert scores.count == 80
        assert scores.top1 == knn_accuracy(train, train_labels, test, test_labels, k)
    assert len({scores.top1 for scores in found.values()}) > 1  # k matters


def test_votes_are_scikit_learns_probabilities() -> None:
    train, train_labels = clusters(0, 300)
    test, _ = clusters(1, 80)
    votes = knn_votes(train, train_labels, test, 50, 0.2)
    expected = sklearn_model(train, train_labels, 50, 0.2).predict_proba(test.double().numpy())
    np.testing.assert_allclose(votes / votes.sum(dim=1, keepdim=True), expected, atol=1e-5)
    # Not only their shares: by the formula.
    unit = torch.nn.functional.normalize(torch.cat([train, test]).double(), dim=1)
    cosine = (unit[300:] @ unit[:300].T).topk(50, dim=1).values
    torch.testing.assert_close(votes.sum(dim=1), (cosine / 0.2).exp().sum(dim=1), rtol=1e-5, atol=0)


def test_votes_of_a_low_temperature_are_finite() -> None:
    train, train_labels = clusters(0, 60)
    votes = knn_votes(train, train_labels, train[:9], k=20, temperature=0.005)  # e^200 is beyond float32
    assert votes.isfinite().all()
    assert votes.argmax(dim=1).tolist() == train_labels[:9].tolist()


def test_chunks_and_large_k_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train, train_labels = clusters(0, 60)
    test, test_labels = clusters(1, 41)
    whole = knn_accuracy(train, train_labels, test, test_labels, k=60)
    assert knn_accuracy(train, train_labels, test, test_labels, k=1000) == whole
    votes = knn_votes(train, train_labels, test, 60)
    monkeypatch.setattr(knn, "_SIMILARITIES", 7 * 60)
    monkeypatch.setattr(knn, "_ROWS", 1)
    torch.testing.assert_close(knn_votes(train, train_labels, test, 60), votes)
    assert knn_accuracy(train, train_labels, test, test_labels, k=60) == whole


def test_images_without_a_label_neither_vote_nor_count() -> None:
    train, train_labels = clusters(0, 60)
    test, test_labels = clusters(1, 40)
    some_train, some_test = train_labels.clone(), test_labels.clone()
    some_train[::3] = -1
    some_test[::4] = -1
    trained, tested = some_train >= 0, some_test >= 0
    found = knn_scores(train, some_train, test, some_test, ks=[5])[5]
    alone = knn_scores(train[trained], train_labels[trained], test[tested], test_labels[tested], ks=[5])[5]
    assert found.as_dict() == alone.as_dict()
    assert found.count == 30
    assert knn_accuracy(train, some_train, test, some_test, k=5) == found.top1


def test_data_without_classes_is_refused() -> None:
    train, labels = clusters(0, 20)
    with pytest.raises(NothingToClassify, match="one class"):
        knn_scores(train, torch.zeros_like(labels), train, labels)
    with pytest.raises(NothingToClassify, match="no labels"):
        knn_scores(train, torch.full_like(labels, -1), train, labels)


def test_a_class_that_was_never_seen_is_never_right() -> None:
    train, train_labels = clusters(0, 60)
    assert knn_accuracy(train, train_labels, train[:5], torch.full((5,), 9)) == 0


@pytest.mark.parametrize("empty", ["train", "test"])
def test_nothing_to_compare_is_refused(empty: str) -> None:
    features, labels = clusters(0, 10)
    nothing = torch.empty(0, 12), torch.empty(0, dtype=torch.int64)
    train, test = (nothing, (features, labels)) if empty == "train" else ((features, labels), nothing)
    with pytest.raises(ValueError, match="k-NN needs features on both sides"):
        knn_accuracy(*train, *test)


def test_features_are_means_of_patch_tokens(photographs: Tensor) -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder.from_size("micro", image_size=(32, 48), patch_size=8).eval()
    cuts = [slice(0, 5), slice(5, 5), slice(5, 12)]
    labels = torch.arange(12)
    batches = [Batch(photographs[cut], labels[cut], ["name"] * len(labels[cut]), []) for cut in cuts]
    features, found = mean_token_features(model, batches)
    assert torch.equal(found, labels)
    with torch.no_grad():
        for i in range(12):
            tokens = model.encode(photographs[i : i + 1] / 255)[0]
            assert tokens.shape == (25, 96)
            torch.testing.assert_close(features[i], tokens[1:].sum(dim=0) / 24, atol=1e-5, rtol=1e-5)
    assert features.is_inference() or not features.requires_grad
