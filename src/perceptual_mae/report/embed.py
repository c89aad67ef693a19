"""Pictures inside a page: as data, so that the page is one file."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

PLAIN_BYTES = 120_000
WIDEST = 1800
"""Pixels."""
HIGHEST = 16_383
"""Pixels: WebP has no longer side."""


@dataclass(frozen=True)
class Embedded:
    """An image as a `data:` address, with its size on the page in pixels."""

    uri: str
    width: int
    height: int


def embed(path: Path) -> Embedded | None:
    """A PNG file for a page: as it is when small, otherwise as WebP of bounded size. None when it cannot be read."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            picture = opened.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    width, height = picture.size
    kind = "png"
    if len(content) > PLAIN_BYTES or width > WIDEST:
        scale = min(1.0, WIDEST / width, HIGHEST / height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        file = io.BytesIO()
        shown = picture if scale == 1.0 else picture.resize(size, Image.Resampling.LANCZOS)
        try:
            shown.save(file, "WEBP", quality=86, method=2)
        except (OSError, ValueError):
            return None
        kind, content, (width, height) = "webp", file.getvalue(), size
    return Embedded(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width, height)
