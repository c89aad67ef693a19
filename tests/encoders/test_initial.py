"""Weights to start from: what of them goes where, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from perceptual_mae.api import pretrain
from perceptual_mae.encoders.initial import start_from
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.pretraining import build
from perceptual_mae.pretraining.build import trained_model
from perceptual_mae.pretraining.config import PixelConfig, PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.training.checkpoint import newest

MakeConfig = Callable[..., PretrainConfig]


def tiny_vit(**arguments: Any) -> Any:
    """Plain timm, with a position embedding that is no sine and a classifier."""
    torch.manual_seed(3)
    return timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5, **arguments).eval()


def file_of(folder: Path, state: dict[str, Tensor], **metadata: str) -> str:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "w.safetensors", metadata)
    return str(folder / "w.safetensors")


def model_of(**arguments: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder.from_size("tiny", **({"image_size": 64, "patch_size": 16} | arguments)).eval()


def test_an_encoder_of_timm_gives_the_same_tokens(tmp_path: Path) -> None:
    network, model = tiny_vit(), model_of()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    told = start_from(model, file_of(tmp_path, network.state_dict(), mean="[0.5, 0.5, 0.5]", std="[0.5, 0.5, 0.5]"))
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        wanted = network.forward_features((images - 0.5) / 0.5)
        assert torch.allclose(model.encode(images), wanted, atol=1e-5)
    assert "150 of 150 tensors matched" in told
    assert "the decoder starts anew" in told
    after = model.state_dict()
    decoder = [name for name in before if name.startswith(("decoder", "mask_token"))]
    assert decoder
    assert all(torch.equal(before[name], after[name]) for name in decoder)


def test_pixels_that_the_user_names_are_kept(tmp_path: Path) -> None:
    model = model_of(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    start_from(model, file_of(tmp_path, tiny_vit().state_dict(), mean="[0.5]", std="[0.5]"), own_pixels=True)
    assert model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_positions_of_another_grid_are_resampled_and_a_whole_mae_brings_its_decoder(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = MaskedAutoencoder.from_size("tiny", image_size=96, patch_size=16)
    model = model_of(image_size=(64, 96))
    told = start_from(model, file_of(tmp_path, source.state_dict()))
    assert "position embeddings resampled from 6 x 6 patches to 4 x 6" in told
    assert "the decoder too" in told
    own, given, fresh = model.state_dict(), source.state_dict(), model_of(image_size=(64, 96)).state_dict()
    assert torch.equal(own["decoder_pred.weight"], given["decoder_pred.weight"])
    assert torch.equal(own["blocks.3.mlp.fc1.weight"], given["blocks.3.mlp.fc1.weight"])
    assert torch.equal(own["decoder_pos_embed"], fresh["decoder_pos_embed"])  # of this model's own grid
    assert own["pos_embed"].shape == (1, 25, 192)


def test_a_checkpoint_of_a_run_that_is_not_square(make_config: MakeConfig) -> None:
    """4 x 16 patches are as many as 8 x 8."""
    run = pretrain(make_config("source", max_steps=1, image_size="32x128", model="tiny", patch_size=8))
    source, _ = trained_model(RunFolder.read(run))
    model = model_of(image_size=(32, 128), patch_size=8)
    told = start_from(model, str(next((run / "checkpoints").glob("step-*")) / "model.safetensors"))
    assert "resampled" not in told
    assert torch.equal(model.pos_embed, source.pos_embed)


@pytest.mark.parametrize(
    ("spec", "model", "words"),
    [
        (
            "random:micro/8",
            {},
            "its encoder is vit 96/6/3 with patches of 8 and 3 channels, the run's vit 192/12/3 with patches of 16 and "
            "3 channels; give --model micro --patch-size 8",
        ),
        ("random:tiny/16", {"in_channels": 1}, "3 channels, the run's vit 192/12/3 with patches of 16 and 1 channels;"),
        ("pixels:8", {}, "is no Vision Transformer"),
        ("random:enormous", {}, "there is no such size"),
        ("nowhere.pth", {}, "there is no such file or folder"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(spec: str, model: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        start_from(model_of(**model), spec)
    assert str(caught.value).startswith(f"--init {spec}: ")
    assert words in str(caught.value)
    assert "ENCODER" not in str(caught.value)


def test_parts_that_a_masked_autoencoder_has_not_are_refused(tmp_path: Path) -> None:
    layers = tiny_vit(init_values=0.1)
    with pytest.raises(UsageError, match=r"it has blocks\.0\.ls1\.gamma, which the encoder of a masked autoencoder"):
        start_from(model_of(), file_of(tmp_path, layers.state_dict()))
    with pytest.raises(UsageError, match=r"it has reg_token"):
        start_from(model_of(), file_of(tmp_path, tiny_vit(reg_tokens=2).state_dict()))
    narrow = {name: tensor for name, tensor in tiny_vit().state_dict().items() if name != "blocks.4.norm1.weight"}
    with pytest.raises(PmaeError, match=r"^--init .*blocks\.4\.norm1\.weight is missing"):
        start_from(model_of(), file_of(tmp_path, narrow))


def test_a_run_starts_from_weights_once(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pretrain(make_config("source"))
    trained, _ = trained_model(RunFolder.read(source))
    read: list[Path] = []
    with monkeypatch.context() as patched:  # encoder and decoder of one checkpoint, also of a run that trains
        patched.setattr(build, "newest", lambda folder: read.append(folder) or newest(folder))
        assert "the decoder too" in start_from(build.build_model(make_config()), str(source))
    assert read == [source / "checkpoints"]
    still = {"init": str(source), "lr": 1e-30, "pixels": PixelConfig(mean=(0.5,), std=(0.25,))}
    run = pretrain(make_config("second", max_steps=2, **still))
    model, _ = trained_model(RunFolder.read(run))
    for name, tensor in trained.state_dict().items():
        if name not in ("mean", "std"):
            assert torch.equal(model.state_dict()[name], tensor), name
    assert model.mean.flatten().tolist() == [0.5] * 3
    # It goes on from its own checkpoint, without the file; and is another training without `init`.
    moved = source.rename(source.with_name("gone"))
    pretrain(make_config("second", max_steps=3, **still))
    with pytest.raises(UsageError, match="init:"):
        pretrain(make_config("second", max_steps=3, **(still | {"init": None})))
    assert load_file(moved / "encoder.safetensors").keys() == load_file(run / "encoder.safetensors").keys()


def test_a_new_run_that_cannot_start_from_its_weights_may_be_begun_anew(make_config: MakeConfig) -> None:
    with pytest.raises(UsageError, match=r"--init random:tiny/8: its encoder is .* give --model tiny"):
        pretrain(make_config(init="random:tiny/8"))
    pretrain(make_config(init="random:micro/8", max_steps=1))
