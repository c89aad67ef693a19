"""`timm:NAME`, `timm:NAME:FILE` and `hub:`: the tokens of timm's own network with the same weights, or one line."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from small_networks import expected_tokens, images, pixel_statistics, refused, small_vit, under, whole

import perceptual_mae
from perceptual_mae.encoders import open_encoder


def test_a_classifier_of_imagenet(golden: Path) -> None:
    file = golden.parent / "weights" / "tf_efficientnet_lite0.safetensors"
    if not file.is_file():
        pytest.skip("no ../shared/weights/tf_efficientnet_lite0.safetensors beside the repository")
    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    reference.load_state_dict(load_file(file))
    encoder, text = open_encoder(f"timm:tf_efficientnet_lite0:{file}", image_size=96)
    pixels = images(3, 96, 96)
    features = expected_tokens(reference, pixels, *pixel_statistics(reference)).flatten(2).mT
    tokens = encoder(pixels)
    # With channels last, convolutions add up in another order.
    torch.testing.assert_close(tokens[:, 1:], features, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokens[:, 0], features.mean(dim=1), atol=1e-4, rtol=1e-4)
    assert (encoder.grid, encoder.embed_dim, encoder.depth, encoder.patch_size) == ((3, 3), 1280, 0, 32)
    assert text.startswith("tf_efficientnet_lite0, 96 x 96: 245 of 245 tensors matched; 2 of the file ignored (class")


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "convnext_atto", "test_vit3"])
def test_timm_with_a_file(tmp_path: Path, name: str) -> None:
    source = whole(name)
    torch.save({"state_dict": under("module.", source.state_dict()), "epoch": 1}, tmp_path / "weights.pth")
    encoder, text = open_encoder(f"timm:{name}:{tmp_path / 'weights.pth'}")
    assert encoder.image_size == source.pretrained_cfg["input_size"][1:] == (160, 160) or name == "convnext_atto"
    features = expected_tokens(source, pixels := images(3, *encoder.image_size), *pixel_statistics(source))
    patches = features.flatten(2).mT if features.ndim == 4 else features[:, source.num_prefix_tokens :]
    torch.testing.assert_close(encoder(pixels)[:, 1:], patches, atol=1e-5, rtol=1e-5)
    assert "of the file ignored" in text
    assert encoder.name == name


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "deit3_small_patch16_224", "swin_tiny_patch4_window7_224"])
def test_transformers_of_other_kinds_at_another_size(tmp_path: Path, name: str) -> None:
    shape: dict[str, Any] = {"embed_dim": 48, "depths": (1, 1), "num_heads": (3, 3)} if "swin" in name else {
        "embed_dim": 64, "depth": 2, "num_heads": 2,
    }  # fmt: skip
    options = {"pretrained": False, "num_classes": 0}
    built = timm.create_model
    timm_with_shape = partial(built, **shape)
    torch.manual_seed(1)
    source = timm_with_shape(name, img_size=(96, 64), **options).eval()
    state = source.state_dict()
    if "deit3" in name:  # as it was published
        state = {re.sub(r"ls(\d)\.gamma", r"gamma_\1", key): tensor for key, tensor in state.items()}
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", timm_with_shape)
        encoder = perceptual_mae.load_encoder(f"timm:{name}:{tmp_path / 'weights.safetensors'}", image_size=(96, 64))
    features = expected_tokens(source, pixels := images(3, 96, 64), *pixel_statistics(source))
    tokens = features.flatten(1, 2) if features.ndim == 4 else features[:, 1:]
    torch.testing.assert_close(encoder(pixels)[:, 1:], tokens, atol=1e-5, rtol=1e-5)
    assert encoder.depth == (0 if "swin" in name else 2)
    assert encoder.grid == ((12, 8) if "swin" in name else (6, 4))


def test_timm_at_another_size_than_the_file(tmp_path: Path) -> None:
    source = whole("test_vit")
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    encoder = perceptual_mae.load_encoder(f"timm:test_vit:{tmp_path / 'weights.safetensors'}", image_size=(64, 96))
    source.set_input_size((64, 96))
    expected = expected_tokens(source, pixels := images(3, 64, 96), *pixel_statistics(source))
    torch.testing.assert_close(encoder(pixels), expected, atol=1e-5, rtol=1e-5)
    code, line = refused(f"timm:test_vit:{tmp_path / 'weights.safetensors'}", image_size=100)
    assert code == 2
    assert line.startswith("--image-size 100: ENCODER timm:test_vit:")


def test_mean_and_std_of_the_file(tmp_path: Path) -> None:
    state, said = whole("test_vit").state_dict(), {"mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]"}
    for metadata in (said, said | {"std": "[0.4, 0.5]"}):  # two channels are another network's
        save_file(state, tmp_path / "weights.safetensors", metadata)
        encoder = perceptual_mae.load_encoder(f"timm:test_vit:{tmp_path / 'weights.safetensors'}")
        expected = [0.1, 0.2, 0.3] if metadata is said else pixel_statistics(encoder.network)[0].tolist()
        assert encoder.mean.flatten().tolist() == pytest.approx(expected)


def test_mean_and_std_among_the_tensors_are_used_and_not_ignored(tmp_path: Path) -> None:
    pixels = {"mean": torch.full((1, 3, 1, 1), 0.5), "std": torch.full((1, 3, 1, 1), 0.25)}
    save_file(whole("test_vit").state_dict() | pixels, tmp_path / "weights.safetensors")
    encoder, text = open_encoder(f"timm:test_vit:{tmp_path / 'weights.safetensors'}")
    assert encoder.mean.flatten().tolist() == [0.5] * 3
    assert "(head.bias, head.weight)" in text


def test_a_file_of_another_timm_model(tmp_path: Path) -> None:
    save_file(small_vit().state_dict(), tmp_path / "vit.safetensors")
    save_file(whole("test_resnet").state_dict(), tmp_path / "resnet.safetensors")
    deeper = {"blocks.6.norm1.weight": torch.ones(64)}
    save_file(whole("test_vit").state_dict() | deeper, tmp_path / "deeper.safetensors")
    kernel = {"patch_embed.proj.weight": torch.ones(64, 3, 14, 14)}
    save_file(whole("test_vit").state_dict() | kernel, tmp_path / "patches.safetensors")
    for name, complaint in {
        "vit": "tensors match; cls_token is 1 x 1 x 128 in the file and 1 x 1 x 64 in the network",
        "resnet": " tensors match; cls_token is missing",
        "deeper": "1 of the file are of no part of the network, such as blocks.6.norm1.weight",
        "patches": "patch_embed.proj.weight is 64 x 3 x 14 x 14 in the file and 64 x 3 x 16 x 16 in the network",
    }.items():
        spec = f"timm:test_vit:{tmp_path / name}.safetensors"
        code, line = refused(spec)
        assert (code, complaint in line, line) == (1, True, line)


def test_weights_that_cannot_be_had() -> None:
    """Tests have no network."""
    code, line = refused("timm:test_vit")
    assert code == 1
    assert "the weights of test_vit cannot be had (" in line
    assert line.endswith(
        "take model.safetensors from https://huggingface.co/timm/test_vit.r160_in1k and give timm:test_vit:FILE"
    )
    code, line = refused("hub:somebody/something")
    assert code == 1
    assert "no timm model that can be had (" in line
    assert "take its weights from https://huggingface.co/somebody/something and give the file" in line


def test_weights_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What timm does with a repository, with a local one in its place."""
    source = whole("test_vit")
    config = source.pretrained_cfg | {"mean": (0.1, 0.2, 0.3), "input_size": (3, 64, 64), "source": "hf-hub"}
    loaded = (config, "test_vit", {"img_size": 64})
    state = source.state_dict()
    for place in ("timm.models._factory", "timm.models"):
        monkeypatch.setattr(f"{place}.load_model_config_from_hf", lambda *_, **__: loaded)
    monkeypatch.setattr("timm.models.load_state_dict_from_hf", lambda name: {"somebody/vit": state}[name])
    encoder, text = open_encoder("hub:somebody/vit")
    assert encoder.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    source.set_input_size((64, 64))
    expected = expected_tokens(source, pixels := images(3, 64, 64), encoder.mean.flatten(), encoder.std.flatten())
    torch.testing.assert_close(encoder(pixels), expected, atol=1e-5, rtol=1e-5)
    assert text.startswith("somebody/vit, 64 x 64: ")
    del state["norm.weight"]
    assert refused("hub:somebody/vit")[1].endswith("tensors match; norm.weight is missing")


def test_timms_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    source = whole("test_vit")
    fetched = lambda *_, **__: {name: tensor.clone() for name, tensor in source.state_dict().items()}  # noqa: E731
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fetched)
    encoder, text = open_encoder("timm:test_vit", image_size=96)
    source.set_input_size((96, 96))
    expected = expected_tokens(source, pixels := images(3, 96, 96), *pixel_statistics(source))
    torch.testing.assert_close(encoder(pixels), expected, atol=1e-5, rtol=1e-5)
    assert text == "test_vit, 96 x 96: timm's weights, https://huggingface.co/timm/test_vit.r160_in1k"
