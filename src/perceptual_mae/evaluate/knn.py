"""k-nearest-neighbour classification of frozen features (Wu et al., arXiv 1805.01978; the protocol of DINO)."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptual_mae.data import Batch, to_float
from perceptual_mae.models import MaskedAutoencoder


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


def knn_accuracy(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> float:
    """Share of test features whose neighbours vote for the right class.

    Features are L2-normalised; the k most similar training features vote with weight exp(similarity / temperature).

    Args:
        train, test: `(n, D)`, `(m, D)` float.
        train_labels, test_labels: `(n,)`, `(m,)` int64, from 0.
        k: neighbours; fewer training features vote all.
        temperature: of the weights.
        chunk: test features at once, to bound memory.

    Returns:
        top-1 accuracy in [0, 1].

    Raises:
        ValueError: there is nothing to vote or to classify.
    """
    if not len(train) or not len(test):
        raise ValueError(f"k-NN needs features on both sides, not {len(train)} and {len(test)}")
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    classes = int(torch.cat([train_labels, test_labels]).max()) + 1
    right = 0
    for features, labels in zip(test.split(chunk), test_labels.split(chunk), strict=True):
        similarity, neighbours = (features @ train.T).topk(min(k, len(train)), dim=1)
        votes = torch.zeros(len(features), classes)
        votes.scatter_add_(1, train_labels[neighbours], (similarity / temperature).exp())
        right += int((votes.argmax(dim=1) == labels).sum())
    return right / len(test)
