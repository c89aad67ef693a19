"""Scores against torchmetrics, scikit-learn and SciPy; labels that are missing."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score, top_k_accuracy_score
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_recall

from perceptual_mae.errors import PmaeError
from perceptual_mae.evaluation.scores import NothingToClassify, check_labels, labelled, score, wilson


def guesses(classes: int, count: int = 300) -> tuple[Tensor, Tensor]:
    """Logits that are right more often than not, and labels."""
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + 2.0 * np.eye(classes)[labels]
    return torch.from_numpy(logits).float(), torch.from_numpy(labels)


@pytest.mark.parametrize("classes", [2, 5, 6, 17])
def test_equals_scikit_learn_and_torchmetrics(classes: int) -> None:
    logits, labels = guesses(classes)
    found, predicted = score(logits, labels), logits.argmax(dim=1)
    assert found.top1 == pytest.approx(accuracy_score(labels, predicted))
    assert 0.4 < found.top1 < 1
    assert found.top1 == pytest.approx(float(multiclass_accuracy(logits, labels, classes, average="micro")))
    assert found.confusion.tolist() == confusion_matrix(labels, predicted).tolist()
    assert found.per_class == pytest.approx(recall_score(labels, predicted, average=None).tolist())
    assert found.per_class == pytest.approx(multiclass_recall(logits, labels, classes, average="none").tolist())
    assert found.count == 300
    if classes <= 5:
        assert found.top5 == 1
        assert found.notes == (f"There are {classes} classes: every image counts as right for top-5.",)
    else:
        assert found.top5 == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
        assert found.top1 < found.top5 < 1
        assert found.notes == ()


@pytest.mark.parametrize(("right", "count"), [(0, 7), (7, 7), (1, 2), (351, 2000), (9, 10)])
def test_interval_is_wilsons(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-9)
    labels = torch.zeros(count, dtype=torch.int64)
    logits = torch.tensor([[1.0, 0.0]] * right + [[0.0, 1.0]] * (count - right))
    assert score(logits, labels).interval == wilson(right / count, count)


def test_ties_help_nobody() -> None:
    # One class has all the votes and 39 have none: to be among the 39 is not to be among the first five.
    votes = torch.zeros(40, 40)
    votes[:, 7] = 3
    found = score(votes, torch.arange(40))
    assert found.top1 == found.top5 == 1 / 40
    # Nobody has any vote: the first guess is one guess.
    nothing = score(torch.zeros(40, 40), torch.arange(40))
    assert nothing.top1 == nothing.top5 == 1 / 40


def test_classes_that_are_missing_are_told() -> None:
    logits, labels = guesses(8)
    train = torch.tensor([0, 1, 1, 2, 3, 4, 5, 6])  # never 7
    known = labels != 3
    found = score(logits[known], labels[known], train)
    assert found.per_class[3] is None
    assert all(share is not None for label, share in enumerate(found.per_class) if label != 3)
    sevens = int((labels == 7).sum())
    assert found.notes == (
        "1 class has no test image.",
        f"1 tested class has no training image: {sevens} test images cannot be recognised.",
    )


def test_is_plain_json() -> None:
    logits, labels = guesses(8)
    known = labels != 3
    found = score(logits[known], labels[known])
    back = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert back["top1"] == found.top1
    assert back["interval"] == list(found.interval)
    assert back["per_class"] == found.per_class
    assert back["confusion"] == found.confusion.tolist()
    assert back["count"] == int(known.sum())
    assert back["notes"] == list(found.notes)


def test_images_without_a_label_are_left_out() -> None:
    vectors, labels = torch.arange(8).reshape(4, 2), torch.tensor([1, -1, 0, -1])
    some, kept = labelled(vectors, labels)
    assert some.tolist() == [[0, 1], [4, 5]]
    assert kept.tolist() == [1, 0]
    assert labelled(vectors, labels.abs())[0] is vectors


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ([], [0, 1], "at least two classes with labels; this data has no labels"),
        ([3, 3], [3], "at least two classes with labels; this data has one class"),
        ([0, 1], [], "no image to test on has a label"),
    ],
)
def test_nothing_to_classify(train: list[int], test: list[int], words: str) -> None:
    with pytest.raises(NothingToClassify, match=words) as raised:
        check_labels(torch.tensor(train, dtype=torch.int64), torch.tensor(test, dtype=torch.int64))
    assert isinstance(raised.value, PmaeError)
    assert "\n" not in str(raised.value)


def test_number_of_classes_is_that_of_both() -> None:
    assert check_labels(torch.tensor([0, 4]), torch.tensor([2])) == 5
    assert check_labels(torch.tensor([0, 1]), torch.tensor([6])) == 7


def test_what_is_no_number_is_refused() -> None:
    logits, labels = guesses(4)
    logits[5, 2] = torch.nan
    with pytest.raises(PmaeError, match="not finite"):
        score(logits, labels)
    with pytest.raises(NothingToClassify):
        score(logits[:0], labels[:0])
