"""Who looks on while a run trains: pictures, validation and a k-NN monitor, hung on the loop from above."""

import itertools
from collections.abc import Iterator, Sequence

from torch import Tensor

from perceptual_mae.data import Batch, Source, eval_batches
from perceptual_mae.data.choice import seeded_order
from perceptual_mae.data.subset import Relabelled
from perceptual_mae.evaluation.knn import knn_accuracy, mean_token_features
from perceptual_mae.evaluation.reconstruction import look, reconstruction_errors
from perceptual_mae.files import if_possible
from perceptual_mae.pretraining.config import LogConfig
from perceptual_mae.pretraining.moment import Moment, Observer, every_epochs
from perceptual_mae.report.figures import Show, reconstruction_grid, save, unseen
from perceptual_mae.seeds import Stream
from perceptual_mae.training.schedule import spread


class Pictures:
    """Reconstructions of the same images under the same masks, from before the first step on."""

    def __init__(self, images: Tensor, names: Sequence[str], count: int, show: Show = unseen) -> None:
        self.images, self.names, self.count, self.show = images, names, count, show

    def due(self, moment: Moment) -> bool:
        """At the beginning, then at steps in equal ratios up to the last."""
        return self.count > 0 and moment.step in (0, *spread(moment.total, self.count))

    def __call__(self, moment: Moment) -> dict[str, float]:
        """Draw `figures/reconstruction-<step>.png`."""
        seen = look(moment.model, self.images, moment.run.config.mask_ratio, moment.run.config.seed)
        figure = reconstruction_grid(seen.originals, seen.masks, seen.reconstructions, seen.pasted, captions=self.names)
        with if_possible():
            self.show(save(figure, moment.run.figures / f"reconstruction-{moment.step:08d}.png"), moment.step)
        return {}


class Validation:
    """Reconstruction errors on images that are not trained on."""

    def __init__(self, images: int, epochs: float) -> None:
        self.images, self.epochs = images, epochs

    def due(self, moment: Moment) -> bool:
        """Every so many epochs, where there are validation images."""
        return moment.validation is not None and every_epochs(moment, self.epochs)

    def __call__(self, moment: Moment) -> dict[str, float]:
        """`validation/mse` and `validation/l1`."""
        assert moment.validation is not None
        config = moment.run.config
        batches = some(moment.validation, self.images, moment)
        errors = reconstruction_errors(moment.model, batches, config.mask_ratio, config.seed)
        return {f"validation/{name}": value for name, value in errors.items()}


class NearestNeighbours:
    """k-NN accuracy of the encoder as it is, on labelled data."""

    def __init__(self, train_images: int, validation_images: int, epochs: float, k: int = 20) -> None:
        self.train_images, self.validation_images, self.epochs, self.k = train_images, validation_images, epochs, k

    def due(self, moment: Moment) -> bool:
        """Every so many epochs, where both splits have labels."""
        labelled = moment.validation is not None and moment.train.classes and moment.validation.classes
        return bool(labelled) and every_epochs(moment, self.epochs)

    def __call__(self, moment: Moment) -> dict[str, float]:
        """`knn/top1`, in [0, 1]; nothing where no image of a split has a label."""
        assert moment.validation is not None
        tested = moment.validation
        if tested.classes != moment.train.classes:  # a label is the number of a class in a list of its own
            tested = Relabelled(tested, moment.train.classes)
        train = mean_token_features(moment.model, some(moment.train, self.train_images, moment))
        test = mean_token_features(moment.model, some(tested, self.validation_images, moment))
        known = all(bool((labels >= 0).any()) for _, labels in (train, test))
        return {"knn/top1": knn_accuracy(*train, *test, k=self.k)} if known else {}


def some(source: Source, count: int, moment: Moment) -> Iterator[Batch]:
    """A seeded sample of a source, in central crops, batch by batch; those that cannot be read are noted in the run."""
    config = moment.run.config
    chosen = list(itertools.islice(seeded_order(source, config.seed, Stream.SAMPLE), count))
    for batch in eval_batches(
        source,
        sorted(chosen),
        image_size=config.size,
        channels=config.pixels.channels,
        max_pixels=config.loader.max_pixels,
    ):
        moment.run.skip((skip.name, skip.reason) for skip in batch.skipped)
        yield batch


def observers_for(log: LogConfig, images: Tensor, names: Sequence[str], show: Show = unseen) -> list[Observer]:
    """The observers that the settings ask for; `images` `(n, C, H, W)` are the ones that pictures show."""
    return [
        Pictures(images, names, log.pictures, show),
        Validation(log.validation_images, log.validate_every),
        NearestNeighbours(log.knn_images, log.validation_images, log.knn_every),
    ]
