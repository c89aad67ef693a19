"""What is measured, and on which images."""

from dataclasses import dataclass, field

from perceptual_mae.data import Source, StreamSettings, first_readable, open_source, open_validation_or_all
from perceptual_mae.data.subset import Relabelled, held_out, sample
from perceptual_mae.encoders import open_encoder
from perceptual_mae.errors import UsageError
from perceptual_mae.evaluation.config import EvaluateConfig
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.pretraining.build import trained_model
from perceptual_mae.pretraining.folder import RunFolder, is_run
from perceptual_mae.training.device import choose_device

HELD_OUT = 0.2
"""Share of the images that are tested on where the data has no split for it."""


@dataclass(frozen=True)
class Subject:
    """An encoder, and what else is known of it.

    Attributes:
        encoder: on the device.
        matched: which of its weights came from where, in words.
        run: the run that trained it, if one did.
        autoencoder: the whole model of that run, with its decoder.
    """

    encoder: Encoder
    matched: str
    run: RunFolder | None = None
    autoencoder: MaskedAutoencoder | None = None


@dataclass(frozen=True)
class Images:
    """What a subject is measured on.

    Attributes:
        spec: what the user named.
        train: images whose labels may be learnt from; None where there are no labels to learn.
        test: images to measure on.
        split: where `test` comes from, in words.
        notes: what cannot be measured on them, and why.
    """

    spec: str
    train: Source | None
    test: Source
    split: str
    notes: list[str] = field(default_factory=list)


def open_subject(config: EvaluateConfig) -> Subject:
    """Open the encoder that an evaluation names.

    Raises:
        UsageError, PmaeError: it cannot be had; one line says why.
    """
    device = choose_device(config.device)
    encoder, matched = open_encoder(config.encoder, config.image_size, device)
    if not is_run(config.encoder):
        return Subject(encoder, matched)
    run = RunFolder.read(config.encoder)
    model, _ = trained_model(run)
    return Subject(encoder, matched, run, model.to(device))


def open_images(config: EvaluateConfig, subject: Subject) -> Images:
    """Open the images that an evaluation names, or those of the run.

    Raises:
        UsageError, PmaeError: there are none that can be read.
    """
    run, channels = subject.run, subject.encoder.in_channels
    spec = config.data or (run.config.data if run else None)
    if spec is None:
        raise UsageError("--data is missing: name the images to measure on (only a run folder knows its own)")
    stream = StreamSettings.of(run.config.loader) if run is not None else None
    train = open_source(spec, "train", channels=channels, stream=stream)
    test = open_source(spec, "validation", channels=channels, stream=stream)
    if config.data is None and run is not None and run.config.val_data is not None:
        val = run.config.val_data
        test = open_validation_or_all(val, channels=channels, stream=stream)
    if train is None and test is None:
        raise UsageError(f"--data {spec}: there are no images")
    images = _split(spec, train, test, config.seed)
    first_readable(images.test, channels)
    labelled = sample(images.train, config.train_images, config.seed) if images.train is not None else None
    return Images(spec, labelled, sample(images.test, config.test_images, config.seed), images.split, images.notes)


def _split(spec: str, train: Source | None, test: Source | None, seed: int) -> Images:
    """Training and test images, whatever of the two there is."""
    unlabelled = (
        "k-NN and the linear probe are left out: the images have no labels "
        "(put those of each class into a folder of its own)"
    )
    if train is None or test is None:
        only = train if train is not None else test
        assert only is not None
        if not only.classes:
            return Images(spec, None, only, "all images", [unlabelled])
        rest, out = held_out(only, HELD_OUT, seed)
        if not len(out):
            return Images(spec, None, only, "all images", [f"{unlabelled}: no class has two images to learn and test"])
        return Images(spec, rest, out, f"{HELD_OUT:.0%} of the images of each class, held out (seed {seed})")
    if not (train.classes and test.classes):
        return Images(spec, None, test, "the validation split", [unlabelled])
    notes = []
    if train.classes != test.classes:
        known = set(test.classes) & set(train.classes)
        if not known:
            other = "no class of the validation images is among those of the training images"
            return Images(
                spec, None, test, "the validation split", [f"k-NN and the linear probe are left out: {other}"]
            )
        if strangers := sorted(set(test.classes) - known):
            notes = [f"validation images of classes without training images are left out: {', '.join(strangers[:8])}"]
        test = Relabelled(test, train.classes)
    return Images(spec, train, test, "the validation split", notes)
