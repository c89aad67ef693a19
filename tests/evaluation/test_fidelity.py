"""Fréchet distance and Inception score against SciPy, NumPy and torch-fidelity in float64; networks and weights."""

import contextlib
import hashlib
import http.server
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import scipy.linalg
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_isc import isc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.transforms.v2.functional import gaussian_blur

from perceptual_mae.data import eval_batches, open_source, to_float
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.evaluation import fidelity
from perceptual_mae.evaluation.fidelity import (
    INCEPTION,
    PARTS,
    Classifier,
    Fidelity,
    InceptionScore,
    Moments,
    encoder_extractor,
    frechet_distance,
    inception,
)
from perceptual_mae.models.encoder import Encoder

ROOT = Path(__file__).parents[2]

# -- Fréchet distance --------------------------------------------------------------------------------------------------


def moments(features: np.ndarray, cut: int = 64) -> Moments:
    found = Moments()
    for part in torch.from_numpy(features).split(cut):
        found.update(part)
    return found


def pair(n: int, d: int, noise: float, offset: float = 0.0, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Features as ReLUs give them, of very different scales, float32; the second set is the first with noise."""
    rng = np.random.default_rng(n + d)
    scale = 10 ** (spread * rng.normal(size=d))
    x = np.maximum(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / d**0.5, 0) * scale
    y = x + noise * rng.normal(size=x.shape) * scale
    return (x + offset).astype(np.float32), (y + offset).astype(np.float32)


def by_singular_values(x: np.ndarray, y: np.ndarray) -> float:
    """From the features themselves: |X Y^T| of centred features has the singular values that the root's trace sums."""
    a, b = ((z - z.mean(axis=0)) / (len(z) - 1) ** 0.5 for z in (x.astype(np.float64), y.astype(np.float64)))
    mean = x.mean(axis=0, dtype=np.float64) - y.mean(axis=0, dtype=np.float64)
    overlap = scipy.linalg.svdvals(a @ b.T).sum()
    return float(mean @ mean + (a**2).sum() + (b**2).sum() - 2 * overlap)


@pytest.mark.parametrize("cut", [1, 64, 500])
def test_moments_equal_numpy_however_batches_are_cut(cut: int) -> None:
    x, _ = pair(500, 20, 0.1, offset=1000)
    found = moments(x, cut)
    found.update(torch.empty(0, 20))
    assert found.count == 500
    np.testing.assert_allclose(found.mean.numpy(), x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    covariance = np.cov(x.astype(np.float64), rowvar=False)
    root = found.root().numpy()
    assert root.shape == (20, 20)
    np.testing.assert_allclose(root.T @ root, covariance, rtol=1e-9, atol=1e-12 * covariance.max())


def test_moments_can_be_looked_at_between_updates() -> None:
    x, y = pair(300, 40, 0.1)
    found = Moments()
    for part in torch.from_numpy(x).split(17):
        found.update(part)
        found.root()
    assert frechet_distance(found, moments(y)) == pytest.approx(by_singular_values(x, y), rel=1e-9)


@pytest.mark.parametrize(("n", "d", "noise", "offset"), [(500, 64, 0.5, 0), (800, 96, 0.1, 0), (500, 64, 0.1, 100)])
def test_equals_the_matrix_root_of_scipy(n: int, d: int, noise: float, offset: float) -> None:
    x, y = pair(n, d, noise, offset, spread=0.5)
    a, b = (np.cov(z.astype(np.float64), rowvar=False) for z in (x, y))
    mean = x.mean(axis=0, dtype=np.float64) - y.mean(axis=0, dtype=np.float64)
    expected = mean @ mean + np.trace(a) + np.trace(b) - 2 * np.trace(scipy.linalg.sqrtm(a @ b).real)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("n", "d", "noise", "offset", "spread"),
    [
        (500, 64, 0.5, 0, 1),
        (500, 64, 0.005, 0, 1),  # a distance of a millionth of the trace
        (60, 320, 0.05, 1, 1),  # fewer features than dimensions
        (60, 320, 0.005, 1, 1),
        (2, 30, 0.1, 0, 1),
        (300, 64, 0.01, 1e4, 1),  # far from 0
        (300, 64, 0.1, 0, 3),  # scales from 1e-7 to 1e7
    ],
)
def test_equals_float64_where_roots_are_fragile(n: int, d: int, noise: float, offset: float, spread: float) -> None:
    x, y = pair(n, d, noise, offset, spread)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(by_singular_values(x, y), rel=1e-7)


def test_equals_torchmetrics_where_that_is_accurate() -> None:
    class Given(nn.Module):
        num_features = 48

        def forward(self, features: Tensor) -> Tensor:
            return features

    x, y = pair(400, 48, 0.5)
    metric = FrechetInceptionDistance(Given(), normalize=True)
    metric.update(torch.from_numpy(x), real=True)
    metric.update(torch.from_numpy(y[:300]), real=False)
    assert frechet_distance(moments(x), moments(y[:300])) == pytest.approx(float(metric.compute()), rel=1e-5)


@pytest.mark.parametrize("n", [300, 30])
def test_what_must_hold_of_a_distance(n: int) -> None:
    x, y = (z.astype(np.float64) for z in pair(n, 50, 0.3))
    size = (x.mean(axis=0) ** 2).sum() + x.var(axis=0, ddof=1).sum()
    assert 0 <= frechet_distance(moments(x), moments(x)) < 1e-12 * size
    assert 0 <= frechet_distance(moments(x), moments(x[::-1].copy(), cut=7)) < 1e-12 * size
    assert frechet_distance(moments(x), moments(x + 2)) == pytest.approx(50 * 4, rel=1e-9)
    assert frechet_distance(moments(x), moments(1.5 * x)) == pytest.approx(0.25 * size, rel=1e-9)
    there, back = frechet_distance(moments(x), moments(y)), frechet_distance(moments(y), moments(x))
    assert there == pytest.approx(back, rel=1e-9)
    assert there > 1e-3 * size


def test_one_image_has_no_covariance() -> None:
    x, y = pair(5, 8, 0.1)
    with pytest.raises(ValueError, match="two features at least, not 1"):
        frechet_distance(moments(x[:1]), moments(y))


# -- Inception score ---------------------------------------------------------------------------------------------------


def score(logits: Tensor, cut: int = 64) -> tuple[float, float]:
    found = InceptionScore()
    for part in logits.split(cut):
        found.update(part)
    return found.compute()


def test_inception_score_equals_torch_fidelity() -> None:
    logits = 3 * torch.randn(200, 30, generator=torch.Generator().manual_seed(0))
    parts = torch.cat([logits[first::PARTS] for first in range(PARTS)])
    expected = isc_features_to_metric(parts, splits=PARTS, shuffle=False)
    mean, deviation = score(logits)
    assert mean == pytest.approx(expected["inception_score_mean"], rel=1e-9)
    assert deviation == pytest.approx(expected["inception_score_std"], rel=1e-9)
    assert 2 < mean < 20
    assert deviation > 0.01


@pytest.mark.parametrize("n", [3, 47])
def test_inception_score_equals_its_formula(n: int) -> None:
    logits = 5 * torch.randn(n, 12, generator=torch.Generator().manual_seed(1))
    p = np.exp(logits.double().numpy())
    p /= p.sum(axis=1, keepdims=True)
    scores = []
    for first in range(min(n, PARTS)):
        part = p[first::PARTS]
        q = part.mean(axis=0)
        scores.append(np.exp(np.mean([sum(row[k] * np.log(row[k] / q[k]) for k in range(12)) for row in part])))
    assert score(logits, cut=5) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-9)


