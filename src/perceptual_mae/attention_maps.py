"""`pmae attention`: encoders and photographs to figure 3 of the paper."""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from perceptual_mae.data import (
    MAX_PIXELS,
    StreamSettings,
    first_readable,
    fixed_images,
    open_validation_or_all,
    to_float,
)
from perceptual_mae.encoders import open_encoder
from perceptual_mae.errors import UsageError, refused_by_system
from perceptual_mae.evaluation.attention import (
    Heads,
    attention_layer,
    cls_attention,
    has_cls,
    mass_threshold,
    pick_heads,
)
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.paths import user_path
from perceptual_mae.pretraining.folder import RunFolder, is_run
from perceptual_mae.report.attention_grid import ModelMaps, attention_grid
from perceptual_mae.report.figures import save
from perceptual_mae.report.names import told_apart
from perceptual_mae.training.device import choose_device


def attention(
    encoders: Sequence[str],
    data: str | None = None,
    block: int = -1,
    heads: str = "mean",
    mass: float | None = None,
    image_size: int | str | None = None,
    count: int = 6,
    seed: int = 0,
    out: Path | str | None = None,
    device: str = "auto",
) -> Path:
    """Write what `draw_attention` draws to `out`, a PNG.

    Its default is `figures/attention.png` in the first run folder among the encoders, or `attention.png`.

    Returns:
        the picture's path.

    Raises:
        UsageError, PmaeError: as `draw_attention`; or `out` cannot be written.
    """
    run = _first_run(encoders)
    target = user_path(out) if out is not None else run.figures / "attention.png" if run else Path("attention.png")
    if target.is_dir():
        raise UsageError(f"--out {target}: is a folder; give a PNG file to write")
    figure = draw_attention(encoders, data, block, heads, mass, image_size, count, seed, device)
    with refused_by_system(f"--out {target}"):
        return save(figure, target)


def draw_attention(
    encoders: Sequence[str],
    data: str | None = None,
    block: int = -1,
    heads: str = "mean",
    mass: float | None = None,
    image_size: int | str | None = None,
    count: int = 6,
    seed: int = 0,
    device: str = "auto",
) -> Figure:
    """Where encoders look in some images (figure 3 of the paper).

    Args:
        encoders: run folders, weights files, `timm:NAME`, `timm:NAME:FILE` or `hub:USER/NAME`.
        data: a data argument; default: the validation images of the first run among the encoders.
        block: counted from 0 or, negative, from the end.
        heads: `mean`, `all`, or numbers such as `0,3,5`.
        mass: draw the fewest patches that hold this share of the attention, in place of a map of it.
        image_size: pixels of a side, or HEIGHTxWIDTH; default: what each encoder was trained with.
        count: images.
        seed: of the choice of images.
        device: auto, cpu or cuda.

    Raises:
        UsageError, PmaeError: no such encoder, block, head or data; an encoder without attention; no readable image.
    """
    run = _first_run(encoders)
    wanted = _heads(heads)
    if not encoders:
        raise UsageError("ENCODERS is missing: name one or more")
    if count < 1:
        raise UsageError(f"--count {count}: must be at least 1")
    if mass is not None and not 0 < mass < 1:
        raise UsageError(f"--mass {mass}: must lie between 0 and 1 (both excluded)")
    if data is None and run is None:
        raise UsageError(f"--data is missing: {encoders[0]} is no run folder, which knows its images")
    spec = data or (run.config.val_data or run.config.data if run else "")
    limit, stream = MAX_PIXELS, None
    if run is not None:
        limit, stream = run.config.loader.max_pixels, StreamSettings.of(run.config.loader)

    opened = [open_encoder(each, image_size, choose_device(device))[0] for each in encoders]
    for encoder in opened:
        _check(encoder, block, wanted, heads)
    pictures, names = same_images(opened, spec, count, seed, limit, stream)
    titles = told_apart([encoder.name for encoder in opened], encoders)
    return attention_figure(opened, pictures, names, block=block, heads=wanted, mass=mass, titles=titles)


def _first_run(encoders: Sequence[str]) -> RunFolder | None:
    return next((RunFolder.read(path) for path in map(user_path, encoders) if is_run(path)), None)


