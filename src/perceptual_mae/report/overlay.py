"""What a network says of an image, drawn over the image: regions, objects, or the name of a class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize
from torchvision.utils import draw_bounding_boxes

from perceptual_mae.data.palette import class_colours
from perceptual_mae.models.task_network import Prediction
from perceptual_mae.report.figures import letters, shortened

SCORE = 0.5
"""Objects are drawn whose score is at least this."""
REGION, OBJECT = 0.55, 0.4
"""How much of the colour is seen where a class lies over an image, and where a single object does."""
NAMED = 96
"""Objects are named in images that have so many pixels a side: in smaller ones there is no room."""


def overlay(image: Tensor, prediction: Prediction, classes: Sequence[str], score: float = SCORE) -> Tensor:
    """An image with what is said of it drawn over it, `(3, H, W)` uint8.

    - segmented: the colour of its class over each pixel; pixels of no class stay as they are.
    - detected: box, name and score of each object, and its mask in the same colour; a name that would cover a better
      object's is left out. Without `scores`, as where the truth is drawn, every object is.
    - classified: the likeliest class and its probability, on a band at the bottom.

    Args:
        image: `(C, H, W)` uint8. Grey is drawn grey; of more than three channels the first three are shown.
        prediction: see `Prediction`.
        classes: names; a detected object of the label k is of `classes[k - 1]`.
        score: objects with less are left out.
    """
    shown = to_rgb(image)
    if "probabilities" in prediction:
        return _named(shown, prediction["probabilities"], classes)
    if "boxes" in prediction:
        return _objects(shown, prediction, classes, score)
    return _regions(shown, prediction["labels"], len(classes))


def likely(prediction: Prediction, score: float) -> Prediction:
    """The detected objects that have at least a score, best first as they were; of other predictions all."""
    if "scores" not in prediction:
        return prediction
    kept = prediction["scores"] >= score
    return {name: values[kept] for name, values in prediction.items()}


def to_rgb(image: Tensor) -> Tensor:
    """What a screen can show of `(C, H, W)` uint8, as `report.pictures` does it: `(3, H, W)` uint8."""
    if len(image) == 1:
        return image.expand(3, -1, -1)
    return image[:3] if len(image) >= 3 else torch.cat([image, torch.zeros_like(image[:1])])


def resized(image: Tensor, prediction: Prediction, size: tuple[int, int]) -> tuple[Tensor, Prediction]:
    """An image `(C, h, w)` uint8 and what is said of it at another size, `(height, width)` in pixels.

    An image that is enlarged four times or more keeps its pixels as sharp squares.
    """
    height, width = image.shape[1:]
    sharp = min(size[0] / height, size[1] / width) >= 4
    how = InterpolationMode.NEAREST if sharp else InterpolationMode.BICUBIC
    changed = dict(prediction)
    if "boxes" in prediction:
        changed["boxes"] = prediction["boxes"] * torch.tensor([size[1] / width, size[0] / height] * 2)
        if "masks" in prediction:
            changed["masks"] = _nearest(prediction["masks"].to(torch.uint8), size).bool()
    elif "labels" in prediction:
        changed["labels"] = _nearest(prediction["labels"][None], size)[0]
    return resize(image, list(size), how, antialias=True), changed


def ink_on(colour: Sequence[int]) -> tuple[int, int, int]:
    """Black or white, whichever is read better on a colour."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def _nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """`(n, h, w)` to `(n, *size)`; n may be 0."""
    if not len(maps):
        return maps.new_zeros(0, *size)
    return resize(maps, list(size), InterpolationMode.NEAREST)


def _regions(image: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The colours of classes over the pixels that have one."""
    known = labels.long() < classes
    colours = torch.from_numpy(class_colours(classes))[labels.long().clamp(max=classes - 1)].permute(2, 0, 1)
    mixed = (1 - REGION) * image.float() + REGION * colours.float()
    return torch.where(known, mixed.round().to(torch.uint8), image)