def test_inception_score_of_certain_and_of_unsure_classifiers() -> None:
    # Each of ten parts sees every one of four classes equally often, and the classifier is certain.
    classes = torch.arange(4).repeat_interleave(PARTS).repeat(3)
    assert score(1000 * torch.eye(4)[classes]) == pytest.approx((4, 0))
    assert score(torch.zeros(100, 4)) == pytest.approx((1, 0))
    assert score(torch.randn(1, 4)) == pytest.approx((1, 0))
    with pytest.raises(ValueError, match="needs images"):
        InceptionScore().compute()


# -- encoders ----------------------------------------------------------------------------------------------------------


def vit(channels: int = 3) -> Encoder:
    torch.manual_seed(0)
    size = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    network = timm.models.VisionTransformer(num_classes=0, in_chans=channels, **size)
    return Encoder(network, "small", (32, 48), [0.5] * channels, [0.25] * channels)


def test_features_of_an_encoder_are_its_first_token(photographs: Tensor) -> None:
    encoder, images = vit(), to_float(photographs)
    extractor = encoder_extractor(encoder)
    assert extractor.name == "small"
    assert not isinstance(extractor, Classifier)
    torch.testing.assert_close(extractor.features(images), encoder(images)[:, 0])
    enlarged = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(extractor.features(enlarged), encoder(images)[:, 0], atol=0.1, rtol=0.1)
    assert not torch.equal(extractor.features(enlarged), encoder(images)[:, 0])


