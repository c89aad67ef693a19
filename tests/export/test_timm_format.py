"""`--to timm` and `--to safetensors`: timm alone opens what was written, and gives the same tokens."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import Runs, WriteVit, images
from safetensors.torch import load_file, save_file

from perceptual_mae import load_encoder
from perceptual_mae.errors import PmaeError
from perceptual_mae.export import export_encoder
from perceptual_mae.export.check import compare, demand
from perceptual_mae.export.source import open_source
from perceptual_mae.export.timm_format import timm_name
from perceptual_mae.models.architecture import PLAIN_VIT, Architecture
from perceptual_mae.pretraining import build
from perceptual_mae.pretraining.build import trained_model
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.training.checkpoint import Checkpoint, newest, save


@torch.no_grad()
def tokens_in_timm(folder: Path, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Of images in [0, 1], with what `config.json` says and nothing else: the folder's, and the file's."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 0
    by_folder = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    by_file = timm.create_model(
        config["architecture"], checkpoint_path=str(folder / "model.safetensors"), num_classes=0, **config["model_args"]
    ).eval()
    assert list(by_folder.pretrained_cfg["input_size"]) == config["pretrained_cfg"]["input_size"]
    mean, std = (torch.tensor(config["pretrained_cfg"][name]).reshape(-1, 1, 1) for name in ("mean", "std"))
    assert config["num_features"] == by_folder.num_features
    if by_folder.in_chans != 3:  # timm of before would change the weights, and of four channels draw new ones
        assert config["pretrained_cfg"]["first_conv"] is None
    return [network.forward_features((pixels - mean) / std) for network in (by_folder, by_file)]


def same(spec: Path | str, folder: Path) -> None:
    encoder = load_encoder(spec)
    pixels = images(2, encoder.in_channels, encoder.image_size)
    for tokens in tokens_in_timm(folder, pixels):
        assert (encoder._with_cls(encoder._flat(tokens)) - encoder(pixels)).abs().max() < 1e-5


@pytest.mark.parametrize(("channels", "size"), [(3, "32"), (1, "32x48"), (4, "48x32")])
def test_a_run(runs: Runs, tmp_path: Path, channels: int, size: str) -> None:
    run = runs(channels=channels, image_size=size)
    same(run, export_encoder(run, "timm", tmp_path / "out").path)


def test_an_encoder_of_msg_mae_is_a_plain_one(runs: Runs, tmp_path: Path) -> None:
    run = runs("msg-gan")
    same(run, export_encoder(run, "timm", tmp_path / "out").path)


@pytest.mark.parametrize(
    "settings",
    [
        {"qkv_bias": False, "channels": 2},
        {"reg_tokens": 2, "init_values": 0.5, "no_embed_class": True},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"final_norm": False},
        {"qk_norm": True, "mlp_ratio": 2.0, "image_size": (16, 40)},
        {"gated": True, "init_values": 1.0},
    ],
    ids="-".join,
)
def test_transformers_of_other_kinds(write_vit: WriteVit, tmp_path: Path, settings: dict[str, Any]) -> None:
    if settings.pop("gated", False):
        settings |= {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    file = write_vit(**settings)
    same(file, export_encoder(file, "timm", tmp_path / "out").path)


def test_another_model_of_timm(tmp_path: Path) -> None:
    name = "test_resnet"
    torch.manual_seed(1)
    save_file(timm.create_model(name, pretrained=False).state_dict(), tmp_path / "weights.safetensors")
    spec = f"timm:{name}:{tmp_path / 'weights.safetensors'}"
    same(spec, export_encoder(spec, "timm", tmp_path / "out").path)
    file = export_encoder(spec, "safetensors", tmp_path / "one.safetensors").path
    pixels = images(1, 3, load_encoder(spec).image_size)
    assert (load_encoder(f"timm:{name}:{file}")(pixels) - load_encoder(spec)(pixels)).abs().max() < 1e-5


@pytest.mark.parametrize("target", ["timm", "safetensors"])
def test_a_published_row_keeps_its_own_pixels(tmp_path: Path, target: str) -> None:
    """The weights of a tag, and a file's own mean: timm's name without the tag means others."""
    torch.manual_seed(1)
    name = "mobilenetv4_conv_small.e3600_r256_in1k"
    save_file(timm.create_model(name, pretrained=False, num_classes=0).state_dict(), file := tmp_path / "w.safetensors")
    exported = export_encoder(spec := f"timm:{name}:{file}", target, tmp_path / "out", image_size=64)
    encoder = load_encoder(spec, 64)
    usual = timm.get_pretrained_cfg("mobilenetv4_conv_small")
    assert encoder.mean.flatten().tolist() != pytest.approx(usual.mean)
    written = exported.path / "model.safetensors" if target == "timm" else exported.path
    again = load_encoder(f"timm:mobilenetv4_conv_small:{written}", 64)
    assert torch.equal(again.mean, encoder.mean)
    assert torch.equal(again.std, encoder.std)


@pytest.mark.parametrize("size", [None, 96])
def test_a_repository_whose_arguments_no_name_of_timms_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    torch.manual_seed(1)
    network = timm.create_model("test_vit", pretrained=False, depth=2, in_chans=4, img_size=64)
    pixels = {"mean": (0.1, 0.2, 0.3, 0.4), "std": (0.4,) * 4, "input_size": (4, 64, 64), "source": "hf-hub"}
    loaded = (network.pretrained_cfg | pixels, "test_vit", {"depth": 2, "num_classes": 1000})
    for place in ("timm.models._factory", "timm.models"):
        monkeypatch.setattr(f"{place}.load_model_config_from_hf", lambda *_, **__: loaded)
    monkeypatch.setattr("timm.models.load_state_dict_from_hf", lambda _: network.state_dict())
    exported = export_encoder("hub:somebody/vit", "timm", tmp_path / "out", image_size=size)
    encoder = load_encoder("hub:somebody/vit", size)
    for tokens in tokens_in_timm(exported.path, pixels := images(2, 4, encoder.image_size)):
        assert (tokens - encoder(pixels)).abs().max() < 1e-5


def test_a_run_that_trains_meanwhile_is_read_once(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(runs(), run := tmp_path / "run")

    def trained_on(folder: Path) -> Iterator[Any]:
        (found,) = newest(folder)
        assert isinstance(found, Checkpoint)
        model = {name: tensor + 1 for name, tensor in found.networks["model"].items()}
        save(folder, Checkpoint(found.step + 1, {"model": model}, {}), keep=1)
        yield found

    monkeypatch.setattr(build, "newest", trained_on)
    source = open_source(str(run))
    assert source.autoencoder is not None
    assert f"step {source.step} of the run" in source.matched
    assert torch.equal(source.autoencoder.state_dict()["cls_token"], source.state["cls_token"])


def test_another_size_resamples_positions(runs: Runs, tmp_path: Path) -> None:
    folder = export_encoder(runs(), "timm", tmp_path / "out", image_size=(24, 40)).path
    encoder = load_encoder(runs(), image_size=(24, 40))
    pixels = images(2, 3, (24, 40))
    for tokens in tokens_in_timm(folder, pixels):
        assert (tokens - encoder(pixels)).abs().max() < 1e-5


def test_the_nearest_name_needs_the_fewest_arguments() -> None:
    base = {"embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16, "in_chans": 3, "img_size": (224, 224)}
    base |= {"mlp_ratio": 4.0, "qkv_bias": True, "qk_norm": False, "init_values": None, "class_token": True}
    base |= {"reg_tokens": 0, "no_embed_class": False, "final_norm": True, "gated": False}
    assert timm_name(Architecture(PLAIN_VIT, base)) == ("vit_base_patch16_224", {})
    small = {"embed_dim": 384, "num_heads": 6, "patch_size": 8, "img_size": (64, 32)}
    assert timm_name(Architecture(PLAIN_VIT, base | small)) == ("vit_small_patch8_224", {"img_size": (64, 32)})
    assert timm_name(Architecture("resnet18.a1_in1k", {"in_chans": 1})) == ("resnet18", {"in_chans": 1})


def test_one_file_that_says_what_it_is(runs: Runs, tmp_path: Path) -> None:
    run = runs(channels=4, image_size="48x32")
    exported = export_encoder(run, "safetensors", tmp_path / "encoder.safetensors")
    ours, theirs = load_encoder(run), load_encoder(exported.path)
    assert theirs.image_size == (48, 32)
    assert torch.equal(ours.mean, theirs.mean)
    assert torch.equal(ours.std, theirs.std)
    pixels = images(2, 4, (48, 32))
    assert (ours(pixels) - theirs(pixels)).abs().max() < 1e-5
    assert set(load_file(exported.path)) == set(trained_model(RunFolder.read(run))[0].encoder_state_dict())


def test_what_differs_is_not_exported() -> None:
    ours = torch.rand(2, 3)
    assert compare("this", ours, ours, 1e-5).passed
    assert not compare("this", ours + 2e-5, ours, 1e-5).passed
    assert compare("this", 100 * ours + 2e-5, 100 * ours, 1e-5).passed  # rounding of larger numbers is larger
    with pytest.raises(PmaeError, match=r"thrown away: this: largest difference inf"):
        demand([compare("this", ours * torch.nan, ours, 1e-5)])
    with pytest.raises(PmaeError, match=r"this: \(1, 3\) was written, \(2, 3\) is ours"):
        compare("this", ours[:1], ours, 1e-5)
