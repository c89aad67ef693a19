"""Everything the page can do, without the page: texts in as a browser sends them, HTML out."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from torch import Tensor

from perceptual_mae.app import markup
from perceptual_mae.app.examples import find_examples
from perceptual_mae.app.looking import Looker, heads_of, open_lookers, to_patch
from perceptual_mae.app.masks import Board, from_text, random_mask, to_text, touched
from perceptual_mae.app.neighbours import Neighbour, Neighbourhood, open_neighbourhood
from perceptual_mae.app.painting import NotPaintedError, PaintedRun, Painting, open_runs, paint
from perceptual_mae.app.photograph import Photograph, View, see
from perceptual_mae.data import BrokenImage
from perceptual_mae.data.types import Item
from perceptual_mae.errors import UsageError

EXAMPLES = 8
"""Images to begin with."""
NEIGHBOURS = 12
"""Neighbours that are shown."""
MOST_HIDDEN = 0.99
"""Share of patches that a random mask hides at most."""
THUMBNAIL = (96, 96)
"""Pixels of an example, and of a neighbour at least."""


class RefusedError(Exception):
    """What a person gave cannot be used; the message says why, for the page."""


@dataclass(frozen=True)
class Studio:
    """The networks of a page, and what is asked of them. One thing at a time: networks are not for several threads.

    Attributes:
        runs: that paint.
        lookers: encoders that attend.
        neighbourhood: embedded images; None: there are none.
        examples: images to begin with.
        max_pixels: larger images are refused unread.
        max_bytes: larger files are refused.
    """

    runs: Sequence[PaintedRun]
    lookers: Sequence[Looker]
    neighbourhood: Neighbourhood | None
    examples: Sequence[Item]
    max_pixels: int
    max_bytes: int
    _lock: Lock = field(default_factory=Lock, repr=False)

    # -- images --------------------------------------------------------------------------------------------------------

    @property
    def views(self) -> list[View]:
        """All sizes in which an image is wanted."""
        lookers = [*self.lookers, *([self.neighbourhood.looker] if self.neighbourhood else [])]
        return [run.view for run in self.runs] + [looker.view for looker in lookers]

    def take(self, picked: str) -> Photograph:
        """The image that somebody picked.

        Args:
            picked: JSON, `{"example": number}` or `{"name": text, "size": bytes, "data": base64}`; without data where
                the page knows already that it is too large.

        Raises:
            RefusedError: it cannot be read.
        """
        data, name = self._picked(picked)
        try:
            with self._lock:  # a hundred people with large photographs would fill memory
                return see(data, name, self.views, self.max_pixels)
        except BrokenImage as broken:
            raise RefusedError(f"{name}: {broken}") from broken

    def _picked(self, picked: str) -> tuple[Any, str]:
        try:
            asked = json.loads(picked)
            if isinstance(asked.get("example"), int) and 0 <= asked["example"] < len(self.examples):
                item = self.examples[asked["example"]]
                return item.data, item.name
            name = str(asked["name"])
            if asked["size"] > self.max_bytes or len(asked["data"]) > self.max_bytes * 4 / 3 + 4:
                raise RefusedError(f"{name}: larger than {self.max_bytes / 1e6:g} MB (see --max-upload)")
            return base64.b64decode(asked["data"], validate=True), name
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error) as error:
            raise RefusedError("pick an example, or drop an image") from error

    def thumbnails(self) -> list[tuple[str, str]]:
        """The examples as the page draws them: name and picture."""
        shown = []
        for item in self.examples:
            image = see(item.data, item.name, [self._thumbnail], self.max_pixels).crops[self._thumbnail]
            assert isinstance(image, Tensor)
            shown.append((item.name, markup.data_uri(markup.to_picture(image))))
        return shown

    @property
    def _thumbnail(self) -> View:
        return View(self.runs[0].view.channels, THUMBNAIL)

    def about(self, photograph: Photograph) -> str:
        """What a person should know of their image."""
        height, width = photograph.size
        words = f"{photograph.name}, {width} × {height} pixels"
        if any(photograph.enlarged(run.view) for run in self.runs):
            words += "; it is smaller than what a model takes, and was enlarged"
        return words

    # -- masks and paintings -------------------------------------------------------------------------------------------

    def board(self, photograph: Photograph) -> tuple[PaintedRun, Board]:
        """The run whose patches are painted on: the coarsest that sees the image, or else a random mask that hides
        three quarters of fine patches would touch nearly all coarse ones."""
        seeing = [run for run in self.runs if isinstance(photograph.crops[run.view], Tensor)]
        run = min(seeing or self.runs, key=lambda run: run.model.num_patches)
        return run, run.board(photograph)

    def board_picture(self, photograph: Photograph) -> tuple[str, tuple[int, int]]:
        """The board's picture as an address, empty if there is none to show, and its grid."""
        run, board = self.board(photograph)
        return _address(photograph.crops[run.view]), board.grid

    def draw_mask(self, photograph: Photograph, mask_ratio: float, seed: int) -> str:
        """A random mask of the board, see `masks.to_text`."""
        grid = self.board(photograph)[1].grid
        return to_text(random_mask(grid, min(max(mask_ratio, 0.0), MOST_HIDDEN), seed))

    def paintings(self, photograph: Photograph, mask: str) -> list[Painting | str]:
        """What every run makes of the image, or why it makes nothing of it.

        Raises:
            RefusedError: it is no mask of the board.
        """
        _, board = self.board(photograph)
        painted = from_text(mask, board.grid)
        if painted is None:
            raise RefusedError("this mask belongs to another image: pick the image again")
        found: list[Painting | str] = []
        for run in self.runs:
            try:
                with self._lock:
                    found.append(paint(run, photograph, touched(painted, board, run.board(photograph))))
            except NotPaintedError as reason:
                found.append(str(reason))
        return found

    def show_paintings(self, photograph: Photograph, mask: str) -> str:
        """The same as HTML. Raises RefusedError as `paintings`."""
        pairs = zip(self.runs, self.paintings(photograph, mask), strict=True)
        return "".join(markup.painting(run, found) for run, found in pairs)

    # -- attention -----------------------------------------------------------------------------------------------------

    def looker(self, name: str) -> Looker:
        """The encoder of this name. Raises RefusedError if there is none."""
        for looker in self.lookers:
            if looker.name == name:
                return looker
        raise RefusedError("there is no such encoder")

    def looker_picture(self, photograph: Photograph, name: str) -> tuple[str, tuple[int, int]]:
        """The picture to click on, and the encoder's grid. Raises RefusedError as `looker`."""
        looker = self.looker(name)
        return _address(photograph.crops[looker.view]), looker.encoder.grid

    def show_attention(self, photograph: Photograph, name: str, patch: str, block: int) -> str:
        """Where an encoder looks from a patch (`row,column`; anything else is the class token), by head, as HTML.

        Raises:
            RefusedError: no such encoder or block, or an image that it cannot see.
        """
        looker = self.looker(name)
        place = to_patch(patch, looker.encoder.grid)
        try:
            with self._lock:
                heads = heads_of(looker, photograph, place, block)
        except ValueError as error:
            raise RefusedError(str(error)) from error
        image = photograph.crops[looker.view]
        assert isinstance(image, Tensor)
        return markup.attention(image, heads.numpy(), place)

    # -- neighbours ----------------------------------------------------------------------------------------------------

    def show_neighbours(self, photograph: Photograph) -> str:
        """The embedded images that are most like it, as HTML; empty where none are embedded.

        Raises:
            RefusedError: their encoder cannot see this image.
        """
        if self.neighbourhood is None:
            return ""
        try:
            with self._lock:
                found = self.neighbourhood.nearest(photograph, NEIGHBOURS)
                return markup.neighbours([(one, self._neighbour(one)) for one in found])
        except ValueError as error:
            raise RefusedError(str(error)) from error

    def _neighbour(self, neighbour: Neighbour) -> Tensor | str:
        assert self.neighbourhood is not None
        looks = self.neighbourhood.looker.view
        view = View(looks.channels, (max(looks.size[0], THUMBNAIL[0]), max(looks.size[1], THUMBNAIL[1])))
        if neighbour.item is None:
            return "no longer among the images"
        try:
            return see(neighbour.item.data, neighbour.name, [view], self.max_pixels).crops[view]
        except BrokenImage as broken:
            return str(broken)


