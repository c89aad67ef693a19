"""What is measured, and on which images."""

from dataclasses import dataclass, field

from perceptual_mae.data import (
    Source,
    StreamSettings,
    first_readable,
    open_source,
    open_validation_or_all,
)
from perceptual_mae.data.subset import Relabelled, held_out, sample
from perceptual_mae.encoders.open import Opened, open_whole
from perceptual_mae.errors import UsageError, said_of
from perceptual_mae.evaluation.config import EvaluateConfig
from perceptual_mae.export.story import data_name
from perceptual_mae.training.device import choose_device

HELD_OUT = 0.2
"""Share of the images that are tested on where the data has no split for it."""


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


def open_subject(config: EvaluateConfig) -> Opened:
    """Open the encoder that an evaluation names; the whole model of a run is on its device, too.

    Raises:
        UsageError, PmaeError: it cannot be had; one line says why.
    """
    device = choose_device(config.device)
    opened = open_whole(config.encoder, config.image_size, device)
    if opened.autoencoder is not None:
        opened.autoencoder.to(device)
    return opened


def open_images(config: EvaluateConfig, subject: Opened, val_data: str | None = None) -> Images:
    """Open the images that an evaluation names, or those of the run.

    Args:
        config: names them.
        subject: the run, and the channels that are read.
        val_data: images to test on, in place of a validation split of the others; default: those of the run, where its
            own images are measured on.

    Raises:
        UsageError, PmaeError: there are none that can be read.
    """
    run, channels = subject.run, subject.encoder.in_channels
    spec = config.data or (run.config.data if run else None)
    if spec is None:
        raise UsageError("--data is missing: name the images to measure on (only a run folder knows its own)")
    if config.data is None and run is not None and val_data is None:
        val_data = run.config.val_data
    stream = StreamSettings.of(run.config.loader) if run is not None else None
    train = open_source(spec, "train", channels=channels, stream=stream)
    tested = "the validation split"
    if val_data is None:
        test = open_source(spec, "validation", channels=channels, stream=stream)
    else:
        with said_of("--val-data"):
            test = open_source(val_data, "validation", channels=channels, stream=stream)
            # A model card shows it, which is for the public: no path of this machine.
            tested = f"{tested if test is not None else 'the images'} of {data_name(val_data)}"
            test = open_validation_or_all(val_data, channels=channels, stream=stream) if test is None else test
    if train is None and test is None:
        raise UsageError(f"--data {spec}: there are no images")
    images = _split(spec, train, test, tested, config.seed)
    first_readable(images.test, channels, subject.max_pixels)
    labelled = sample(images.train, config.train_images, config.seed) if images.train is not None else None
    return Images(spec, labelled, sample(images.test, config.test_images, config.seed), images.split, images.notes)


def _split(spec: str, train: Source | None, test: Source | None, tested: str, seed: int) -> Images:
    """Training and test images, whatever of the two there is; `tested` is where the second are from, in words."""
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
        return Images(spec, None, test, tested, [unlabelled])
    notes = []
    if train.classes != test.classes:
        known = set(test.classes) & set(train.classes)
        if not known:
            other = "no class of the validation images is among those of the training images"
            return Images(spec, None, test, tested, [f"k-NN and the linear probe are left out: {other}"])
        if strangers := sorted(set(test.classes) - known):
            notes = [f"validation images of classes without training images are left out: {', '.join(strangers[:8])}"]
        test = Relabelled(test, train.classes)
    return Images(spec, train, test, tested, notes)
