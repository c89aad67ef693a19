"""How far two sets of images are in a network's features (Fréchet distance), and how clear they are to a classifier."""

import hashlib
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from huggingface_hub import constants
from torch import Tensor

from perceptual_mae import weight_files
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.models.encoder import Encoder

ORIGINALS = "originals"
INCEPTION = "inception"
"""Names with a meaning: of the images that others are compared with, and of the network of the literature."""
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d"
"""What the hash of the published file begins with."""
_ADVICE = f"download {INCEPTION_URL} and give it as --inception FILE"
PATIENCE = 10.0
"""Seconds that a server may be silent."""
PARTS = 10
"""Parts of the images that the Inception score is taken over."""
CHUNK = 32
"""Images that Inception sees at once: it enlarges them to 299 x 299."""


class Extractor(Protocol):
    """A network whose features images are compared in.

    Attributes:
        name: of the network: the distance is called `fd-<name>`; that of `INCEPTION` is the `fid` of the literature.
    """

    name: str

    def features(self, images: Tensor) -> Tensor:
        """`(B, 3, H, W)` in [0, 1], of any size, to `(B, d)`."""
        ...


@runtime_checkable
class Classifier(Extractor, Protocol):
    """An extractor with classes, for the Inception score."""

    def logits(self, features: Tensor) -> Tensor:
        """`(B, d)` to `(B, K)`."""
        ...


# -- networks ----------------------------------------------------------------------------------------------------------


def encoder_extractor(encoder: Encoder) -> Extractor:
    """Any encoder as something to measure distances by, under the encoder's name.

    A feature is the first token: `[CLS]`, or the pooled map of a network without one. Images are resized to the size
    that the encoder takes, bilinear with antialiasing.

    Raises:
        UsageError: the encoder does not take colour images, or is called like the network of the literature's FID.
    """
    if encoder.name == INCEPTION:
        raise UsageError(f"{encoder.name}: its distance would be taken for FID; give its file or folder another name")
    if encoder.in_channels != 3:
        raise UsageError(f"{encoder.name}: takes {encoder.in_channels} channels; distances need one that takes 3")
    return _EncoderFeatures(encoder)


class _EncoderFeatures:
    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.name = encoder, encoder.name

    def features(self, images: Tensor) -> Tensor:
        images = images.to(self.encoder.mean.device)
        tokens: Tensor = self.encoder(F.interpolate(images, self.encoder.image_size, mode="bilinear", antialias=True))
        return tokens[:, 0]


def inception(weights: Path | None = None, device: torch.device | str = "cpu") -> Extractor:
    """The network of the literature's FID and Inception score, with the published weights, as torch-fidelity runs it.

    Args:
        weights: the file at `INCEPTION_URL`, under any name; None: from torch's cache, or else downloaded into it.
        device: where it runs.

    Raises:
        UsageError: there is no such file.
        PmaeError: the weights cannot be had, or are others: then no number is comparable with any that was published.
    """
    if weights is None:
        path = _cached()
    else:
        path = weights.expanduser()
        if not path.is_file():
            raise UsageError(f"--inception {weights}: there is no such file; {_ADVICE}")
    # FID means these weights. And torch-fidelity unpickles whatever the file holds: so it must hold tensors alone, for
    # it takes no great effort to find another file whose hash begins like theirs.
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(INCEPTION_SHA256) or not _is_harmless(path):
        raise PmaeError(f"--inception {path}: not the published weights, or damaged; {_ADVICE}")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3(INCEPTION, ["2048"], feature_extractor_weights_path=str(path))
    return _Inception(network.to(device))


def _is_harmless(path: Path) -> bool:
    """Whether a file holds tensors and nothing that would be executed."""
    try:
        weight_files.read(path)
    except ValueError:
        return False
    return True