def test_features_of_a_network_without_a_class_token_are_its_pooled_map(photographs: Tensor) -> None:
    network = timm.create_model("resnet10t", pretrained=False).eval()
    extractor = encoder_extractor(Encoder(network, "resnet10t", (64, 64), [0.5] * 3, [0.25] * 3))
    images = torch.nn.functional.interpolate(to_float(photographs), (64, 64), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features((images - 0.5) / 0.25), pre_logits=True)
    torch.testing.assert_close(extractor.features(to_float(photographs)), expected, atol=1e-5, rtol=1e-4)


def test_an_encoder_of_other_channels_is_refused() -> None:
    with pytest.raises(UsageError, match="small: takes 5 channels"):
        encoder_extractor(vit(5))


def test_an_encoder_is_not_taken_for_inception() -> None:
    encoder = vit()
    encoder.name = "inception"
    with pytest.raises(UsageError, match="its distance would be taken for FID"):
        encoder_extractor(encoder)


def test_blurred_photographs_are_further_away_the_more_they_are_blurred() -> None:
    weights = ROOT.parent / "shared" / "weights" / "tf_efficientnet_lite0.safetensors"
    data = ROOT.parent / "shared" / "data" / "imagenette-96"
    if not weights.exists() or not data.exists():
        pytest.skip("no ../shared/weights and ../shared/data beside the repository")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(load_file(weights))
    extractor = encoder_extractor(Encoder(network, "lite0", (64, 64), [0.5] * 3, [0.5] * 3))
    source = open_source(str(data), "validation")
    assert source is not None
    batches = eval_batches(source, range(0, 3900, 26), image_size=(64, 64), batch_size=50)  # of all classes
    images = to_float(torch.cat([batch.images for batch in batches]))
    versions = {"again": images[1::2]} | {
        f"sigma {sigma}": gaussian_blur(images[1::2], [13, 13], [sigma, sigma]) for sigma in (1.5, 3)
    }
    judge = Fidelity(extractor, tuple(versions))
    with torch.inference_mode():
        judge.update({"originals": images[::2], **versions})
    results = judge.results()
    distances = [results[name]["fd-lite0"] for name in versions]
    assert distances == sorted(distances), distances
    assert distances[-1] > 1.1 * distances[0] > 0, distances


