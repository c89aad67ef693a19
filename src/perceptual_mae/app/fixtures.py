"""The parts of the page that are there before any image is: its heading, where images come in, patches to touch."""

from collections.abc import Sequence

from perceptual_mae.app.markup import escaped
from perceptual_mae.app.neighbours import Neighbourhood
from perceptual_mae.app.painting import PaintedRun

KINDS = {"paint": ("checkbox", "group", "Patches to hide"), "point": ("radio", "radiogroup", "Patches that look")}
"""Of a board: what its patches are to a screen reader, what they are together, and what they are for."""


def heading(runs: Sequence[PaintedRun]) -> str:
    """The top of the page."""
    names = ", ".join(run.name for run in runs)
    models = "a model" if len(runs) == 1 else "these models"
    return (
        f'<p class="kicker">Perceptual MAE <span>/</span> {escaped(names, 200)}</p><h1>What does it see?</h1>'
        f'<p class="lede">Show {models} an image of which a part is hidden. Images stay in memory on the computer '
        "that runs this page, and nothing is kept.</p>"
    )


def title(words: str, below: str) -> str:
    """The heading of a section."""
    return f'<h2>{escaped(words)}</h2><p class="below">{escaped(below, 300)}</p>'


def about(neighbourhood: Neighbourhood) -> str:
    """What the neighbours are taken from, in a line."""
    source, name = neighbourhood.source, neighbourhood.looker.name
    count = len(neighbourhood.vectors)
    return f"The nearest of {count:,} images of {source.name} by the cosine between the features of {name}."


def picker(examples: Sequence[tuple[str, str]]) -> str:
    """Where images come in.

    Args:
        examples: name and picture (an address) of each.
    """
    buttons = "".join(
        f'<button type="button" data-example="{number}" title="{escaped(name)}" aria-pressed="false">'
        f'<img src="{picture}" alt="Example: {escaped(name)}"></button>'
        for number, (name, picture) in enumerate(examples)
    )
    return (
        '<div class="picker"><label class="drop"><span><b>Choose an image</b><small>or drop or paste one</small></span>'
        '<input type="file" accept="image/*,.tif,.tiff,.npy" aria-label="Choose an image"></label>'
        f'<div class="examples" role="group" aria-label="Examples">{buttons}</div></div>'
    )


def board(kind: str, picture: str, grid: tuple[int, int]) -> str:
    """A picture under patches that can be touched.

    Args:
        kind: `paint` or `point`.
        picture: an address; empty: there is none to show.
        grid: `(rows, columns)` of patches.
    """
    rows, columns = grid
    one, together, words = KINDS[kind]
    cells = "".join(
        f'<div data-cell role="{one}" aria-checked="false" tabindex="{-1 if row or column else 0}" '
        f'aria-label="row {row + 1}, column {column + 1}"></div>'
        for row in range(rows)
        for column in range(columns)
    )
    image = f'<img src="{picture}" alt="Your image">' if picture else ""
    return (
        f'<div class="board {kind}" data-columns="{columns}" style="--rows: {rows}; --columns: {columns}">{image}'
        f'<div class="cells" role="{together}" aria-label="{words}">{cells}</div></div>'
    )
