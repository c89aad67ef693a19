"""The picture of attention maps, read back pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perceptual_mae.report.attention_grid import ModelMaps, attention_grid, heat, spotlight
from perceptual_mae.report.figures import save


def drawn(figure, path: Path) -> np.ndarray:
    with Image.open(save(figure, path)) as image:
        return np.asarray(image)


def solid_parts(flags: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


@pytest.fixture
def maps() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 0.02, (6, 12, 8, 8)).astype(np.float32)


def test_columns_are_the_original_and_a_block_of_heads_a_model(tmp_path, photographs, maps):
    some = photographs[:2]
    models = [
        ModelMaps("twelve", some, maps[:2], labels=[str(head) for head in range(12)]),
        ModelMaps("five", some, maps[:2, :5], labels=list("abcde")),
    ]
    figure = attention_grid(some, models, footer="what this is")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:3] == ["Original", "twelve", "five"]
    assert texts[3] == "0"
    assert texts.count("11") == 2  # an image each
    assert texts.count("e") == 2
    assert texts[-1] == "what this is"

    pixels = drawn(figure, tmp_path / "grid.png")
    # Three rows of heads for each image: the original is as high as they are; twelve make four columns, five make two.
    top = next(y for y in range(40, 60) if (pixels[y, :, 3] == 255).sum() > 300)
    columns = solid_parts(pixels[top + 30, :, 3] == 255)
    assert len(columns) == 1 + 4 + 2
    heights = solid_parts(pixels[top:, columns[1][0] + 60, 3] == 255)[:3]
    tile = heights[0][1]
    assert all(end - start == tile for start, end in heights)
    assert all(end - start == tile for start, end in columns[1:])
    original = columns[0][1] - columns[0][0]
    assert original == heights[2][1]
    # Of five heads the sixth place is empty.
    assert (pixels[top + heights[2][0] + 20, columns[5][0] + 20, 3], pixels[top + heights[2][0] + 20, -20, 3]) == (
        255,
        0,
    )


def test_every_map_stands_where_its_label_says(tmp_path):
    # Each looks at one patch of its own, none of them under a label.
    maps = np.zeros((2, 10, 4, 4), np.float32)
    for image, head in np.ndindex(2, 10):
        maps[image, head].flat[4 + (image * 5 + head) % 12] = 1
    black = np.zeros((2, 3, 32, 32), np.float32)
    models = [
        ModelMaps("six", black, maps[:, :6], labels=list("abcdef")),
        ModelMaps("four", black, maps[:, 6:], labels=list("ghij")),
    ]
    figure = attention_grid(black, models)
    pixels = drawn(figure, tmp_path / "grid.png").astype(int)
    for head, label in enumerate("abcdefghij"):
        found = [text.get_position() for text in figure.axes[0].texts if text.get_text() == label]
        assert len(found) == 2
        for image, (x, y) in enumerate(found):
            left, top = round(x) - 5, round(y) - 15
            assert pixels[top, left - 1, 3] == 0
            assert (pixels[top : top + 147, left : left + 147, 3] == 255).all()
            light = pixels[top + 37 : top + 147, left : left + 147, :3].sum(axis=2)
            row, column = np.unravel_index(light.argmax(), light.shape)
            assert (row // 37 + 1) * 4 + column // 37 == 4 + (image * 5 + head) % 12, label


def test_one_map_a_model_is_as_large_as_the_original(tmp_path, photographs, maps):
    mean = maps.mean(axis=1, keepdims=True)
    figure = attention_grid(photographs, [ModelMaps("a", photographs, mean)], captions=list("uvwxyz"))
    assert [text.get_text() for text in figure.axes[0].texts][-6:] == list("uvwxyz")
    pixels = drawn(figure, tmp_path / "grid.png")
    widths = {end - start for start, end in solid_parts(pixels[100, :, 3] == 255)}
    assert widths == {208}


def test_models_of_another_size_and_shape_stand_beside_each_other(tmp_path, photographs, maps):
    small = torch.nn.functional.interpolate(torch.from_numpy(photographs), size=(16, 32))
    models = [ModelMaps("a", photographs, maps[:, :1]), ModelMaps("b", small, maps[:, :1, :2, :4])]
    pixels = drawn(attention_grid(photographs, models), tmp_path / "grid.png")
    assert [end - start for start, end in solid_parts(pixels[100, :, 3] == 255)][:3] == [208, 208, 416]


def test_a_map_is_bright_where_attention_is_and_shows_the_photograph_where_it_is_not():
    attention = np.zeros((8, 8), np.float32)
    attention[2, 5] = 0.003  # each map has its own scale
    picture = np.full((64, 64, 3), 200, np.uint8)
    shown = heat(picture, attention).astype(int)
    assert np.unravel_index(shown.sum(axis=2).argmax(), (64, 64)) in {
        (y, x) for y in range(16, 24) for x in range(40, 48)
    }
    assert abs(shown[:, :24] - 60).max() <= 4  # the darkened photograph
    assert (shown[20, 44] > [230, 200, 0]).all()
    assert np.array_equal(heat(picture, attention * 100), shown)
    assert abs(heat(picture, attention * 0).astype(int) - 60).max() <= 4  # no attention at all is no division by zero


def test_a_spotlight_leaves_what_is_kept_and_shades_the_rest(photographs):
    picture = np.rint(photographs[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    kept = np.zeros((8, 8), bool)
    kept[1, 6] = True
    shown = spotlight(picture, kept)
    inside = np.zeros((64, 64), bool)
    inside[8:16, 48:56] = True
    assert np.array_equal(shown[inside], picture[inside])
    rest = shown[~inside].astype(int)
    assert (rest[:, 2] > rest[:, 1]).all()  # violet, whatever the photograph


def test_what_is_kept_takes_the_place_of_the_map(tmp_path, photographs, maps):
    everything = np.ones_like(maps[:, :1], bool)
    models = [ModelMaps("all of it", photographs, maps[:, :1], kept=everything)]
    pixels = drawn(attention_grid(photographs, models), tmp_path / "grid.png")
    (left, middle), (right, _) = solid_parts(pixels[100, :, 3] == 255)[:2]
    size = middle - left
    assert np.array_equal(pixels[40 : 40 + size, left : left + size], pixels[40 : 40 + size, right : right + size])


def test_what_does_not_belong_together_is_refused(photographs, maps):
    with pytest.raises(ValueError, match="at least one image and one model"):
        attention_grid(photographs, [])
    with pytest.raises(ValueError, match="mine: expected 6 images and maps"):
        attention_grid(photographs, [ModelMaps("mine", photographs, maps[:5])])
    with pytest.raises(ValueError, match="shape of the maps"):
        attention_grid(photographs, [ModelMaps("mine", photographs, maps, kept=maps[:, :1] > 0)])
    with pytest.raises(ValueError, match="one label a map"):
        attention_grid(photographs, [ModelMaps("mine", photographs, maps, labels=["0"])])
    with pytest.raises(ValueError, match="one caption an image"):
        attention_grid(photographs, [ModelMaps("mine", photographs, maps)], captions=["one"])