# -- Inception and its weights -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with weights of Inception's shapes, all cut from the same numbers so that it is small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        with torch.device("meta"):
            network = FeatureExtractorInceptionV3("any", ["2048"])
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    noise = torch.randn(max(shape.numel() for shape in shapes.values()), generator=torch.Generator().manual_seed(0))
    state = {name: noise[: shape.numel()].view(shape) for name, shape in shapes.items() if name.endswith("weight")}
    for name in shapes.keys() - state.keys():
        state[name] = torch.zeros(()).expand(shapes[name])
    for name in [name for name in shapes if name.endswith(".bn.weight")]:
        layer = name.removesuffix("bn.weight")
        state[name] = torch.ones(()).expand(shapes[name])
        # What a convolution of unit normal weights multiplies squares by, halved: ReLUs halve them too.
        fan_in = shapes[f"{layer}conv.weight"][1:].numel()
        state[f"{layer}bn.running_var"] = torch.tensor(fan_in / 2).expand(shapes[name])
    path = tmp_path_factory.mktemp("inception") / "any-name.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def published(random_inception: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same file, as if it were the published one."""
    digest = hashlib.sha256(random_inception.read_bytes()).hexdigest()
    monkeypatch.setattr(fidelity, "INCEPTION_SHA256", digest[:8])
    return random_inception


def test_inception_sees_the_8_bit_images(published: Path, photographs: Tensor) -> None:
    extractor = inception(published)
    features = extractor.features((photographs[:2] - 0.3).clamp(min=0) / 255)  # rounded, not cut off
    reference = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=published)
    expected, logits = reference(photographs[:2])
    assert features.shape == (2, 2048)
    assert (expected[0] - expected[1]).abs().mean() > 0.1 * expected.std()
    torch.testing.assert_close(features, expected)
    assert isinstance(extractor, Classifier)
    torch.testing.assert_close(extractor.logits(features), logits)
    judge = Fidelity(extractor, ("output",))
    assert (extractor.name, judge.distance, judge.score) == (INCEPTION, "fid", "is")


def one_line(error: pytest.ExceptionInfo[PmaeError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in (*words, "--inception FILE", "https://github.com/toshas/torch-fidelity/", "6726825d.pth"):
        assert word in text, text


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        inception(tmp_path / "inception.pth")
    one_line(error, "inception.pth", "no such file")


def test_a_file_that_is_not_the_published_one_is_not_unpickled(
    random_inception: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PmaeError) as error:
        inception(random_inception)
    one_line(error, "any-name.pth", "not the published weights")

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    bomb = tmp_path / fidelity.INCEPTION_URL.rpartition("/")[2]
    bomb.write_bytes(pickle.dumps(Bomb()))
    for digest in (fidelity.INCEPTION_SHA256, hashlib.sha256(bomb.read_bytes()).hexdigest()[:8]):
        monkeypatch.setattr(fidelity, "INCEPTION_SHA256", digest)  # also where somebody has made its hash fit
        with pytest.raises(PmaeError, match="not the published weights"):
            inception(bomb)
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache, empty, on a machine that has a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub" / "checkpoints"


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            """Not a word."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_weights_are_downloaded_once(published: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(published.parent) as address:
        monkeypatch.setattr(fidelity, "INCEPTION_URL", f"{address}/{published.name}")
        inception()
    assert [path.name for path in cache.iterdir()] == [published.name]
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *args: pytest.fail("downloaded again"))
    assert inception().name == INCEPTION


def test_other_weights_than_expected_are_not_kept(
    random_inception: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(random_inception.parent) as address:
        monkeypatch.setattr(fidelity, "INCEPTION_URL", f"{address}/{random_inception.name}")
        with pytest.raises(PmaeError) as error:
            inception()
    one_line(error, "cannot be had (RuntimeError)")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("answers", ["never", "not at all"])
def test_without_a_network_it_gives_up_soon(answers: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(fidelity, "INCEPTION_URL", f"http://127.0.0.1:{server.getsockname()[1]}/weights.pth")
        if answers == "not at all":
            server.close()
        started = time.monotonic()
        with pytest.raises(PmaeError) as error:
            inception()
    assert time.monotonic() - started < 5
    one_line(error, "cannot be had")
    assert list(cache.iterdir()) == []
    assert socket.getdefaulttimeout() is None


def test_offline_the_network_is_not_tried(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *args: pytest.fail("tried"))
    with pytest.raises(PmaeError) as error:
        inception()
    one_line(error, "HF_HUB_OFFLINE is set")