class _Inception:
    name = INCEPTION

    def __init__(self, network: Any) -> None:
        self.network = network

    def features(self, images: Tensor) -> Tensor:
        pixels = (images * 255).round().to(self.network.fc.weight.device, torch.uint8)
        return torch.cat([self.network(part)[0] for part in pixels.split(CHUNK)])

    def logits(self, features: Tensor) -> Tensor:
        # Without the bias: so the score has been taken since its first implementation.
        return features @ self.network.fc.weight.T


def _cached() -> Path:
    """Inception's weights in torch's cache, where they are downloaded to if they are not there.

    Raises:
        PmaeError: they cannot be had.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(INCEPTION_URL).name
    if path.is_file():
        return path
    if constants.HF_HUB_OFFLINE:
        raise PmaeError(f"Inception's weights are not on this machine, and HF_HUB_OFFLINE is set; {_ADVICE}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _impatient():
            torch.hub.download_url_to_file(INCEPTION_URL, str(path), INCEPTION_SHA256)
    except Exception as error:  # of the network, the disk, a proxy: whatever it is, a file helps
        raise PmaeError(f"Inception's weights cannot be had ({type(error).__name__}); {_ADVICE}") from error
    return path


@contextmanager
def _impatient() -> Iterator[None]:
    """New connections give up after `PATIENCE`: torch's download sets no time, and waits for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# -- numbers -----------------------------------------------------------------------------------------------------------


class Moments:
    """Number, mean and covariance of features that come in batches, on the CPU in float64.

    Kept are rows R with `R^T R = sum (x - mean) (x - mean)^T`, at most 2 d of them: squares, and sums of features that
    are far from 0, would lose half of the digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self._rows: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        """Add features `(B, d)`."""
        if not len(features):
            return
        features = features.cpu().double()
        mean, count = features.mean(dim=0), len(features)
        self._rows.append(features - mean)
        if self.count:  # the means of two sets are two more points, as heavy as the sets (Chan et al. 1979)
            step, total = mean - self.mean, self.count + count
            self._rows.append((self.count * count / total) ** 0.5 * step[None])
            mean = self.mean + count / total * step
        self.mean, self.count = mean, self.count + count
        if sum(map(len, self._rows)) > 2 * len(mean):
            self._rows = [self._reduced()]

    def root(self) -> Tensor:
        """R `(r, d)`, r <= d, with `R^T R` the unbiased covariance; of fewer than two features there is none."""
        self._rows = [self._reduced()]
        return self._rows[0] / (self.count - 1) ** 0.5

    def _reduced(self) -> Tensor:
        """At most d rows of the same `R^T R`."""
        rows = torch.cat(self._rows)
        return torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows


def frechet_distance(a: Moments, b: Moments) -> float:
    """`|mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2))` (Heusel et al., arXiv 1706.08500, section 1).

    The same number as torchmetrics' `FrechetInceptionDistance` where that is accurate. It takes the square roots of the
    eigenvalues of `S_a S_b`, where a rounding error of 1e-16 becomes one of 1e-8. When images are nearly the originals,
    and the distance is a millionth of the trace, that was 1e-3 of the distance (2,000 features of 320 dimensions), and
    2.4e-3 with fewer features than dimensions. Here the trace of the root is the sum of the singular values of
    `R_a R_b^T`, with `S = R^T R`: the same cases are right to 1e-9.

    Raises:
        ValueError: fewer than two features on one side.
    """
    if min(a.count, b.count) < 2:
        raise ValueError(f"a covariance needs two features at least, not {min(a.count, b.count)}")
    roots = a.root(), b.root()
    overlap = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    distance = (a.mean - b.mean).square().sum() + sum(root.square().sum() for root in roots) - 2 * overlap
    return max(0.0, float(distance))  # equal sets may come out at -1e-14


class InceptionScore:
    """`exp(E_x KL(p(y | x) || p(y)))` (Salimans et al., arXiv 1606.03498): how clear and how varied images are.

    As in torch-fidelity, the mean and deviation over `PARTS` parts of the images, in float64. Image i belongs to part
    i modulo `PARTS`, which needs no shuffling: the score does not depend on random numbers, and only sums are kept.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.classes = 0
        self._marginals = torch.zeros(PARTS, 0, dtype=torch.float64)
        self._negative_entropies = torch.zeros(PARTS, dtype=torch.float64)

    def update(self, logits: Tensor) -> None:
        """Add images by their logits `(B, K)`."""
        log_p = logits.cpu().double().log_softmax(dim=1)
        p = log_p.exp()
        if not self.seen:
            self.classes = logits.shape[1]
            self._marginals = torch.zeros(PARTS, self.classes, dtype=torch.float64)
        part = torch.arange(self.seen, self.seen + len(logits)) % PARTS
        self._marginals.index_add_(0, part, p)
        self._negative_entropies.index_add_(0, part, (p * log_p).sum(dim=1))
        self.seen += len(logits)

    def compute(self) -> tuple[float, float]:
        """Mean and standard deviation over the parts that have images; at least 1, at most the images in a part.

        Raises:
            ValueError: there are no images.
        """
        if not self.seen:
            raise ValueError("an Inception score needs images")
        parts = min(PARTS, self.seen)
        counts = torch.arange(self.seen).remainder(PARTS).bincount()[:, None]
        marginal = self._marginals[:parts] / counts
        # The mean over images of sum p log(p / q) is the mean of sum p log p, less sum q log q.
        divergences = self._negative_entropies[:parts] / counts[:, 0] - torch.special.xlogy(marginal, marginal).sum(1)
        scores = divergences.exp()
        return float(scores.mean()), float(scores.std(correction=0))


