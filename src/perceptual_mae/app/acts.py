"""What the parts of the page call: they take what gradio holds, and give what it shows; none of them fails."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from perceptual_mae.app.fixtures import board
from perceptual_mae.app.markup import message, note
from perceptual_mae.app.photograph import Photograph
from perceptual_mae.app.studio import RefusedError, Studio
from perceptual_mae.evaluation.attention import has_cls

FIRST = "Pick an example, or drop an image of yours."
"""What to do on a page that has no image, or whose server was started anew."""


@dataclass(frozen=True)
class Acts:
    """The studio as gradio calls it.

    Attributes:
        studio: what does the work.
    """

    studio: Studio

    def take(self, picked: str, ratio: float, seed: int, encoder: str) -> list[Any]:
        """A new image: the line about it, the image, the board with its mask, and the board of the encoder.

        What cannot be read changes nothing but the line.
        """
        try:
            image = self.studio.take(picked)
        except RefusedError as refused:
            return [message(str(refused)), gr.skip(), gr.skip(), gr.skip()]
        mask = self.studio.draw_mask(image, ratio, seed)
        return [
            note(self.studio.about(image)),
            image,
            gr.HTML(mask, body=board("paint", *self.studio.board_picture(image))),
            self._target(image, encoder),
        ]

    def draw(self, image: Photograph | None, ratio: float, seed: int) -> Any:
        """A random mask."""
        return gr.skip() if image is None else self.studio.draw_mask(image, ratio, seed)

    def draw_another(self, image: Photograph | None, ratio: float, seed: int) -> tuple[Any, int]:
        """The next random mask, and its number."""
        return self.draw(image, ratio, seed + 1), seed + 1

    def paint(self, image: Photograph | None, mask: str) -> str:
        """What the runs paint."""
        if image is None:
            return note(FIRST)
        try:
            return self.studio.show_paintings(image, mask)
        except RefusedError as refused:
            return message(str(refused))

    def look(self, image: Photograph | None, encoder: str, patch: str, block: float) -> str:
        """Where an encoder looks."""
        if image is None:
            return note(FIRST)
        try:
            return self.studio.show_attention(image, encoder, patch, int(block))
        except RefusedError as refused:
            return message(str(refused))

    def change_encoder(self, image: Photograph | None, encoder: str) -> list[Any]:
        """The board of another encoder, its blocks, and what it can look from but a patch."""
        target = gr.skip() if image is None else self._target(image, encoder)
        return [target, self.blocks(encoder), self.whole(encoder)]

    def find(self, image: Photograph | None) -> str:
        """The nearest neighbours."""
        if image is None:
            return note(FIRST)
        try:
            return self.studio.show_neighbours(image)
        except RefusedError as refused:
            return message(str(refused))

    def blocks(self, encoder: str) -> gr.Slider:
        """Which block of an encoder, the last at first."""
        last = self.studio.looker(encoder).blocks - 1
        return gr.Slider(0, max(last, 1), last, step=1, label="Block, from 0", visible=last > 0, buttons=[])

    def whole(self, encoder: str) -> gr.Button:
        """What an encoder looks from if from no patch."""
        known = has_cls(self.studio.looker(encoder).encoder)
        return gr.Button("From the class token" if known else "From all patches")

    def _target(self, image: Photograph, encoder: str) -> gr.HTML:
        return gr.HTML(body=board("point", *self.studio.looker_picture(image, encoder)))
