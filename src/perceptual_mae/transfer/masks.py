"""Predicted masks as files."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from perceptual_mae.data.palette import class_colours
from perceptual_mae.files import write_atomically


def write_mask(path: Path, labels: Tensor) -> Path:
    """Save classes `(H, W)` uint8 from 0 on as ADE20K has them: a PNG of their numbers from 1 on, shown in colours.

    Its palette has black for 0, which is no class, and for every class the colour that it has in all pictures.

    Returns:
        `path`.
    """
    image = Image.fromarray((labels + 1).numpy())
    image.putpalette(np.concatenate([np.zeros((1, 3), np.uint8), class_colours(255)]).tobytes())
    return write_atomically(path, lambda temporary: image.save(temporary, "PNG"))