def same_images(
    encoders: Sequence[Encoder],
    data: str,
    count: int,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    stream: StreamSettings | None = None,
) -> tuple[list[Tensor], list[str]]:
    """The same photographs for each encoder in the size that it takes.

    They come from the validation images, or from all where the data is not split.

    Args:
        encoders: whose sizes they are given in.
        data: a data argument.
        count: images, or fewer where there are not so many.
        seed: of the choice of images.
        max_pixels: larger images are skipped unread.
        stream: how shards are fetched; default: as usual.

    Returns:
        for each encoder `(n, C, H, W)` uint8, and the n names.

    Raises:
        UsageError: there are no images, or the encoders cannot read the same ones.
        PmaeError: none can be read.
    """
    pictures: list[Tensor] = []
    names: list[str] | None = None
    for encoder in encoders:
        channels = encoder.in_channels
        source = open_validation_or_all(data, channels=channels, stream=stream)
        first_readable(source, channels, max_pixels)
        images, found = fixed_images(
            source, count, image_size=encoder.image_size, channels=channels, seed=seed, max_pixels=max_pixels
        )
        if names not in (None, found):
            raise UsageError(
                f"--data {data}: {encoders[0].name} and {encoder.name} cannot read the same of these images; "
                "draw them by themselves"
            )
        pictures.append(images)
        names = found
    return pictures, names or []


def attention_figure(
    encoders: Sequence[Encoder],
    pictures: Sequence[Tensor],
    names: Sequence[str],
    *,
    block: int = -1,
    heads: Heads = "mean",
    mass: float | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Figure 3 of the paper for some encoders.

    Args:
        encoders: Vision Transformers, one or more.
        pictures: what each is shown, see `same_images`.
        names: of the images.
        block, heads, mass: see `attention`.
        titles: of the encoders, in place of their names.

    Raises:
        ValueError: no such block or head, or a network without attention.
    """
    models = []
    titles = titles or [encoder.name for encoder in encoders]
    for encoder, images, title in zip(encoders, pictures, titles, strict=True):
        maps = pick_heads(_maps(encoder, images, block), heads)
        kept = None if mass is None else mass_threshold(maps, mass)
        labels = [] if heads == "mean" else list(map(str, range(maps.shape[1]) if heads == "all" else heads))
        models.append(ModelMaps(title, to_float(images), maps, kept, labels))
    largest = max(pictures, key=lambda images: images.shape[-2] * images.shape[-1])
    without = [title for encoder, title in zip(encoders, titles, strict=True) if not has_cls(encoder)]
    footer = _footer(without, block, heads, mass)
    return attention_grid(to_float(largest), models, captions=names, footer=footer)


def _maps(encoder: Encoder, images: Tensor, block: int) -> Tensor:
    """Attention `(n, heads, rows, columns)`, image by image: a whole matrix of a large one fills memory by itself."""
    device = encoder.mean.device
    return torch.cat([cls_attention(encoder, to_float(image[None].to(device)), block).cpu() for image in images])


def _heads(text: str) -> Heads:
    if text == "mean":
        return "mean"
    if text == "all":
        return "all"
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"--heads {text}: give mean, all, or numbers such as 0,3,5") from None


def _check(encoder: Encoder, block: int, heads: Heads, typed: str) -> None:
    """Say what cannot be drawn before anything is read."""
    try:
        attention_layer(encoder, 0)
    except ValueError as error:
        raise UsageError(str(error)) from None
    try:
        layer = attention_layer(encoder, block)
    except ValueError as error:
        raise UsageError(f"--block {block}: {error}") from None
    try:
        pick_heads(torch.empty(1, layer.num_heads, 1, 1), heads)
    except ValueError as error:
        raise UsageError(f"--heads {typed}: {encoder.name}: {error}") from None


def _footer(without: Sequence[str], block: int, heads: Heads, mass: float | None) -> str:
    """How the maps were made; `without` are the titles of encoders that have no [CLS]."""
    where = "the last block" if block == -1 else f"block {block}, counted from {'the end' if block < 0 else '0'}"
    single = heads not in ("mean", "all") and len(heads) == 1
    which = "mean over the heads" if heads == "mean" else f"head {heads[0]}" if single else "each head by itself"
    how = (
        "each map is scaled to its own maximum"
        if mass is None
        else f"in colour, the fewest patches that hold {mass:.0%} of the attention on all patches"
    )
    note = f" (of all patches on average in {', '.join(without)}: no [CLS] there)" if without else ""
    return f"Attention of [CLS]{note} to the patches in {where}, {which}; {how}"
