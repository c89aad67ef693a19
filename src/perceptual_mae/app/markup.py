"""Pictures and numbers as HTML that holds everything itself: no file is written, and none is fetched."""

import base64
import html
import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from perceptual_mae.app.neighbours import Neighbour
from perceptual_mae.app.painting import PaintedRun, Painting
from perceptual_mae.report.attention_grid import COLOURS, heat
from perceptual_mae.report.figures import shortened
from perceptual_mae.report.pictures import Pictures, hide, to_pictures

BRIGHTEST = 0.5
"""The difference that is drawn brightest: few are larger, and most would be black if the scale went to 1."""
LEAST_SIDE = 192
"""Pixels to which maps are drawn: attention is smooth between patches, which a small picture cannot show."""
QUERY = (129, 140, 248)
"""The frame of the patch that looks: an indigo that is in neither the photograph's nor the map's colours."""


def escaped(text: str, letters: int = 80) -> str:
    """A text of any origin, on one line, as HTML."""
    return html.escape(shortened(text, letters))


def data_uri(picture: Pictures) -> str:
    """`(h, w, 3)` uint8 as an address that is the picture itself."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def to_picture(image: Tensor) -> Pictures:
    """`(C, h, w)`, uint8 or floats in [0, 1], to what a screen shows: `(h, w, 3)` uint8."""
    return to_pictures((image if image.is_floating_point() else image.float() / 255)[None])[0]


def message(text: str) -> str:
    """A line about what the person did; empty: nothing is wrong."""
    return f'<p class="said" role="alert">{escaped(text, 400)}</p>' if text else ""


def note(text: str) -> str:
    """A line to read once, in grey."""
    return f'<p class="note">{escaped(text, 400)}</p>' if text else ""


def painting(run: PaintedRun, found: Painting | str) -> str:
    """What a run painted, with its numbers; or the reason why it did not."""
    if isinstance(found, str):
        return _section(run, message(found))
    hidden = hide(found.original[None], found.hidden[None])
    pictures = {
        "Original": to_picture(found.original),
        "What it sees": to_pictures(hidden)[0],
        "Reconstruction": to_picture(found.reconstruction),
        "Pasted": to_picture(found.pasted),
        "Difference": difference(found.difference),
    }
    figures = "".join(_figure(picture, title) for title, picture in pictures.items())
    return _section(run, f'<div class="strip">{figures}</div>{_numbers(found)}')


def difference(values: Tensor) -> Pictures:
    """`(h, w)` in [0, 1]: black where equal, brightest from `BRIGHTEST` on; `(h, w, 3)` uint8."""
    strength = (values.numpy() / BRIGHTEST).clip(0, 1)
    colours = matplotlib.colormaps[COLOURS](strength)[..., :3]
    # The darkest of these colours is not quite black, and equal is to be seen as nothing at all.
    return np.where(values.numpy()[..., None] > 0, np.rint(colours * 255), 0).astype(np.uint8)


def attention(image: Tensor, heads: NDArray[np.float32], patch: tuple[int, int] | None) -> str:
    """The mean of the heads, and each of them, over the image.

    Args:
        image: `(C, h, w)` uint8.
        heads: `(heads, rows, columns)`.
        patch: the one that looks, to be framed; None: none.
    """
    picture = to_picture(image)
    times = max(1, -(-LEAST_SIDE // min(picture.shape[:2])))
    large = picture.repeat(times, axis=0).repeat(times, axis=1)
    maps = [("Mean of the heads", heads.mean(axis=0)), *((f"Head {n}", one) for n, one in enumerate(heads))]
    figures = "".join(_figure(_framed(heat(large, one), one.shape, patch), title) for title, one in maps)
    return f'<div class="tiles">{figures}</div>'


def neighbours(found: Sequence[tuple[Neighbour, Tensor | str]]) -> str:
    """The images most like one, with their names; those that cannot be shown with the reason."""
    figures = []
    for number, (neighbour, image) in enumerate(found, start=1):
        words = f"{number}. {neighbour.label or neighbour.name}"
        below = [neighbour.name] if neighbour.label else []
        small = "".join(
            f"<small>{escaped(line, 44)}</small>" for line in [*below, f"cosine {neighbour.similarity:.3f}"]
        )
        caption = f"{escaped(words, 40)}{small}"
        if isinstance(image, str):
            shown = f'<div class="gone">{escaped(image)}</div>'
        else:
            shown = _image(to_picture(image), neighbour.name)
        figures.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="tiles">{"".join(figures)}</div>'


def _section(run: PaintedRun, body: str) -> str:
    config = run.config
    side = f"{run.model.image_size[0]} × {run.model.image_size[1]} px, patches of {run.model.patch_size}"
    facts = f"{config.model} · {config.method} · {side} · step {run.step:,}"
    if run.model.norm_pix_loss:
        facts += " · contrast of each patch from the original"
    return (
        f'<section class="run"><header><h3>{escaped(run.name)}</h3><span>{escaped(facts, 200)}</span></header>'
        f"{body}</section>"
    )


def _numbers(found: Painting) -> str:
    words = [f"<b>{found.share * 100:.0f} %</b> of the patches hidden"]
    if found.l1 is not None and found.psnr is not None:
        words += [f"L1 <b>{found.l1:.4f}</b>", f"PSNR <b>{found.psnr:.1f}</b> dB"]
    return f'<p class="numbers">{"".join(f"<span>{word}</span>" for word in words)}</p>'


def _figure(picture: Pictures, title: str) -> str:
    return f"<figure>{_image(picture, title)}<figcaption>{escaped(title)}</figcaption></figure>"


def _image(picture: Pictures, title: str = "") -> str:
    return f'<img src="{data_uri(picture)}" alt="{escaped(title)}">'


def _framed(picture: Pictures, grid: tuple[int, ...], patch: tuple[int, int] | None) -> Pictures:
    """A picture with a frame around one of its patches."""
    if patch is None:
        return picture
    (high, wide), (rows, columns), (row, column) = picture.shape[:2], grid, patch
    top, bottom = row * high // rows, (row + 1) * high // rows
    left, right = column * wide // columns, (column + 1) * wide // columns
    thick = max(1, min(high // rows, wide // columns) // 10)
    framed = picture.copy()
    inside = framed[top + thick : bottom - thick, left + thick : right - thick].copy()
    framed[top:bottom, left:right] = QUERY
    framed[top + thick : bottom - thick, left + thick : right - thick] = inside
    return framed
