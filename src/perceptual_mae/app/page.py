"""The page: where its parts are, and what each of them sets going."""

import math
from functools import partial
from typing import Any

import gradio as gr

from perceptual_mae.app import fixtures
from perceptual_mae.app.acts import FIRST, Acts
from perceptual_mae.app.markup import note
from perceptual_mae.app.studio import MOST_HIDDEN, Studio

END = 0.95
"""Share of patches that the slider ends at, unless a run was trained with more: a model has to see something."""
STEP, FINE = 0.05, 0.01
"""Of the slider, and of one that begins between those steps."""


def make_page(studio: Studio) -> gr.Blocks:
    """The whole page. An image lives in the state of one browser tab, and nowhere else."""
    acts = Acts(studio)
    names = [looker.name for looker in studio.lookers]
    hidden = min(studio.runs[0].config.mask_ratio, MOST_HIDDEN)
    with gr.Blocks(title="Perceptual MAE", analytics_enabled=False) as page:
        photograph, seed = gr.State(None), gr.State(0)
        _words(fixtures.heading(studio.runs))
        picker = _part("picker", fixtures.picker(studio.thumbnails()), most=studio.max_bytes)
        said = _words(note(FIRST))

        _words(fixtures.title("What it paints", "Click or drag over the image to hide patches or to show them again."))
        with gr.Row(elem_classes="beside"):
            with gr.Column(scale=2, min_width=280):
                board = _part("paint")
                step = STEP if math.isclose(hidden / STEP, round(hidden / STEP)) else FINE
                ratio = gr.Slider(0, max(END, hidden), hidden, step=step, label="Share to hide", buttons=[])
                another = gr.Button("Another mask")
            with gr.Column(scale=5, min_width=300):
                paintings = _words()

        _words(fixtures.title("Where it looks", "Click a patch to see which others it attends to, head by head."))
        with gr.Row(elem_classes="beside"):
            with gr.Column(scale=2, min_width=280):
                target = _part("point")
                encoder = gr.Radio(names, value=names[0], label="Encoder", visible=len(names) > 1)
                block = acts.blocks(names[0])
                whole = acts.whole(names[0])
            with gr.Column(scale=5, min_width=300):
                attention = _words()

        if studio.neighbourhood is not None:
            _words(fixtures.title("What it is most like", fixtures.about(studio.neighbourhood)))
        neighbours = _words(visible=studio.neighbourhood is not None)

        taking: dict[str, Any] = {"outputs": [said, photograph, board, target]}
        painting: dict[str, Any] = {"fn": acts.paint, "inputs": [photograph, board], "outputs": paintings}
        looking: dict[str, Any] = {
            "fn": acts.look,
            "inputs": [photograph, encoder, target, block],
            "outputs": attention,
        }
        finding: dict[str, Any] = {"fn": acts.find, "inputs": photograph, "outputs": neighbours}

        _does(picker.input, acts.take, inputs=[picker, ratio, seed, encoder], **taking)
        if studio.examples:
            first = partial(acts.take, '{"example": 0}')
            _does(page.load, first, inputs=[ratio, seed, encoder], **taking)
        # Only where there is a new image: what could not be read leaves all as it is.
        for doing in (painting, looking, finding):
            _does(photograph.change, **doing)

        drawn = _does(ratio.input, acts.draw, inputs=[photograph, ratio, seed], outputs=board)
        redrawn = _does(another.click, acts.draw_another, inputs=[photograph, ratio, seed], outputs=[board, seed])
        for trigger in (board.input, drawn.then, redrawn.then):
            _does(trigger, **painting)

        changed = _does(
            encoder.input, acts.change_encoder, inputs=[photograph, encoder], outputs=[target, block, whole]
        )
        cleared = _does(whole.click, lambda: "", outputs=target)
        for trigger in (target.input, block.input, changed.then, cleared.then):
            _does(trigger, **looking)
    return page


def _words(value: str = "", **settings: Any) -> gr.HTML:
    """Something to read."""
    return gr.HTML(value, elem_classes="pmae", js_on_load=None, apply_default_css=False, **settings)


def _part(name: str, body: str = "", **props: Any) -> gr.HTML:
    """Something to touch: HTML of ours, a function of `page.js`, and a value that both it and the server may change."""
    script = f"pmae.{name}(element, trigger, props, watch); // its events: 'input'"
    return gr.HTML(
        "", html_template="${body}", body=body, js_on_load=script, elem_classes="pmae", apply_default_css=False, **props
    )


def _does(trigger: Any, fn: Any, **settings: Any) -> Any:
    """Set something going. Who paints faster than a model draws sees the last of it, and not all of it in turn."""
    return trigger(fn, show_progress="hidden", api_visibility="undocumented", trigger_mode="always_last", **settings)
