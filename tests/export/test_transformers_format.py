"""`--to transformers`: `ViTModel` and `ViTMAEForPreTraining` alone open what was written, and compute the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Runs, WriteVit, images
from PIL import Image
from safetensors.torch import load_file

from perceptual_mae import load_encoder
from perceptual_mae.augment.crops import center_crop_resize
from perceptual_mae.errors import UsageError
from perceptual_mae.export import export_encoder
from perceptual_mae.pretraining.build import trained_model
from perceptual_mae.pretraining.folder import RunFolder

transformers = pytest.importorskip("transformers")
from transformers import AutoImageProcessor, AutoModel, ViTMAEForPreTraining, ViTModel  # noqa: E402


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


@torch.no_grad()
def same_features(spec: Path | str, folder: Path, **options: Any) -> None:
    encoder = load_encoder(spec, **options)
    pixels = images(2, encoder.in_channels, encoder.image_size)
    output = ViTModel.from_pretrained(folder).eval()((pixels - encoder.mean) / encoder.std)
    assert (output.last_hidden_state - encoder(pixels)).abs().max() < 1e-5
    assert (output.pooler_output - encoder(pixels)[:, 0]).abs().max() < 1e-5


@pytest.mark.parametrize(("channels", "size"), [(3, "32"), (1, "32x48"), (4, "48x32")])
def test_features(runs: Runs, tmp_path: Path, channels: int, size: str) -> None:
    run = runs(channels=channels, image_size=size)
    exported = export_encoder(run, "transformers", tmp_path / "out")
    same_features(run, exported.path)
    assert config_of(exported.path)["image_size"] == (32 if size == "32" else [*map(int, size.split("x"))])
    assert (exported.path / "vit-mae").is_dir() == (size == "32")
    if size != "32":
        assert "not square" in exported.notes[0]
    assert type(AutoModel.from_pretrained(exported.path)) is ViTModel


@torch.no_grad()
@pytest.mark.parametrize("norm_pix_loss", [False, True])
@pytest.mark.parametrize(("method", "architecture"), [("mse", None), ("msg-gan-p", "mae")])
def test_reconstructions(
    runs: Runs, tmp_path: Path, method: str, architecture: str | None, norm_pix_loss: bool
) -> None:
    run = runs(method, norm_pix_loss=norm_pix_loss, architecture=architecture, mask_ratio=0.6)
    folder = export_encoder(run, "transformers", tmp_path / "out").path
    ours, _ = trained_model(RunFolder.read(run))
    theirs = ViTMAEForPreTraining.from_pretrained(folder / "vit-mae").eval()
    pixels = images(2, 3, (32, 32))
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(3))
    drawn, expected = theirs((pixels - ours.mean) / ours.std, noise=noise), ours(pixels, mask_ratio=0.6, noise=noise)
    assert torch.equal(drawn.mask.bool(), expected.mask)
    assert (drawn.logits - expected.patches).abs().max() < 1e-5
    wrong = ((expected.patches - expected.target) ** 2).mean(dim=-1)[expected.mask].mean()
    assert drawn.loss.item() == pytest.approx(wrong.item(), rel=1e-5)
    if not norm_pix_loss:
        assert (theirs.unpatchify(drawn.logits) * ours.std + ours.mean - expected.images).abs().max() < 1e-5


def test_msg_mae_has_an_encoder_for_transformers_and_no_decoder(runs: Runs, tmp_path: Path) -> None:
    run = runs("msg-gan")
    exported = export_encoder(run, "transformers", tmp_path / "out")
    same_features(run, exported.path)
    assert not (exported.path / "vit-mae").exists()
    assert "MSG-MAE" in exported.notes[0]
    assert "MSG-MAE" in (exported.path / "README.md").read_text(encoding="utf-8")


def test_another_size(runs: Runs, tmp_path: Path) -> None:
    exported = export_encoder(runs(), "transformers", tmp_path / "out", image_size="48x24")
    same_features(runs(), exported.path, image_size="48x24")
    assert "--image-size" in exported.notes[0]


def test_photographs_are_looked_at_as_we_do(runs: Runs, tmp_path: Path) -> None:
    from skimage import data

    folder = export_encoder(runs(), "transformers", tmp_path / "out").path
    photo = data.chelsea()  # 300 x 451
    seen = AutoImageProcessor.from_pretrained(folder)(Image.fromarray(photo), return_tensors="pt")["pixel_values"]
    encoder = load_encoder(runs())
    ours = (
        center_crop_resize(torch.from_numpy(photo.copy()).permute(2, 0, 1), (32, 32)) / 255 - encoder.mean
    ) / encoder.std
    assert seen.shape == ours.shape
    # It resizes before it crops: half a pixel at the edges.
    assert (seen - ours).abs().mean() < 0.05
    grey = export_encoder(runs(channels=1), "transformers", tmp_path / "grey").path
    image = photo[..., 0]
    given = image[..., None] if transformers.__version__.startswith("4.") else Image.fromarray(image)
    seen = AutoImageProcessor.from_pretrained(grey)(given, return_tensors="pt")["pixel_values"]
    assert seen.shape == (1, 1, 32, 32)


def test_names_are_those_of_published_models(runs: Runs, tmp_path: Path) -> None:
    folder = export_encoder(runs(), "transformers", tmp_path / "out").path
    names = load_file(folder / "model.safetensors")
    assert "encoder.layer.5.attention.attention.query.weight" in names
    assert "encoder.layer.0.output.dense.bias" in names
    assert names["encoder.layer.0.attention.attention.key.weight"].shape == (96, 96)
    names = load_file(folder / "vit-mae" / "model.safetensors")
    assert "vit.encoder.layer.0.layernorm_before.weight" in names
    assert "decoder.decoder_layers.1.intermediate.dense.weight" in names
    assert {"decoder.mask_token", "decoder.decoder_pos_embed", "decoder.decoder_pred.weight"} <= set(names)
    assert config_of(folder)["layer_norm_eps"] == 1e-6


def test_a_file_without_biases_of_queries(write_vit: WriteVit, tmp_path: Path) -> None:
    file = write_vit(qkv_bias=False, channels=2)
    exported = export_encoder(file, "transformers", tmp_path / "out")
    same_features(file, exported.path)
    assert not (exported.path / "preprocessor_config.json").exists()  # transformers knows no images of two channels
    assert "no decoder" in exported.notes[0]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"init_values": 0.5}, "it has layer scale"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "it has no class token"),
        ({"reg_tokens": 2}, "it has register tokens"),
        ({"qk_norm": True}, "it has norms of queries and keys"),
        ({"final_norm": False}, "it has no last norm"),
    ],
)
def test_what_vit_model_cannot_be(write_vit: WriteVit, tmp_path: Path, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=rf"--to transformers: its ViTModel cannot be .*: {why}; try --to timm"):
        export_encoder(write_vit(**settings), "transformers", tmp_path / "out")
    assert not (tmp_path / "out").exists()
