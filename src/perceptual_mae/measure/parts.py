"""The parts of an evaluation: what each depends on, and how it is measured."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from perceptual_mae.data import MAX_PIXELS, Source, choose_workers, eval_batches
from perceptual_mae.encoders import open_encoder
from perceptual_mae.encoders.open import Opened, encoder_of
from perceptual_mae.errors import UsageError, said_of
from perceptual_mae.evaluation.config import EvaluateConfig, Pool
from perceptual_mae.evaluation.feature_cache import default_cache, images_digest, weights_digest
from perceptual_mae.evaluation.features import Features, Reading, extract
from perceptual_mae.evaluation.fidelity import Extractor, encoder_extractor, inception
from perceptual_mae.evaluation.knn import KS, knn_scores
from perceptual_mae.evaluation.linear_probe import cached_probe
from perceptual_mae.evaluation.mae_probe import mae_probe
from perceptual_mae.evaluation.probe_config import LinearProbeConfig, MaeProbeConfig
from perceptual_mae.evaluation.reconstruction_metrics import measure_reconstructions
from perceptual_mae.measure.subject import Images
from perceptual_mae.measure.telling import Tell
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.paths import user_path
from perceptual_mae.training.device import choose_device

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


@dataclass(frozen=True)
class Measurements:
    """The parts that an encoder and some images allow.

    Attributes:
        config: what is asked for.
        subject: what is measured.
        images: on what.
        folder: where a part that takes hours keeps its state.
        tell: told how far it is.
    """

    config: EvaluateConfig
    subject: Opened
    images: Images
    folder: Path
    tell: Tell

    def __iter__(self) -> Iterator[Part]:
        """The parts, in the order to measure them.

        Raises:
            UsageError, PmaeError: a network for distances that cannot be had.
        """
        if "reconstruction" in self.config.parts and self.subject.autoencoder is not None:
            yield self.reconstruction(self.subject.autoencoder)
        if self.images.train is None:
            return
        probe = self.cached if self.config.protocol == "cached" else self.mae
        for pool in self.config.pools:
            if "knn" in self.config.parts:
                yield self.knn(self.images.train, pool)
            if "linear" in self.config.parts:
                yield probe(self.images.train, pool)

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the encoder."""
        return weights_digest(self.subject.encoder)

    @cached_property
    def model_digest(self) -> str:
        """Digest of the run's encoder at the run's own size, which reconstructions have whatever size is asked for.

        The decoder's weights are of the same checkpoint: another one has another encoder, too.
        """
        subject, model = self.subject, self.subject.autoencoder
        if subject.run is None or model is None or model.image_size == subject.encoder.image_size:
            return self.weights_digest
        return weights_digest(encoder_of(subject.run, model)[0])

    @cached_property
    def train_digest(self) -> str | None:
        """Digest of the images that are learnt from: they are looked at only for a part that does."""
        return None if self.images.train is None else images_digest(self.images.train)

    @cached_property
    def test_digest(self) -> str:
        """Digest of the images that are measured on."""
        return images_digest(self.images.test)

    def are_of(self, depends: Mapping[str, Any]) -> bool:
        """Whether a part that depends on this is of the same encoder and images, however it was measured."""
        names = [name for name in ("model", "weights", "train", "test") if name in depends]
        return all(depends[name] == getattr(self, f"{name}_digest") for name in names)

    def today(self, depends: Mapping[str, Any]) -> dict[str, Any]:
        """What a part that an earlier version measured depends on, as this one writes it."""
        found, depth = dict(depends), self.subject.encoder.depth
        if found.get("model") == self.weights_digest:  # which has the size of features
            found["model"] = self.model_digest
        if found.get("block") in range(-depth, 0):
            found["block"] += depth
        return found

    # -- reconstruction ------------------------------------------------------------------------------------------------

    def reconstruction(self, model: MaskedAutoencoder) -> Part:
        """Errors of reconstructions, and distances in the features of other networks."""
        config, ratio = self.config, mask_ratio(self.config, self.subject)
        with said_of("--fd", usual="ENCODER"):
            encoders = [open_encoder(spec, None, self.device)[0] for spec in config.fd]
        extractors: list[Extractor] = [encoder_extractor(encoder) for encoder in encoders]
        if config.inception != "none":
            weights = None if config.inception == "auto" else user_path(config.inception)
            extractors.append(inception(weights, self.device))
        names = [extractor.name for extractor in extractors]
        if len(set(names)) < len(names):
            shared = next(name for name in names if names.count(name) > 1)
            raise UsageError(
                f"--fd {','.join(config.fd)}: two are called {shared}, and so would be their distances; "
                "give one of them a file or folder of another name"
            )

        def measure() -> dict[str, Any]:
            batches = eval_batches(
                self.images.test,
                image_size=model.image_size,
                channels=model.in_channels,
                batch_size=config.batch_size,
                max_pixels=self.subject.max_pixels,
                workers=self.workers,
            )
            found = measure_reconstructions(model, batches, mask_ratio=ratio, seed=config.seed, extractors=extractors)
            return found | {"skipped": len(self.images.test) - found["images"]} if found else found

        high, wide = model.image_size
        distances = f"; Fréchet distance in the features of {', '.join(names)}" if names else ""
        return Part(
            "reconstruction",
            f"{ratio:.0%} of the patches removed, the same ones for every model; central crops ({high} x {wide} "
            f"pixels) of {self.images.split}; PSNR in dB, the mean over images; SSIM with an 11 x 11 Gaussian window"
            f"{distances}",
            {
                "model": self.model_digest,
                "test": self.test_digest,
                "mask_ratio": ratio,
                "seed": config.seed,
                "distances": [*map(weights_digest, encoders), *names],
                **self.limit,
            },
            measure,
        )

    # -- classification ------------------------------------------------------------------------------------------------

    def knn(self, train: Source, pool: Pool) -> Part:
        """Nearest neighbours."""

        def measure() -> dict[str, Any]:
            learnt, tested = self.features(train), self.features(self.images.test)
            found = knn_scores(learnt.pooled(pool), learnt.labels, tested.pooled(pool), tested.labels)
            skipped = {"skipped": learnt.skipped + tested.skipped}
            return {str(k): scores.as_dict() for k, scores in found.items()} | skipped

        return Part(
            f"knn/{pool}",
            f"k nearest neighbours (k = {', '.join(map(str, KS))}) by cosine similarity of the {POOL_WORDS[pool]}, "
            f"votes weighted by exp(similarity / 0.07); central crops; tested on {self.images.split}{self.of_block}",
            {"pool": pool, "ks": list(KS), **self.common},
            measure,
        )

    def cached(self, train: Source, pool: Pool) -> Part:
        """The linear probe on features that are computed once."""
        settings, views = LinearProbeConfig(seed=self.config.seed), self.config.views
        settings = replace(settings, epochs=self.config.epochs) if self.config.epochs else settings

        def measure() -> dict[str, Any]:
            learnt, tested = self.features(train, views), self.features(self.images.test)
            vectors, labels = learnt.pooled(pool), learnt.labels
            if views:
                # Views of an image follow each other: (n K, D) to (K, n, D).
                vectors, labels = vectors.unflatten(0, (-1, views)).transpose(0, 1), labels[::views]
            self.tell("training the linear probe", 0, 0)
            result = cached_probe(vectors, labels, tested.pooled(pool), tested.labels, settings)
            return result.as_dict() | {"skipped": learnt.skipped + tested.skipped}

        crops = f"{views} random crops of each training image" if views else "central crops"
        return Part(
            f"linear/{pool}",
            f"linear probe, protocol cached: {len(settings.learning_rates)} learning rates of SGD for "
            f"{settings.epochs} epochs on the standardised {POOL_WORDS[pool]}, computed once ({crops}); the rate is "
            f"chosen on {settings.held_out:.0%} of the training images; tested on {self.images.split}{self.of_block}",
            {"pool": pool, "views": views, "probe": asdict(settings), **self.common},
            measure,
        )

    def mae(self, train: Source, pool: Pool) -> Part:
        """The linear probe of the MAE paper."""
        settings = MaeProbeConfig(seed=self.config.seed)
        if self.config.epochs:
            warmup = min(settings.warmup_epochs, self.config.epochs // 9)
            settings = replace(settings, epochs=self.config.epochs, warmup_epochs=warmup)

        def measure() -> dict[str, Any]:
            return mae_probe(
                self.subject.encoder,
                train,
                self.images.test,
                settings,
                pool=pool,
                block=self.config.block,
                folder=self.folder / f"mae-probe-{pool}",
                workers=self.workers,
                max_pixels=self.subject.max_pixels,
                progress=partial(self.tell, f"linear probe on the {POOL_WORDS[pool]}"),
            ).as_dict()

        return Part(
            f"linear/{pool}",
            f"linear probe, protocol mae: {settings.epochs} epochs of random resized crops through the frozen encoder, "
            f"BatchNorm without affine and a linear layer on the {POOL_WORDS[pool]}, LARS at {settings.lr:g} with "
            f"{settings.warmup_epochs} epochs of warm-up and cosine; tested on {self.images.split}{self.of_block}",
            {"pool": pool, "probe": asdict(settings), **self.common},
            measure,
        )

    @property
    def common(self) -> dict[str, Any]:
        """What every classification depends on."""
        digests = {"weights": self.weights_digest, "train": self.train_digest, "test": self.test_digest}
        return digests | {"block": self.block, "seed": self.config.seed} | self.limit

    @property
    def limit(self) -> dict[str, int]:
        """The largest image that is read, where it is not the usual one: what was measured before it counted stays."""
        limit = self.subject.max_pixels
        return {"max_pixels": limit} if limit != MAX_PIXELS else {}

    @property
    def block(self) -> int | None:
        """The block that tokens come from, counted from 0; None: they are those of the whole network.

        Raises:
            UsageError: the encoder has no such block.
        """
        return Reading(self.config.block).block_index(self.subject.encoder)

    @property
    def of_block(self) -> str:
        """The same for a protocol; nothing where it is the end of the network."""
        block, last = self.block, self.subject.encoder.depth - 1
        return "" if block is None else f"; tokens are the output of block {block} (0 to {last}), before the final norm"

    def features(self, source: Source, views: int = 0) -> Features:
        """Features of the images of a source, from the cache where they are there."""
        return extract(
            self.subject.encoder,
            source,
            block=self.config.block,
            batch_size=self.config.batch_size,
            workers=self.workers,
            max_pixels=self.subject.max_pixels,
            cache=user_path(self.config.cache) if self.config.cache else default_cache(),
            views=views,
            seed=self.config.seed,
            progress=partial(self.tell, f"features of {source.name}"),
        )

    @property
    def device(self) -> str:
        """Where networks compute."""
        return choose_device(self.config.device)

    @property
    def workers(self) -> int:
        """Processes that read images."""
        return choose_workers(self.config.workers, self.device == "cuda")


def mask_ratio(config: EvaluateConfig, subject: Opened) -> float:
    """Share of patches removed: what was asked for, or what the run was trained with."""
    if config.mask_ratio is not None:
        return config.mask_ratio
    assert subject.run is not None
    return subject.run.config.mask_ratio
