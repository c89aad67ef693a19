import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from perceptual_mae.report.figures import before_after_grid, reconstruction_grid, save, shortened, side_by_side
from perceptual_mae.report.pictures import mosaic, to_pictures


def drawn(figure, path: Path) -> np.ndarray:
    with Image.open(save(figure, path)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def panels_of(pixels: np.ndarray, columns: int) -> list[np.ndarray]:
    """The pictures of a drawing of one image: the solid stretches of its middle row."""
    solid = pixels[-1, :, 3] == 255
    edges = np.flatnonzero(np.diff(np.concatenate([[0], solid.astype(int), [0]])))
    assert len(edges) == 2 * columns
    size = int(edges[1] - edges[0])
    return [pixels[-size:, start:stop, :3] for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def test_panels_show_original_masked_reconstruction_and_pasted(tmp_path, photographs, masks):
    originals, removed = photographs[:1], masks[:1]
    painted = 1 - originals
    figure = reconstruction_grid(originals, removed, painted, np.where(removed, painted, originals))
    shown = panels_of(drawn(figure, tmp_path / "grid.png"), 4)

    factor = shown[0].shape[0] // 64
    assert factor >= 3  # a 64-pixel image is seen large
    big = [panel.astype(int) for panel in shown]
    gone = removed[0, 0].repeat(factor, 0).repeat(factor, 1)
    truth = np.rint(originals[0].transpose(1, 2, 0) * 255).astype(int).repeat(factor, 0).repeat(factor, 1)
    assert np.array_equal(big[0], truth)  # to the pixel: nothing was resampled
    assert np.array_equal(big[1][~gone], truth[~gone])
    assert (abs(big[1][gone] - 127.5) <= 0.5).all()
    assert (abs(big[2] - (255 - truth)) <= 1).all()
    assert np.array_equal(big[3][~gone], truth[~gone])
    assert (abs(big[3][gone] - (255 - truth)[gone]) <= 1).all()


def test_models_stand_side_by_side_under_their_names(tmp_path, photographs, masks):
    originals = photographs[:1]
    figure = side_by_side(originals, masks[:1], {"one": originals, "other": 1 - originals})
    assert [text.get_text() for text in figure.axes[0].texts] == ["Original", "Masked", "one", "other"]
    first, _, one, other = panels_of(drawn(figure, tmp_path / "grid.png"), 4)
    assert np.array_equal(one, first)
    assert (abs(other.astype(int) - (255 - first.astype(int))) <= 1).all()


def test_tensors_of_half_precision_are_shown_as_arrays_are(photographs):
    tensor = torch.from_numpy(photographs).to(torch.bfloat16).requires_grad_()
    assert (abs(to_pictures(tensor).astype(int) - to_pictures(photographs)) <= 1).all()


def test_values_are_clamped_and_what_is_not_finite_does_not_break_a_picture():
    values = np.array([-3.0, 0.5, 7.0, np.nan, np.inf, -np.inf], np.float32).reshape(1, 1, 2, 3)
    assert to_pictures(values)[0, :, :, 0].tolist() == [[0, 128, 255], [0, 255, 0]]


def test_channels_become_what_a_screen_has(photographs):
    grey, many = photographs[:, :1], np.concatenate([photographs, photographs[:, :1]], axis=1)
    shown = to_pictures(grey)
    assert (shown[..., 0] == shown[..., 1]).all()
    assert (shown[..., 0] == shown[..., 2]).all()
    assert np.array_equal(to_pictures(many), to_pictures(photographs))
    assert (to_pictures(photographs[:, :2])[..., 2] == 0).all()


def test_bytes_in_place_of_floats_are_refused(photographs):
    with pytest.raises(ValueError, match="uint8"):
        to_pictures((photographs * 255).astype(np.uint8))


def test_shapes_that_do_not_belong_together_are_refused(photographs, masks):
    with pytest.raises(ValueError, match=r"\(5, 3, 64, 64\)"):
        reconstruction_grid(photographs, masks, photographs[:5], photographs)
    with pytest.raises(ValueError, match="caption"):
        reconstruction_grid(photographs, masks, photographs, photographs, captions=["one"])


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 16), high=st.sampled_from([8, 32, 64, 300]), wide=st.sampled_from([8, 64, 256, 700]))
def test_a_grid_holds_every_image_once_and_fits_a_page(n, high, wide):
    # Every picture has its own level of grey, so that it can be found again.
    levels = np.arange(1, n + 1, dtype=np.uint8) * 10
    column = np.broadcast_to(levels[:, None, None, None], (n, high, wide, 3))
    layout = mosaic([column] * 4, header=30, caption=0)
    shown, area = np.unique(layout.canvas[layout.canvas[..., 3] > 0][:, 0], return_counts=True)
    assert shown.tolist() == levels.tolist()
    assert len(set(area.tolist())) == 1
    longest = math.sqrt(area[0] / 4 * max(high, wide) / min(high, wide))
    assert 150 < longest < 850
    height, width = layout.canvas.shape[:2]
    assert max(height, width) < 4000
    assert len(layout.captions) == n


def test_sixteen_images_stand_in_groups_without_a_gap():
    layout = mosaic([np.zeros((16, 64, 64, 3), np.uint8)] * 4, header=30, caption=0)
    height, width = layout.canvas.shape[:2]
    assert 16 % len(layout.headers) == 0
    assert len(layout.headers) > 1
    assert 0.5 < width / height < 3


def test_captions_in_any_script_and_with_dollars_are_drawn(tmp_path, photographs, masks):
    names = ["a$x^2$.png", "$\\frac{$", "写真/猫.jpg", "two\nlines\tand a tab", "", "long/" * 60 + "end.jpg"]
    grid = [photographs, masks, photographs, photographs]
    with_names = drawn(reconstruction_grid(*grid, captions=names), tmp_path / "names.png")
    assert with_names.shape[0] > drawn(reconstruction_grid(*grid), tmp_path / "none.png").shape[0]


def test_a_shortened_name_keeps_its_end_and_stays_on_its_line():
    assert shortened("short.jpg", 20) == "short.jpg"
    assert shortened("a\nb\x1b[31m", 20) == "a b [31m"
    cut = shortened("folder/" * 9 + "cat.jpg", 20)
    assert len(cut) == 20
    assert cut.endswith("cat.jpg")


def test_saving_leaves_no_half_file_behind(tmp_path, photographs, masks):
    figure = reconstruction_grid(photographs, masks, photographs, photographs)
    target = tmp_path / "new" / "grid.png"
    save(figure, target)
    first = target.read_bytes()
    with target.open("rb") as reader:  # who has begun to read the old file, reads the old file to its end
        save(before_after_grid(photographs, masks, photographs, photographs), target)
        assert target.read_bytes() != first
        assert reader.read() == first
    first = target.read_bytes()

    def breaks(path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    figure.savefig = breaks
    with pytest.raises(OSError, match="disk full"):
        save(figure, target)
    assert target.read_bytes() == first
    assert [path.name for path in target.parent.iterdir()] == ["grid.png"]
