"""What a run makes of an image of which some patches are hidden."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from perceptual_mae.app.masks import Board, as_noise
from perceptual_mae.app.photograph import Photograph, View, to_batch
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.evaluation.reconstruction_metrics import errors
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.models.patches import mask_to_pixels
from perceptual_mae.paths import user_path
from perceptual_mae.pretraining.build import trained_model
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.report.names import told_apart
from perceptual_mae.training.device import choose_device


class NotPaintedError(Exception):
    """Why a run draws nothing, in words for the page."""


@dataclass(frozen=True)
class PaintedRun:
    """A pre-training run that is ready to paint.

    Attributes:
        name: its folder's, or another where two have the same, see `told_apart`.
        path: the folder.
        config: its settings.
        model: in eval mode, on its device.
        step: steps that it was trained for.
    """

    name: str
    path: Path
    config: PretrainConfig
    model: MaskedAutoencoder
    step: int

    @property
    def view(self) -> View:
        """How it wants its images."""
        return View(self.model.in_channels, self.model.image_size)

    def board(self, photograph: Photograph) -> Board:
        """Its patches over an image."""
        return Board(self.model.grid, photograph.box(self.view))


@dataclass(frozen=True)
class Painting:
    """One image through one run; images are `(C, h, w)` floats in [0, 1] on the CPU.

    Attributes:
        original: as the run sees it.
        hidden: `(1, h, w)` bool, True = a pixel that the encoder was not given.
        reconstruction: what the run draws, clamped to [0, 1].
        share: of patches that are hidden, in [0, 1].
        l1: mean absolute error of the hidden pixels; None: nothing is hidden.
        psnr: their peak signal-to-noise ratio in dB; None: nothing is hidden.
    """

    original: Tensor
    hidden: Tensor
    reconstruction: Tensor
    share: float
    l1: float | None
    psnr: float | None

    @property
    def pasted(self) -> Tensor:
        """The reconstruction with the visible pixels of the original, bit for bit."""
        return torch.where(self.hidden, self.reconstruction, self.original)

    @property
    def difference(self) -> Tensor:
        """`(h, w)`: how far what is pasted is from the original, mean over channels; 0 where nothing was hidden."""
        return (self.pasted - self.original).abs().mean(dim=0)


def open_runs(runs: Sequence[str], device: str = "auto") -> list[PaintedRun]:
    """Open some runs of `pmae pretrain`.

    Args:
        runs: run folders.
        device: auto, cpu or cuda.

    Raises:
        UsageError: no run, or one of another kind; the line names it.
        PmaeError: a run without a checkpoint, or whose weights do not fit its settings.
    """
    if not runs:
        raise UsageError("RUN is missing: name one or more run folders")
    place = choose_device(device)
    paths = [user_path(spec).resolve() for spec in runs]
    twice = next((spec for spec, path in zip(runs, paths, strict=True) if paths.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"RUN {twice}: it is named twice")
    opened = []
    for spec, name in zip(runs, told_apart([path.name for path in paths], runs), strict=True):
        path = user_path(spec)
        try:
            folder = RunFolder.read(path)
            model, step = trained_model(folder)
        except RuntimeError as error:  # weights of other names or shapes
            raise PmaeError(f"RUN {spec}: its checkpoint is not of the model that its config.yaml describes") from error
        except PmaeError as error:
            raise type(error)(f"RUN {error}") from error
        opened.append(PaintedRun(name, path, folder.config, model.to(place), step))
    return opened


@torch.inference_mode()
def paint(run: PaintedRun, photograph: Photograph, hidden: Tensor) -> Painting:
    """Hide patches of an image, and let a run paint them.

    Args:
        run: left as it was.
        photograph: seen for the run's view.
        hidden: `(rows, columns)` bool of the run's grid, True = hidden.

    Raises:
        NotPaintedError: the run cannot see this image, no patch is visible, or what it draws is no number.
    """
    crop = photograph.crops[run.view]
    if isinstance(crop, str):
        raise NotPaintedError(f"this run cannot read the image: {crop}")
    if hidden.all():
        raise NotPaintedError("every patch is hidden: leave at least one for the model to see")
    model = run.model
    noise, ratio = as_noise(hidden)
    images = to_batch(crop, model.mean.device)
    result = model(images, ratio, noise.to(images.device))
    drawn = result.images.float().cpu()
    if not drawn.isfinite().all():
        raise NotPaintedError("what this run draws are no finite numbers: its training has diverged")
    original, drawn = images[0].cpu(), drawn[0].clamp(0, 1)
    pixels = mask_to_pixels(result.mask, model.grid, model.patch_size)[0].cpu()
    l1 = psnr = None
    if pixels.any():
        removed = pixels.expand_as(original)
        found = errors(drawn[removed][None], original[removed][None])
        l1, psnr = float(found["l1"]), float(found["psnr"])
    return Painting(original, pixels, drawn, float(hidden.float().mean()), l1, psnr)
