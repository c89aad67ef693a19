"""Pictures of a run at several of its steps, to move along."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perceptual_mae.report.embed import Embedded, embed
from perceptual_mae.report.run_folder import Picture
from perceptual_mae.report.words import count

FRAMES = 12


@dataclass(frozen=True)
class Frame:
    """One picture of the film: the image, its step, and what is said beside that."""

    step: str
    caption: str
    image: Embedded


def film(pictures: Sequence[Picture], caption: Callable[[int], str], notes: list[str]) -> list[Frame]:
    """Up to `FRAMES` pictures, the first and the newest among them and closer together early on, when most changes.

    Args:
        pictures: by rising step.
        caption: what is said of a step.
        notes: to which pictures that cannot be read are added.
    """
    last = len(pictures) - 1
    if last < FRAMES:
        chosen = list(range(last + 1))
    else:
        chosen = sorted({round((i / (FRAMES - 1)) ** 2 * last) for i in range(FRAMES)})
    frames = []
    for picture in (pictures[index] for index in chosen):
        image = embed(picture.path)
        if image is None:
            notes.append(f"The picture {picture.path.name} could not be read and is left out.")
        else:
            frames.append(Frame(count(picture.step), caption(picture.step), image))
    return frames
