"""The confusion matrix as a picture, and its largest errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix

from perceptual_mae.report.confusion import CELLS, WRITTEN, confusion_figure
from perceptual_mae.report.figures import save


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def cell(pixels: np.ndarray, figure: Figure, classes: int, row: int, column: int) -> np.ndarray:
    """RGBA near the corner of a cell, away from its number."""
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    x = left + (column + 0.12) * (right - left) / classes
    y = top + (row + 0.12) * (bottom - top) / classes
    return pixels[int(y), int(x)].astype(int)


def test_rows_are_true_classes_and_a_colour_is_the_share_of_its_row(tmp_path: Path) -> None:
    true = [0] * 10 + [1] * 40 + [2] * 2
    guess = [0] * 9 + [1] + [1] * 20 + [2] * 20 + [2] * 2
    counts = confusion_matrix(true, guess)
    figure = confusion_figure(torch.from_numpy(counts), ["cat", "dog", "owl"])
    with Image.open(save(figure, tmp_path / "c.png")) as image:
        pixels = np.asarray(image)
    opacity = np.array([[cell(pixels, figure, 3, row, column)[3] for column in range(3)] for row in range(3)]) / 255
    share = counts / counts.sum(1, keepdims=True)
    np.testing.assert_allclose(opacity, np.sqrt(share), atol=0.01)
    right, wrong = cell(pixels, figure, 3, 2, 2), cell(pixels, figure, 3, 1, 2)
    assert right[2] > right[0]  # blue
    assert wrong[0] > wrong[2]  # orange
    # In percent of the row, not of all images.
    assert sorted(text for text in texts(figure) if text.isdigit()) == ["10", "100", "50", "50", "90"]
    assert pixels[0, -1, 3] == 0


def test_names_are_all_there_while_there_is_room_and_thinned_beyond() -> None:
    for classes in (2, 3, 10, 40, 100, 300):
        names = [f"class {number}" for number in range(classes)]
        figure = confusion_figure(np.eye(classes, dtype=int) * 7, names)
        shown = [text for text in texts(figure) if text.startswith("class")]
        assert shown[0] == "class 0"
        assert len(set(shown)) * 2 == len(shown)
        width, height = figure.get_size_inches() * figure.dpi
        assert width < 1300
        assert height < 1300
        left, right, _, _ = figure.axes[0].images[0].get_extent()
        size = (right - left) / classes
        step = int(shown[2].split()[1]) - int(shown[0].split()[1])
        assert step * size >= CELLS[0] > (step - 1) * size
        assert (classes <= 40) == (step == 1)
        assert ("100" in texts(figure)) == (size >= WRITTEN)


@pytest.mark.filterwarnings("ignore:Glyph .* missing")
def test_no_name_leaves_the_figure_and_long_ones_are_shortened() -> None:
    names = ["a" * 80, "W" * 21, "$x_1$ & 写真", "b"]
    figure = confusion_figure(np.ones((4, 4)), names)
    figure.canvas.draw()
    width, height = figure.get_size_inches() * figure.dpi
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= width + 1
        assert box.y1 <= height + 1
    assert "$x_1$ & 写真" in texts(figure)
    assert "a" * 80 not in texts(figure)


def test_a_class_without_images_is_an_empty_row_and_a_share_below_half_a_percent_is_told(tmp_path: Path) -> None:
    figure = confusion_figure(np.array([[999, 1], [0, 0]]), ["a", "b"])
    with Image.open(save(figure, tmp_path / "c.png")) as image:
        pixels = np.asarray(image)
    assert cell(pixels, figure, 2, 1, 0)[3] == cell(pixels, figure, 2, 1, 1)[3] == 0
    assert "<1" in texts(figure)


@pytest.mark.parametrize(
    ("counts", "names", "said"),
    [
        (np.ones((2, 3)), ["a", "b"], r"\(2, 3\)"),
        (np.ones(4), ["a"], r"\(4,\)"),
        (np.ones((0, 0)), [], r"\(0, 0\)"),
        (-np.ones((2, 2)), ["a", "b"], "counts"),
        (np.ones((2, 2)), ["a"], "2 classes, got 1"),
    ],
)
def test_what_is_no_confusion_matrix_is_refused(counts: np.ndarray, names: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        confusion_figure(counts, names)
