"""Predictions as pictures: what is drawn, where, and in which colour."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from perceptual_mae.data.labelled import Sample
from perceptual_mae.data.palette import class_colours
from perceptual_mae.report.figures import save
from perceptual_mae.report.overlay import OBJECT, REGION, likely, overlay, resized
from perceptual_mae.report.predictions import RIGHT, WRONG, prediction_grid

ANIMALS = ("cat", "dog", "owl", "newt")


@pytest.fixture(scope="session")
def images(photographs: NDArray[np.float32]) -> Tensor:
    """`(6, 3, 64, 64)` uint8."""
    return torch.from_numpy(np.rint(photographs * 255).astype(np.uint8))


def texts(figure: Figure) -> dict[str, str]:
    """Everything that is written, with its colour."""
    return {text.get_text(): to_hex(text.get_color()) for text in figure.axes[0].texts}


def found(boxes: list[list[float]], labels: list[int], scores: list[float], size: int = 128) -> dict[str, Tensor]:
    """Objects that fill their boxes, in a square image."""
    masks = torch.zeros(len(boxes), size, size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[int(top) : int(bottom), int(left) : int(right)] = True
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(scores),
        "masks": masks,
    }


# -- colours ----------------------------------------------------------------------------------------------------------


def test_twenty_colours_are_told_apart_and_sixty_differ() -> None:
    colours = class_colours(20).astype(float)
    # The eye's rough measure of how different two colours are (Riemersma's "redmean"); 100 is plainly another one.
    differences = []
    for one, other in combinations(colours, 2):
        red = (one[0] + other[0]) / 2
        weights = np.array([2 + red / 256, 4, 2 + (255 - red) / 256])
        differences.append(float(np.sqrt((weights * (one - other) ** 2).sum())))
    assert min(differences) > 100
    many = class_colours(150)
    assert len({tuple(colour) for colour in many[:60].tolist()}) == 60
    assert np.array_equal(many[60:120], many[:60])
    assert np.array_equal(many[:7], class_colours(7))  # a class keeps its colour whatever others there are


# -- over one image ---------------------------------------------------------------------------------------------------


def test_the_colour_of_a_class_lies_over_its_pixels_and_nothing_over_those_without(images: Tensor) -> None:
    labels = torch.full((64, 64), 255, dtype=torch.int64)
    labels[:32, :32], labels[:32, 32:] = 2, 0
    drawn = overlay(images[0], {"labels": labels}, ANIMALS)
    assert drawn.dtype == torch.uint8
    assert torch.equal(drawn[:, 32:], images[0][:, 32:])
    for label, part in ((2, np.s_[:, :32, :32]), (0, np.s_[:, :32, 32:])):
        colour = class_colours(4)[label].reshape(3, 1, 1)
        mixed = REGION * colour + (1 - REGION) * images[0][part].numpy()
        assert np.abs(drawn[part].numpy() - mixed).max() <= 1
    as_bytes = overlay(images[0], {"labels": labels.to(torch.uint8)}, ANIMALS)  # as networks give them
    assert torch.equal(as_bytes, drawn)


def test_objects_have_a_box_a_tint_and_a_name_and_unlikely_ones_have_nothing() -> None:
    image = torch.full((3, 128, 128), 100, dtype=torch.uint8)
    objects = found([[20, 40, 60, 100], [70, 40, 110, 100]], [1, 3], [0.9, 0.4])
    drawn = overlay(image, objects, ANIMALS)
    colour = torch.from_numpy(class_colours(4)[0])  # the label 1 is the first class
    tint = (OBJECT * colour + (1 - OBJECT) * 100).round()
    assert (drawn[:, 70, 40].float() - tint).abs().max() <= 1
    assert torch.equal(drawn[:, 70, 20], colour)  # the box
    assert torch.equal(drawn[:, 40, 59], colour)
    assert (drawn[:, 26:40, 20:60] != 100).any()  # its name, above
    right = drawn[:, :, 76:]
    assert (right == 100).all()
    assert (overlay(image, objects, ANIMALS, score=0.3)[:, 50, 90] != 100).any()
    without = {name: value for name, value in objects.items() if name != "scores"}  # as where the truth is drawn
    assert (overlay(image, without, ANIMALS)[:, 50, 90] != 100).any()
    nothing = found([], [], [])
    assert torch.equal(overlay(image, nothing, ANIMALS), image)
    assert image.unique().tolist() == [100]


def test_the_better_of_two_objects_lies_on_top() -> None:
    image = torch.zeros(3, 128, 128, dtype=torch.uint8)
    drawn = overlay(image, found([[10, 20, 90, 120], [50, 20, 120, 120]], [1, 2], [0.9, 0.8]), ANIMALS)
    blue, orange = (OBJECT * torch.from_numpy(class_colours(2)).float()).round()
    assert (drawn[:, 80, 30] - blue).abs().max() <= 1
    assert (drawn[:, 80, 70] - blue).abs().max() <= 1  # where both are
    assert (drawn[:, 80, 100] - orange).abs().max() <= 1


def test_names_do_not_cover_each_other() -> None:
    image = torch.zeros(3, 200, 200, dtype=torch.uint8)
    boxes = [[50, 50, 150, 150], [51, 51, 149, 149], [52, 52, 148, 148], [53, 53, 147, 147], [54, 54, 146, 146]]
    objects = {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor([1, 2, 3, 4, 1])}
    drawn = overlay(image, objects, ["first", "second", "third", "fourth"])
    colours = class_colours(4)
    # Above, inside, at the bottom, and below: each on its own colour, whole. The fifth has no place left.
    rows = [(drawn.permute(1, 2, 0).numpy() == colour).all(axis=2).sum(axis=1) for colour in colours]
    spans = [slice(36, 50), slice(51, 64), slice(134, 147), slice(147, 161)]
    assert [int(row[span].max()) > 12 for row, span in zip(rows, spans, strict=True)] == [True] * 4


@pytest.mark.parametrize("label", [0, -3, 9])
def test_labels_and_boxes_that_cannot_be_are_drawn_as_far_as_they_can(label: int) -> None:
    image = torch.zeros(3, 120, 100, dtype=torch.uint8)
    boxes = torch.tensor([[-50.0, -9.0, 500.0, 60.0], [90.0, 80.0, 20.0, 30.0], [300.0, 300.0, 400.0, 400.0]])
    drawn = overlay(image, {"boxes": boxes, "labels": torch.tensor([1, label, label])}, ANIMALS)
    assert drawn.shape == image.shape
    assert drawn.any()


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_images_of_any_number_of_channels_are_drawn(images: Tensor, channels: int) -> None:
    image = torch.cat([images[0], images[1], images[2]])[:channels]
    labels = {"labels": torch.full((64, 64), 255, dtype=torch.uint8)}
    drawn = overlay(image, labels, ANIMALS)
    assert drawn.shape == (3, 64, 64)
    shown = {1: image[[0, 0, 0]], 2: torch.cat([image, torch.zeros(1, 64, 64, dtype=torch.uint8)])}
    assert torch.equal(drawn, shown.get(channels, image[:3]))
    for said in (found([[5, 5, 50, 50]], [1], [1.0], 64), {"probabilities": torch.tensor([0.7, 0.1, 0.1, 0.1])}):
        assert overlay(image, said, ANIMALS).shape == (3, 64, 64)


def test_a_class_is_named_on_a_band_at_the_bottom(images: Tensor) -> None:
    drawn = overlay(images[0], {"probabilities": torch.tensor([0.1, 0.7, 0.1, 0.1])}, ANIMALS)
    assert torch.equal(drawn[:, :44], images[0][:, :44])
    assert (drawn[:, 50:] == 255).any()
    other = overlay(images[0], {"probabilities": torch.tensor([0.7, 0.1, 0.1, 0.1])}, ANIMALS)
    assert not torch.equal(drawn, other)
    long = overlay(images[0], {"probabilities": torch.tensor([1.0])}, ["写真 " * 99])
    assert long.shape == drawn.shape


def test_what_is_said_of_an_image_is_resized_with_it(images: Tensor) -> None:
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    labels[:, 32:] = 3
    small, said = resized(images[0], {"labels": labels}, (16, 32))
    assert small.shape == (3, 16, 32)
    assert said["labels"].unique().tolist() == [0, 3]
    assert torch.equal(said["labels"], labels[::4, ::2])
    objects = found([[16, 0, 32, 64]], [2], [0.5], 64)
    _, said = resized(images[0], objects, (128, 32))
    assert said["boxes"].tolist() == [[8.0, 0.0, 16.0, 128.0]]
    assert said["masks"].shape == (1, 128, 32)
    assert said["masks"][0].float().mean() == objects["masks"].float().mean()
    assert said["labels"].tolist() == [2]
    assert resized(images[0], found([], [], [], 64), (9, 9))[1]["masks"].shape == (0, 9, 9)


def test_of_objects_those_with_a_score_are_kept_and_other_predictions_are_whole() -> None:
    objects = likely(found([[0, 0, 5, 5], [1, 1, 6, 6], [2, 2, 7, 7]], [1, 2, 3], [0.9, 0.5, 0.4]), 0.5)
    assert objects["labels"].tolist() == [1, 2]
    assert len(objects["masks"]) == 2
    labels = {"labels": torch.zeros(3, 3)}
    assert likely(labels, 0.5) == labels


# -- many images ------------------------------------------------------------------------------------------------------


def test_guesses_are_green_where_right_and_red_where_the_first_is_wrong(images: Tensor) -> None:
    samples = [Sample(images[0], torch.tensor(1), "a.png"), Sample(images[1], torch.tensor(3), "b.png")]
    guesses = [torch.tensor([0.2, 0.7, 0.06, 0.04]), torch.tensor([0.5, 0.1, 0.02, 0.38])]
    figure = prediction_grid(samples, [{"probabilities": one} for one in guesses], ANIMALS)
    words = texts(figure)
    assert {"true: dog", "✓ dog", "70 %", "cat", "20 %", "owl", "6 %"} <= words.keys()
    assert {"true: newt", "✗ cat", "50 %", "✓ newt", "38 %"} <= words.keys()
    assert words["✓ dog"] == words["✓ newt"] == words["70 %"] == RIGHT
    assert words["✗ cat"] == words["50 %"] == WRONG
    assert words["cat"] not in (RIGHT, WRONG)
    widest = max(patch.get_width() for patch in figure.axes[0].patches)
    shares = {round(patch.get_width() / widest, 2) for patch in figure.axes[0].patches}
    assert shares == {1.0, 0.7, 0.2, 0.06, 0.5, 0.38, 0.1}  # the lengths of the bars


def test_two_classes_have_two_guesses_and_names_stay_in_their_column(images: Tensor, tmp_path: Path) -> None:
    names = ("a rather long name of a class that goes on and on for ever", "$x^2$ <b>写</b>")
    said = {"probabilities": torch.tensor([0.4, 0.6])}
    figure = prediction_grid([Sample(images[0], torch.tensor(0), "")], [said], names)
    save(figure, tmp_path / "x.png")
    written = [text for text in figure.axes[0].texts if text.get_text()]
    assert len(written) == 5
    width, height = figure.get_size_inches() * figure.dpi
    for text in written:
        box = text.get_window_extent()
        assert -1 <= box.x0 <= box.x1 <= width + 1
        assert -1 <= box.y0 <= box.y1 <= height + 1


def test_image_truth_and_prediction_stand_side_by_side_over_the_classes_that_are_seen(
    images: Tensor, tmp_path: Path
) -> None:
    truth = torch.full((64, 64), 255)
    truth[:32] = 1
    said = torch.full((64, 64), 3, dtype=torch.uint8)
    figure = prediction_grid([Sample(images[0], truth, "street.png")], [{"labels": said}], ANIMALS)
    words = texts(figure)
    assert {"Image", "Truth", "Prediction", "street.png", "dog", "newt"} == words.keys()
    swatches = [to_hex(patch.get_facecolor()) for patch in figure.axes[0].patches]
    assert swatches == [to_hex(class_colours(4)[label] / 255) for label in (1, 3)]
    with Image.open(save(figure, tmp_path / "g.png")) as opened:
        pixels = np.asarray(opened)
    row = pixels[120, :, 3] == 255
    starts = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    panels = [pixels[:, left:right, :3].astype(int) for left, right in zip(starts[::2], starts[1::2], strict=True)]
    assert len(panels) == 3
    image, marked, predicted = panels
    assert (image[60:150] != marked[60:150]).any()  # the upper half has a class
    assert np.array_equal(image[200:290], marked[200:290])  # the lower half has none
    assert (image[200:290] != predicted[200:290]).any()


def test_truth_stands_beside_what_is_likely_enough(images: Tensor) -> None:
    image = torch.nn.functional.interpolate(images[:1].float(), 128).to(torch.uint8)[0]
    target = {name: value for name, value in found([[10, 30, 80, 90]], [2], [1.0]).items() if name != "scores"}
    target["masks"] = target["masks"].to(torch.uint8)
    sample = Sample(image, target, "a.jpg")
    likely_one = prediction_grid([sample], [found([[10, 30, 80, 90]], [2], [0.9])], ANIMALS)
    unlikely = prediction_grid([sample], [found([[10, 30, 80, 90]], [2], [0.2])], ANIMALS)
    assert set(texts(likely_one)) == {"Truth", "Prediction", "a.jpg"}
    ours, theirs = (np.asarray(figure.axes[0].images[0].get_array()) for figure in (likely_one, unlikely))
    half = ours.shape[1] // 2
    assert np.array_equal(ours[:, :half], theirs[:, :half])
    assert not np.array_equal(ours[:, half:], theirs[:, half:])


@pytest.mark.parametrize("kind", ["classified", "segmented"])
def test_three_hundred_images_of_any_size_make_a_file_of_two_megabytes(kind: str, tmp_path: Path) -> None:
    from skimage import data

    photograph = torch.from_numpy(data.astronaut().copy()).permute(2, 0, 1)
    random = np.random.default_rng(0)
    samples, predictions = [], []
    for number in range(300):
        height, width = (int(side) for side in random.integers(8, 300, 2))
        top, left = int(random.integers(0, 512 - height)), int(random.integers(0, 512 - width))
        image = photograph[:, top : top + height, left : left + width]
        target = torch.tensor(number % 4)
        said = {"probabilities": torch.tensor([0.4, 0.3, 0.2, 0.1])}
        if kind == "segmented":
            target = (image[0] // 64).long()
            said = {"labels": image[1] // 64}
        samples.append(Sample(image, target, f"{number}.png"))
        predictions.append(said)
    path = save(prediction_grid(samples, predictions, ANIMALS), tmp_path / "many.png")
    assert path.stat().st_size < 2_200_000
    with Image.open(path) as opened:
        assert max(opened.size) < 6000


def test_nothing_or_too_little_to_draw_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="0 of 0"):
        prediction_grid([], [], ANIMALS)
    with pytest.raises(ValueError, match="0 of 1"):
        prediction_grid([Sample(images[0], torch.tensor(0), "")], [], ANIMALS)
