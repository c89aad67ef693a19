"""What several runs make of the same images, side by side."""

from collections.abc import Mapping
from pathlib import Path

from perceptual_mae.attention_maps import attention_figure, same_images
from perceptual_mae.data import StreamSettings, fixed_images, open_validation_or_all
from perceptual_mae.encoders import open_encoder
from perceptual_mae.evaluation.reconstruction import look
from perceptual_mae.pretraining.build import trained_model
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.report.figures import save, side_by_side
from perceptual_mae.training.device import choose_device

COUNT = 8
"""Images in a picture."""


def draw_side_by_side(folder: Path, runs: Mapping[str, Path], device: str) -> dict[str, str]:
    """Draw reconstructions under the same masks, and attention, of one run a method.

    Args:
        folder: of the comparison; pictures go into its `figures`.
        runs: run folders by the name that stands over their column, all on the same images at the same size.
        device: auto, cpu or cuda.

    Returns:
        file names relative to `folder`, by what they show.
    """
    where = choose_device(device)
    first = RunFolder.read(next(iter(runs.values()))).config
    spec, channels = first.val_data or first.data, first.pixels.channels
    limit, stream = first.loader.max_pixels, StreamSettings.of(first.loader)
    source = open_validation_or_all(spec, channels=channels, stream=stream)
    images, _ = fixed_images(source, COUNT, image_size=first.size, channels=channels, seed=first.seed, max_pixels=limit)
    drawn, seen = {}, None
    for name, run in runs.items():
        seen = look(trained_model(RunFolder.read(run))[0].to(where), images, first.mask_ratio, first.seed)
        drawn[name] = seen.pasted
    assert seen is not None
    save(side_by_side(seen.originals, seen.masks, drawn), folder / "figures" / "reconstructions.png")

    encoders = [open_encoder(str(run), None, where)[0] for run in runs.values()]
    pictures, names = same_images(encoders, spec, COUNT, first.seed, limit, stream)
    save(attention_figure(encoders, pictures, names, titles=list(runs)), folder / "figures" / "attention.png")
    return {"reconstructions": "figures/reconstructions.png", "attention": "figures/attention.png"}