def _objects(image: Tensor, found: Prediction, classes: Sequence[str], score: float) -> Tensor:
    """Masks, then boxes, then names, the best on top."""
    found = likely(found, score)
    labels, scores = found["labels"].tolist(), found.get("scores")
    if not labels:
        return image.clone()
    palette = class_colours(max(*labels, 1)).tolist()
    colours = [tuple(palette[max(label, 1) - 1]) for label in labels]
    if "masks" in found:
        image = _tinted(image, found["masks"], colours)
    boxes = _inside(found["boxes"].float(), image)
    side = max(image.shape[1:])
    image = draw_bounding_boxes(image, boxes.flip(0), colors=colours[::-1], width=max(1, round(side / 300)))
    if side < NAMED:
        return image
    names = [classes[label - 1] if 0 < label <= len(classes) else f"class {label}" for label in labels]
    if scores is not None:
        names = [f"{name} {value:.2f}" for name, value in zip(names, scores.tolist(), strict=True)]
    return _tags(image, boxes.tolist(), names, colours, max(10, round(side / 48)))


def _tinted(image: Tensor, masks: Tensor, colours: Sequence[Sequence[int]]) -> Tensor:
    """The colours of objects over their masks `(n, H, W)`, those of the first ones where several lie over each other.

    torchvision's `draw_segmentation_masks` leaves such places dark.
    """
    painted = image.clone()
    for mask, colour in zip(masks.flip(0), reversed(colours), strict=True):
        painted[:, mask.bool()] = torch.tensor(colour, dtype=torch.uint8)[:, None]
    return ((1 - OBJECT) * image.float() + OBJECT * painted.float()).round().to(torch.uint8)


def _inside(boxes: Tensor, image: Tensor) -> Tensor:
    """Boxes cut to the image, corners in order: what is drawn must be there."""
    height, width = image.shape[1:]
    limits = boxes.new_tensor([width - 1, height - 1])
    low, high = boxes[:, :2].clamp(min=0).minimum(limits), boxes[:, 2:].clamp(min=0).minimum(limits)
    return torch.cat([low, torch.maximum(low, high)], dim=1)


def _tags(
    image: Tensor, boxes: list[list[float]], names: list[str], colours: Sequence[Sequence[int]], pixels: int
) -> Tensor:
    """A name on its colour at a corner of each box, the first ones first; none where it would cover another."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    pen, font, taken = ImageDraw.Draw(picture), letters(pixels), list[_Tag]()
    high = round(pixels * 1.35)
    for (left, top, _, bottom), name, colour in zip(boxes, names, colours, strict=True):
        text = _fitted(name, font, picture.width - 4)
        wide = round(font.getlength(text)) + 4
        x = max(0, min(round(left), picture.width - wide))
        above, inside, lowest, below = round(top) - high, round(top), round(bottom) - high, round(bottom) + 1
        places = (_Tag(x, y, wide, high) for y in (above, inside, lowest, below) if 0 <= y <= picture.height - high)
        place = next((one for one in places if not any(map(one.covers, taken))), None)
        if place is not None:
            taken.append(place)
            pen.rectangle((x, place.top, x + wide - 1, place.top + high - 1), fill=tuple(colour))
            pen.text((x + 2, place.top + high / 2), text, ink_on(colour), font, anchor="lm")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@dataclass(frozen=True)
class _Tag:
    """Where a name is written."""

    left: int
    top: int
    width: int
    height: int

    def covers(self, other: "_Tag") -> bool:
        """Whether both have a pixel in common."""
        across = abs(2 * (self.left - other.left) + self.width - other.width) < self.width + other.width
        return across and abs(self.top - other.top) < self.height


def _named(image: Tensor, probabilities: Tensor, classes: Sequence[str]) -> Tensor:
    """The likeliest class on a dark band along the bottom."""
    best = int(probabilities.argmax())
    height, width = image.shape[1:]
    pixels = max(10, round(min(height, width) / 14))
    high, font = min(height, round(pixels * 1.7)), letters(pixels)
    share = f" {100 * float(probabilities[best]):.0f} %"
    shaded = image.clone()
    shaded[:, height - high :] = (shaded[:, height - high :].float() * 0.3).to(torch.uint8)
    picture = Image.fromarray(shaded.permute(1, 2, 0).numpy())
    text = _fitted(classes[best], font, width - 8 - font.getlength(share)) + share
    ImageDraw.Draw(picture).text((4, height - high / 2), text, (255, 255, 255), font, anchor="lm")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _fitted(name: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """One printable line of a name, shortened until it is at most so many pixels wide, though never to nothing."""
    line = shortened(name, 80)
    while len(line) > 3 and font.getlength(line) > width:
        line = shortened(line, len(line) - 1)
    return line
