"""The colours of the page's sliders and buttons: those of the reports."""

from pathlib import Path

import gradio as gr

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "Liberation Mono", "monospace")
LIGHT = {"page": "#fdfdfb", "ink": "#1c2026", "words": "#6b7079", "rules": "#e3e3df", "card": "#ffffff"}
DARK = {"page": "#14161a", "ink": "#eceae5", "words": "#989ea8", "rules": "#2d3138", "card": "#1a1d22"}
ACCENT = {"": "#0b5fa5", "_dark": "#7ab8ee"}


def make_theme() -> gr.themes.Base:
    """A theme that fetches no font: whatever the system has."""
    # Plain fonts, as a text is taken for a font file of gradio's own, which is fetched.
    fonts, mono = ([gr.themes.Font(name) for name in names] for names in (FONTS, MONO))
    settings: dict[str, str] = {}
    for suffix, colours in (("", LIGHT), ("_dark", DARK)):
        settings |= {
            f"body_background_fill{suffix}": colours["page"],
            f"background_fill_primary{suffix}": colours["page"],
            f"body_text_color{suffix}": colours["ink"],
            f"body_text_color_subdued{suffix}": colours["words"],
            f"block_background_fill{suffix}": "transparent",
            f"block_border_width{suffix}": "0px",
            f"block_shadow{suffix}": "none",
            f"block_label_text_color{suffix}": colours["words"],
            f"block_title_text_color{suffix}": colours["words"],
            f"block_info_text_color{suffix}": colours["words"],
            f"panel_background_fill{suffix}": "transparent",
            f"input_background_fill{suffix}": colours["card"],
            f"input_border_color{suffix}": colours["rules"],
            f"border_color_primary{suffix}": colours["rules"],
            f"button_secondary_background_fill{suffix}": colours["card"],
            f"button_secondary_background_fill_hover{suffix}": colours["card"],
            f"button_secondary_border_color{suffix}": colours["rules"],
            f"button_secondary_border_color_hover{suffix}": colours["words"],
            f"button_secondary_text_color{suffix}": colours["ink"],
            f"slider_color{suffix}": ACCENT[suffix],
            f"color_accent{'_soft_dark' if suffix else ''}": ACCENT[suffix],
            f"checkbox_background_color_selected{suffix}": ACCENT[suffix],
            f"checkbox_border_color_selected{suffix}": ACCENT[suffix],
        }
    theme = gr.themes.Base(font=fonts, font_mono=mono)
    return theme.set(**settings, button_border_width="1px", block_padding="0px", layout_gap="18px")


def head() -> str:
    """The page's own style and script, as elements of its head."""
    here = Path(__file__).parent
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return f"<style>\n{style}</style>\n<script>\n{script}</script>"