def open_studio(
    runs: Sequence[str],
    *,
    encoders: Sequence[str] = (),
    data: str | None = None,
    neighbours: str | None = None,
    neighbours_data: str | None = None,
    max_upload: float = 20.0,
    device: str = "auto",
) -> Studio:
    """Open what a page shows.

    Args:
        runs: run folders of `pmae pretrain`, one or more.
        encoders: more encoders to look at the attention of, or that embedded the neighbours.
        data: where example images come from; default: what the first run was validated on.
        neighbours: a parquet file that `pmae embed` wrote with one of these encoders.
        neighbours_data: where its images are now; default: where they were.
        max_upload: MB (10^6 bytes) of a file that is taken.
        device: auto, cpu or cuda.

    Raises:
        UsageError, PmaeError: one line that names the run, encoder or flag.
    """
    if not 0 < max_upload <= 1000:
        raise UsageError(f"--max-upload {max_upload:g}: must be more than 0 and at most 1000 (MB)")
    if neighbours_data is not None and neighbours is None:
        raise UsageError(f"--neighbours-data {neighbours_data}: needs --neighbours, a file that `pmae embed` wrote")
    opened = open_runs(runs, device)
    lookers = open_lookers([*runs, *encoders], [run.name for run in opened], device)
    return Studio(
        opened,
        [looker for looker in lookers if looker.blocks],
        None if neighbours is None else open_neighbourhood(neighbours, lookers, neighbours_data),
        find_examples(opened[0].config, data, EXAMPLES),
        # What the most careful of the runs takes: a page is open to more people than a folder is.
        min(run.config.loader.max_pixels for run in opened),
        int(max_upload * 1e6),
    )


def _address(crop: Tensor | str) -> str:
    return "" if isinstance(crop, str) else markup.data_uri(markup.to_picture(crop))
