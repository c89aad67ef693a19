"""`--to onnx` and `--to torch-export`: any batch, any size, the tokens of our encoder at that size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import WriteVit, images
from torch import Tensor

from perceptual_mae import load_encoder
from perceptual_mae.export import export_encoder
from perceptual_mae.export.any_size import AnySize, cubic_weights

SHAPES = [(1, (32, 32)), (7, (32, 32)), (2, (48, 24)), (3, (16, 40)), (1, (64, 64))]


def program(folder: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(folder / "encoder.pt2").module()


def session(folder: Path) -> Callable[[Tensor], Tensor]:
    onnxruntime = pytest.importorskip("onnxruntime")
    opened = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    shapes = {one.name: one.shape for one in (*opened.get_inputs(), *opened.get_outputs())}
    assert shapes == {"images": ["batch", 4, "height", "width"], "tokens": ["batch", "tokens", 64]}
    return lambda pixels: torch.from_numpy(opened.run(None, {"images": pixels.numpy()})[0])


def near(theirs: Tensor, ours: Tensor, tolerance: float) -> None:
    """Of numbers up to 1 within the tolerance, of larger ones in proportion."""
    assert theirs.shape == ours.shape
    assert (theirs - ours).abs().max() < tolerance * max(1, ours.abs().max())


FORMATS: dict[str, tuple[Callable[[Path], Any], float]] = {"torch-export": (program, 1e-5), "onnx": (session, 1e-4)}


@torch.no_grad()
@pytest.mark.parametrize("target", FORMATS)
def test_any_batch_and_any_size(
    write_vit: WriteVit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    if target == "onnx":
        pytest.importorskip("onnxscript")
    file, (open_it, tolerance) = write_vit(reg_tokens=1, channels=4), FORMATS[target]
    monkeypatch.chdir(tmp_path)
    exported = export_encoder(file, target, "out")
    opened = open_it(exported.path)
    for batch, size in SHAPES:
        pixels = images(batch, 4, size)
        tokens = opened(pixels)
        assert tokens.shape == (batch, 1 + size[0] * size[1] // 64, 64)
        near(tokens, load_encoder(file, image_size=size)(pixels), tolerance)
    assert len(exported.checks) == 4
    card = (exported.path / "README.md").read_text(encoding="utf-8")
    assert "resampled in the graph" in card
    names: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    assert names["tokens"].shape == (1, 17, 64)


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {"init_values": 0.5, "no_embed_class": True},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"image_size": (48, 16), "qk_norm": True},
    ],
    ids=["patches-alone-have-positions", "no-class-token", "not-square"],
)
def test_transformers_of_other_kinds(write_vit: WriteVit, settings: dict[str, Any]) -> None:
    file = write_vit(**settings)
    network = AnySize(load_encoder(file)).eval()
    for batch, size in SHAPES:
        pixels = images(batch, 3, size)
        near(network(pixels), load_encoder(file, image_size=size)(pixels), 1e-5)


@torch.no_grad()
def test_images_one_patch_high_have_one_size(write_vit: WriteVit, tmp_path: Path) -> None:
    file = write_vit(image_size=(8, 32))
    exported = export_encoder(file, "torch-export", tmp_path / "out")
    opened = program(exported.path)
    for batch in (1, 5):
        pixels = images(batch, 3, (8, 32))
        near(opened(pixels), load_encoder(file)(pixels), 1e-5)
    assert "export it with `--image-size`" in (exported.path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("old", "new"), [(8, 8), (8, 16), (8, 5), (14, 3), (3, 14), (1, 4), (6, 1)])
def test_positions_are_resampled_as_pytorch_does(old: int, new: int) -> None:
    signal = torch.rand(1, 2, old, 3, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(signal, size=(new, 3), mode="bicubic", antialias=True)
    torch.testing.assert_close(cubic_weights(old, new) @ signal, expected, atol=1e-6, rtol=1e-6)
    if old == new:
        assert torch.equal(cubic_weights(old, new), torch.eye(old))
