"""`pmae figures ada`: a photograph as the discriminator may see it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from perceptual_mae.cli import figures
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.report.augmentations import DRAWS, PROBABILITIES, SIDE, augmentations, draw_augmentations


@pytest.fixture(scope="module")
def photograph() -> Tensor:
    """`(3, SIDE, SIDE)` in [0, 1]."""
    return torch.from_numpy(data.astronaut()[:SIDE, 150 : 150 + SIDE].copy()).permute(2, 0, 1) / 255


def drawn(path: Path) -> np.ndarray:
    """The panels of a figure, `(rows, columns, SIDE, SIDE, 3)`."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGBA"))
    solid = pixels[..., 3] == 255
    full = [np.flatnonzero(solid.mean(axis) > 0.5) for axis in (1, 0)]
    tops, lefts = ([line[0] for line in np.split(one, np.flatnonzero(np.diff(one) > 1) + 1)] for one in full)
    return np.stack([
        np.stack([pixels[top : top + SIDE, left : left + SIDE, :3] for left in lefts]) for top in tops
    ])  # fmt: skip


def test_rows_are_probabilities_and_columns_draws(photograph: Tensor) -> None:
    grid = augmentations(photograph, seed=0)
    assert grid.shape == (len(PROBABILITIES), DRAWS, 3, SIDE, SIDE)
    assert (grid[0] == photograph).all()
    assert grid.min() >= 0
    assert grid.max() <= 1
    # With rising p each column has at least as much done to it, and at p = 1 everything.
    changed = (grid != photograph).flatten(2).any(2)
    assert (changed[1:] | ~changed[:-1]).all()
    assert changed[-1].all()
    assert torch.equal(grid, augmentations(photograph, seed=0))
    assert not torch.equal(grid, augmentations(photograph, seed=1))


def test_the_command_draws_a_photograph_of_ones_own(
    tmp_path: Path, photograph: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = (photograph * 255).round().byte()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "mine.png")
    out = tmp_path / "new" / "ada.png"
    figures.run(["ada", "--image", str(tmp_path / "mine.png"), "--out", str(out), "--seed", "3"])
    assert capsys.readouterr().out == f"{out}\n"
    expected = augmentations(photograph, seed=3).permute(0, 1, 3, 4, 2).mul(255).round().byte().numpy()
    assert np.array_equal(drawn(out), expected)


def test_by_default_it_is_a_photograph_of_the_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    figures.run(["ada"])
    panels = drawn(tmp_path / "ada.png")
    assert panels.shape[:2] == (len(PROBABILITIES), DRAWS)
    assert (panels[0] == panels[0, 0]).all()
    assert panels[0].std() > 40


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(UsageError, match=r"--image .*nope.png: no such file"):
        figures.run(["ada", "--image", str(tmp_path / "nope.png")])
    with pytest.raises(UsageError, match=r"--image .*words.png: not an image"):
        figures.run(["ada", "--image", str(tmp_path / "words.png")])
    with pytest.raises(UsageError, match=r"--out .* is a folder"):
        figures.run(["ada", "--out", str(tmp_path)])
    with pytest.raises(UsageError, match="no figure 'adda'; did you mean ada"):
        figures.run(["adda"])
    with pytest.raises(PmaeError, match=r"ada.png cannot be written: file exists"):
        figures.run(["ada", "--out", str(tmp_path / "words.png" / "ada.png")])
    monkeypatch.setattr("perceptual_mae.report.augmentations.load_photos", dict)
    with pytest.raises(PmaeError, match="give one with --image"):
        draw_augmentations(None, tmp_path / "ada.png", seed=0)
