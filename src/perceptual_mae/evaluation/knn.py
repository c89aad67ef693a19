"""k-nearest-neighbour classification of frozen features (Wu et al., arXiv 1805.01978; the protocol of DINO)."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptual_mae.data import Batch, to_float
from perceptual_mae.evaluation.scores import Scores, check_labels, labelled, score
from perceptual_mae.models import MaskedAutoencoder

KS = (10, 20, 100, 200)
"""Numbers of neighbours that are reported."""
_SIMILARITIES, _ROWS = 2**24, 64
"""About so many similarities are held at once (64 MB), but those of so many test features at least: each pass reads all
training features."""


@torch.inference_mode()
def mean_token_features(model: MaskedAutoencoder, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """The mean of the patch tokens of unmasked images, and their labels.

    Returns:
        `(n, D)` float32 and `(n,)` int64, on the CPU.
    """
    features, labels = [torch.empty(0, model.embed_dim)], [torch.empty(0, dtype=torch.int64)]
    for batch in batches:
        if len(batch.images):
            tokens = model.encode(to_float(batch.images.to(model.mean.device)))
            features.append(tokens[:, 1:].mean(dim=1).float().cpu())
            labels.append(batch.labels)
    return torch.cat(features), torch.cat(labels)


def knn_scores(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    ks: Sequence[int] = KS,
    temperature: float = 0.07,
) -> dict[int, Scores]:
    """Classify test features by several numbers of neighbours; similarities are computed once.

    Images without a label (-1) are left out. For the other arguments see `knn_votes`.

    Returns:
        Scores by k. A k above the number of training images lets all of them vote.

    Raises:
        NothingToClassify: there are not two labelled classes, or no labelled test image.
    """
    train, train_labels = labelled(train, train_labels)
    test, test_labels = labelled(test, test_labels)
    classes = check_labels(train_labels, test_labels)
    similarity, voters = _neighbours(train, train_labels, test, max(ks))
    return {
        k: score(_votes(similarity[:, :k], voters[:, :k], temperature, classes), test_labels, train_labels) for k in ks
    }


def knn_votes(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    classes: int | None = None,
) -> Tensor:
    """What the neighbours of each test feature vote for.

    Features are L2-normalised; the k most similar training features vote with weight exp(similarity / temperature).

    Args:
        train, test: `(n, D)`, `(m, D)` float.
        train_labels: `(n,)` int64, from 0.
        k: neighbours; fewer training features vote all.
        temperature: of the weights.
        classes: C; default: one more than the greatest label.

    Returns:
        `(m, C)` float64, the sums of the weights.
    """
    similarity, voters = _neighbours(train, train_labels, test, k)
    return _votes(similarity, voters, temperature, classes or int(train_labels.max()) + 1)


def knn_accuracy(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of test features whose neighbours vote for the right class, in [0, 1]: see `knn_votes`.

    Images without a label (-1) are left out.

    Raises:
        ValueError: there is nothing to vote or to classify.
    """
    train, train_labels = labelled(train, train_labels)
    test, test_labels = labelled(test, test_labels)
    if not len(train) or not len(test):
        raise ValueError(f"k-NN needs features on both sides, not {len(train)} and {len(test)}")
    classes = int(torch.cat([train_labels, test_labels]).max()) + 1
    votes = knn_votes(train, train_labels, test, k, temperature, classes)
    return float((votes.argmax(dim=1) == test_labels).double().mean())


def _neighbours(train: Tensor, labels: Tensor, test: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine similarity and labels of the nearest training features, nearest first: `(m, min(k, n))` each."""
    train, test = F.normalize(train.float(), dim=1), F.normalize(test.float(), dim=1)
    found = [
        (features @ train.T).topk(min(k, len(train)), dim=1)
        for features in test.split(max(_ROWS, _SIMILARITIES // len(train)))
    ]
    return torch.cat([part.values for part in found]), labels[torch.cat([part.indices for part in found])]


def _votes(similarity: Tensor, voters: Tensor, temperature: float, classes: int) -> Tensor:
    votes = torch.zeros(len(similarity), classes, dtype=torch.float64, device=similarity.device)
    return votes.scatter_add_(1, voters, (similarity.double() / temperature).exp())
