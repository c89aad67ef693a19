"""The parts of an evaluation: what each depends on, and how it is measured."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from perceptual_mae.data import EvalStream, Source, auto_workers, eval_batches
from perceptual_mae.encoders import open_encoder
from perceptual_mae.evaluate.config import EvaluateConfig, Pool
from perceptual_mae.evaluate.feature_cache import default_cache, images_digest, weights_digest
from perceptual_mae.evaluate.features import Features, Progress, extract
from perceptual_mae.evaluate.fidelity import Extractor, encoder_extractor, inception
from perceptual_mae.evaluate.knn import KS, knn_scores
from perceptual_mae.evaluate.linear_probe import cached_probe
from perceptual_mae.evaluate.mae_probe import mae_probe
from perceptual_mae.evaluate.probe_config import LinearProbeConfig, MaeProbeConfig
from perceptual_mae.evaluate.reconstruction_metrics import measure_reconstructions
from perceptual_mae.measure.subject import Images, Subject
from perceptual_mae.measure.telling import Tell
from perceptual_mae.pretrain.device import choose_device

POOL_WORDS = {
    "cls": "[CLS] token",
    "mean": "mean of the patch tokens",
    "both": "[CLS] token and mean of the patch tokens side by side",
}
VERSION = 1
"""Of what is measured here: another one makes earlier results worthless."""


@dataclass(frozen=True)
class Part:
    """Something to measure.

    Attributes:
        name: in `results.json`: `reconstruction`, `knn/mean`, `linear/cls`, ...
        protocol: how, in a sentence, so that the number can be compared honestly.
        depends: everything but code that the numbers depend on, ready for JSON.
        measure: does it; the result is ready for JSON.
    """

    name: str
    protocol: str
    depends: dict[str, Any]
    measure: Callable[[], dict[str, Any]]


def parts(config: EvaluateConfig, subject: Subject, images: Images, folder: Path, tell: Tell) -> Iterator[Part]:
    """The parts of an evaluation that this encoder and these images allow, in the order to measure them.

    Raises:
        UsageError, PmaeError: a network for distances that cannot be had.
    """
    if "reconstruction" in config.parts and subject.autoencoder is not None:
        yield _reconstruction(config, subject, images)
    if images.train is None:
        return
    common = {
        "weights": weights_digest(subject.encoder),
        "block": config.block,
        "train": images_digest(images.train),
        "test": images_digest(images.test),
        "seed": config.seed,
    }
    for pool in config.pools:
        if "knn" in config.parts:
            yield _knn(config, subject, images, pool, common, tell)
        if "linear" in config.parts:
            probe = _cached if config.protocol == "cached" else _mae
            yield probe(config, subject, images, pool, common, tell, folder)


def _reconstruction(config: EvaluateConfig, subject: Subject, images: Images) -> Part:
    model, run = subject.autoencoder, subject.run
    assert model is not None
    assert run is not None
    ratio = run.config.mask_ratio if config.mask_ratio is None else config.mask_ratio
    encoders = [open_encoder(spec, None, choose_device(config.device))[0] for spec in config.fd]
    extractors: list[Extractor] = [encoder_extractor(encoder) for encoder in encoders]
    if config.inception != "none":
        weights = None if config.inception == "auto" else Path(config.inception)
        extractors.append(inception(weights, choose_device(config.device)))
    names = [extractor.name for extractor in extractors]

    def measure() -> dict[str, Any]:
        stream = eval_stream(config, images.test, model.image_size, model.in_channels)
        return measure_reconstructions(model, stream, mask_ratio=ratio, seed=config.seed, extractors=extractors)

    distances = f"; Fréchet distance in the features of {', '.join(names)}" if names else ""
    return Part(
        "reconstruction",
        f"{ratio:.0%} of the patches removed, the same ones for every model; central crops of {images.split}; "
        f"PSNR in dB, the mean over images; SSIM with an 11 x 11 Gaussian window{distances}",
        {
            "model": weights_digest(subject.encoder),
            "run": str(run.path.resolve()),
            "test": images_digest(images.test),
            "mask_ratio": ratio,
            "seed": config.seed,
            "distances": [*map(weights_digest, encoders), *names],
        },
        measure,
    )


def eval_stream(config: EvaluateConfig, source: Source, size: tuple[int, int], channels: int) -> EvalStream:
    """Images in their central crops, as an evaluation reads them."""
    return eval_batches(
        source, image_size=size, channels=channels, batch_size=config.batch_size, workers=workers_of(config)
    )


def workers_of(config: EvaluateConfig) -> int:
    """Processes that read images."""
    return auto_workers(choose_device(config.device) == "cuda") if config.workers == "auto" else config.workers


def _knn(
    config: EvaluateConfig, subject: Subject, images: Images, pool: Pool, common: dict[str, Any], tell: Tell
) -> Part:
    def measure() -> dict[str, Any]:
        train, test = (_features(config, subject, source, 0, tell) for source in _both(images))
        found = knn_scores(train.pooled(pool), train.labels, test.pooled(pool), test.labels)
        return {str(k): scores.as_dict() for k, scores in found.items()} | {"skipped": train.skipped + test.skipped}

    return Part(
        f"knn/{pool}",
        f"k nearest neighbours (k = {', '.join(map(str, KS))}) by cosine similarity of the {POOL_WORDS[pool]}, votes "
        f"weighted by exp(similarity / 0.07); central crops; tested on {images.split}",
        {"pool": pool, "ks": list(KS), **common},
        measure,
    )


def _cached(
    config: EvaluateConfig,
    subject: Subject,
    images: Images,
    pool: Pool,
    common: dict[str, Any],
    tell: Tell,
    folder: Path,
) -> Part:
    settings = LinearProbeConfig(seed=config.seed)
    settings = replace(settings, epochs=config.epochs) if config.epochs else settings

    def measure() -> dict[str, Any]:
        train = _features(config, subject, _both(images)[0], config.views, tell)
        test = _features(config, subject, images.test, 0, tell)
        vectors, labels = train.pooled(pool), train.labels
        if config.views:
            # Views of an image follow each other: (n K, D) to (K, n, D).
            vectors, labels = vectors.unflatten(0, (-1, config.views)).transpose(0, 1), labels[:: config.views]
        tell("training the linear probe", 0, 0)
        result = cached_probe(vectors, labels, test.pooled(pool), test.labels, settings)
        return result.as_dict() | {"skipped": train.skipped + test.skipped}

    crops = f"{config.views} random crops of each training image" if config.views else "central crops"
    return Part(
        f"linear/{pool}",
        f"linear probe, protocol cached: {len(settings.learning_rates)} learning rates of SGD for {settings.epochs} "
        f"epochs on the standardised {POOL_WORDS[pool]}, computed once ({crops}); the rate is chosen on "
        f"{settings.held_out:.0%} of the training images; tested on {images.split}",
        {"pool": pool, "views": config.views, "probe": asdict(settings), **common},
        measure,
    )


def _mae(
    config: EvaluateConfig,
    subject: Subject,
    images: Images,
    pool: Pool,
    common: dict[str, Any],
    tell: Tell,
    folder: Path,
) -> Part:
    settings = MaeProbeConfig(seed=config.seed)
    if config.epochs:
        warmup = min(settings.warmup_epochs, config.epochs // 9)
        settings = replace(settings, epochs=config.epochs, warmup_epochs=warmup)
    train, test = _both(images)
    depends = {"pool": pool, "probe": asdict(settings), **common}

    def measure() -> dict[str, Any]:
        return mae_probe(
            subject.encoder,
            train,
            test,
            settings,
            pool=pool,
            block=config.block,
            folder=folder / f"mae-probe-{pool}",
            workers=workers_of(config),
            progress=partial(tell, f"linear probe on the {POOL_WORDS[pool]}"),
        ).as_dict()

    return Part(
        f"linear/{pool}",
        f"linear probe, protocol mae: {settings.epochs} epochs of random resized crops through the frozen encoder, "
        f"BatchNorm without affine and a linear layer on the {POOL_WORDS[pool]}, LARS at {settings.lr:g} with "
        f"{settings.warmup_epochs} epochs of warm-up and cosine; tested on {images.split}",
        depends,
        measure,
    )


def _both(images: Images) -> tuple[Source, Source]:
    assert images.train is not None
    return images.train, images.test


def _features(config: EvaluateConfig, subject: Subject, source: Source, views: int, tell: Tell) -> Features:
    progress: Progress = partial(tell, f"features of {source.name}")
    return extract(
        subject.encoder,
        source,
        block=config.block,
        batch_size=config.batch_size,
        workers=workers_of(config),
        cache=Path(config.cache).expanduser() if config.cache else default_cache(),
        views=views,
        seed=config.seed,
        progress=progress,
    )