class Fidelity:
    """Originals and versions of them as one extractor sees them.

    Args:
        extractor: the network; a `Classifier` gives Inception scores, too.
        versions: names of what is compared with the originals.
    """

    def __init__(self, extractor: Extractor, versions: tuple[str, ...]) -> None:
        self.extractor = extractor
        self.distance, self.score = (
            ("fid", "is") if extractor.name == INCEPTION else (f"fd-{extractor.name}", f"is-{extractor.name}")
        )
        self._moments = {name: Moments() for name in (ORIGINALS, *versions)}
        self._scores = {name: InceptionScore() for name in self._moments} if isinstance(extractor, Classifier) else {}

    def update(self, pictures: Mapping[str, Tensor]) -> None:
        """Add images `(B, 1 or 3, H, W)` in [0, 1] of every version and of `ORIGINALS`; a grey one is made colour."""
        for name, moments in self._moments.items():
            features = self.extractor.features(pictures[name].expand(-1, 3, -1, -1))
            moments.update(features)
            if isinstance(self.extractor, Classifier):
                self._scores[name].update(self.extractor.logits(features))

    def results(self) -> dict[str, dict[str, float]]:
        """By version: the distance from the originals, and the Inception score `is` with its deviation `is_std`."""
        found: dict[str, dict[str, float]] = {name: {} for name in self._moments}
        if self._moments[ORIGINALS].count >= 2:
            for name in found.keys() - {ORIGINALS}:
                found[name][self.distance] = frechet_distance(self._moments[ORIGINALS], self._moments[name])
        for name, score in self._scores.items():
            if score.seen:
                mean, deviation = score.compute()
                found[name] |= {self.score: mean, f"{self.score}_std": deviation}
        return found

    def notes(self) -> list[str]:
        """What a reader of the numbers should know, a sentence each."""
        notes = []
        count, d = self._moments[ORIGINALS].count, len(self._moments[ORIGINALS].mean)
        if count < 2:
            notes.append(f"{self.distance}: needs two images at least")
        elif count < d:
            notes.append(
                f"{self.distance}: of {count} images in {d} dimensions; fewer images than dimensions make it larger, "
                "so compare it only among models measured on the same images"
            )
        score = self._scores.get(ORIGINALS)
        if score is not None and score.seen < PARTS * score.classes:
            notes.append(
                f"{self.score}: of {score.seen} images in {PARTS} parts and {score.classes} classes; it grows with the "
                "number of images, so compare it with that of the originals"
            )
        return notes
