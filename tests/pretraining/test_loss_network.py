"""`--loss-network`: every form of it opens the network that it names, and every mistake is one line with the flag."""

import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from perceptual_mae.dvae_file import convert
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.methods import METHODS
from perceptual_mae.models.dvae import DvaeEncoder
from perceptual_mae.models.fixed_network import FixedNetwork
from perceptual_mae.pretraining.loss_network import open_loss_network

IMAGES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of weights: of two small encoders and of a timm model, and some that are of nothing."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name, channels in (("dvae", 3), ("grey", 1)):
        encoder = DvaeEncoder(8, 1, 4, 16, channels, head=True)
        save_file(encoder.state_dict(), folder / f"{name}.safetensors")
    state = timm.create_model("test_resnet").state_dict()
    save_file(state, folder / "resnet.safetensors")
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, folder / "r.pth"
    )
    torch.save([1, 2], folder / "list.pth")
    for name in ("text.safetensors", "text.pth", "text.pkl"):
        (folder / name).write_text("A plain text.\n" * 10)
    return folder


def features(network: FixedNetwork, images: Tensor = IMAGES) -> tuple[Tensor, ...]:
    network.calibrate(network.measure([images]))
    return network.judge([images]).features


def refused(spec: str | None, wanted: str, *arguments: object) -> tuple[int, str]:
    """Exit code and line."""
    with pytest.raises(PmaeError) as caught:
        open_loss_network(spec, wanted, *(arguments or ((32, 48), 3)))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert "--loss-network" in str(caught.value)
    return caught.value.exit_code, str(caught.value)


# -- what opens --------------------------------------------------------------------------------------------------------


def test_dvae(folder: Path) -> None:
    network = open_loss_network(f"dvae:{folder / 'dvae.safetensors'}", "dvae", (32, 48), 3)
    judged = features(network)
    assert [tuple(one.shape[1:]) for one in judged] == [(8, 16, 24), (16, 8, 12), (32, 4, 6), (64, 4, 6)]
    assert not network.calibrated
    assert isinstance(network.network, DvaeEncoder)
    assert not any(p.requires_grad for p in network.network.parameters())


def test_the_published_pickle_and_what_is_made_of_it_are_the_same(golden: Path, tmp_path: Path) -> None:
    pickled = golden / "dvae_encoder_small.pkl"
    convert(pickled, tmp_path / "dvae.safetensors")
    one, other = (
        features(open_loss_network(f"dvae:{path}", "dvae", (32, 48), 3))
        for path in (pickled, tmp_path / "dvae.safetensors")
    )
    assert len(one) == 4
    assert all(map(torch.equal, one, other))


def test_timm_with_a_file(folder: Path) -> None:
    networks = [
        open_loss_network(f"timm:test_resnet:{folder / name}", "timm", (32, 48), 3)
        for name in ("resnet.safetensors", "r.pth")
    ]
    one, other = map(features, networks)
    assert len(one) == 5
    assert all(map(torch.equal, one, other))


@pytest.mark.parametrize(
    ("size", "seen"), [(None, (32, 48)), (16, (16, 24)), (64, (64, 96)), ((24, 24), (24, 24)), (32, (32, 48))]
)
def test_the_size_that_it_sees(folder: Path, size: object, seen: tuple[int, int]) -> None:
    spec = f"dvae:{folder / 'dvae.safetensors'}"
    network = open_loss_network(spec, "dvae", (32, 48), 3, size)  # type: ignore[arg-type]
    assert tuple(features(network)[0].shape[2:]) == (seen[0] // 2, seen[1] // 2)


def test_images_of_other_channels(folder: Path) -> None:
    network = open_loss_network(f"dvae:{folder / 'grey.safetensors'}", "dvae", (32, 48), 1)
    assert len(features(network, IMAGES[:, :1])) == 4


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_nothing_given() -> None:
    for name, method in METHODS.items():
        if method.loss_network:
            code, line = refused(None, method.loss_network)
            assert code == 2
            assert line.startswith(f"--method {name} needs --loss-network {method.loss_network}:")
    assert "https://cdn.openai.com/dall-e/encoder.pkl; `pmae convert-dvae" in refused(None, "dvae")[1]
    assert "timm:resnet50" in refused(None, "timm")[1]


@pytest.mark.parametrize("spec", ["timm:resnet18", "dvae", "dvae:", "", "something", "DVAE:file"])
def test_another_kind(spec: str) -> None:
    code, line = refused(spec, "dvae")
    assert code == 2
    assert line.startswith(f"--loss-network {spec}: --method dvae-p needs --loss-network dvae:FILE")


@pytest.mark.parametrize(
    ("spec", "code", "complaint"),
    [
        ("dvae:{}/nothing.pkl", 2, "there is no file"),
        ("dvae:{}", 2, "there is no file"),
        ("dvae:{}/text.pkl", 1, "no zip archive, so torch.save did not write it"),
        ("dvae:{}/resnet.safetensors", 1, "not the weights of a dVAE encoder: no blocks.input.w among them"),
        ("dvae:{}/grey.safetensors", 2, "takes images of 1 channels; these have 3 (--pixels.channels)"),
        ("timm:resnet5", 2, "timm has no model resnet5; did you mean resnet50?"),
        ("timm:test_resnet:{}/nothing.pth", 2, "there is no file"),
        ("timm:test_resnet:{}/text.safetensors", 1, "damaged, or no safetensors file"),
        ("timm:test_resnet:{}/text.pth", 1, "no file of weights that can be read safely"),
        ("timm:test_resnet:{}/list.pth", 1, "it holds no weights by name"),
        ("timm:test_resnet:{}/dvae.safetensors", 1, "the weights are not of test_resnet: 0 of "),
        ("timm:resnet18:{}/resnet.safetensors", 1, "the weights are not of resnet18"),
        ("timm:test_vit:{}/resnet.safetensors", 1, "the weights are not of test_vit"),
    ],
)
def test_files_that_do_not_fit(folder: Path, spec: str, code: int, complaint: str) -> None:
    spec = spec.format(folder)
    wanted = spec.split(":")[0]
    found, line = refused(spec, wanted)
    assert complaint in line
    assert line.startswith(f"--loss-network {spec}: ")
    assert found == code


def test_a_pickle_of_weights_executes_nothing(folder: Path) -> None:
    class Touch:
        def __reduce__(self) -> object:
            return os.system, (f"touch {folder / 'executed'}",)

    (folder / "hostile.pth").write_bytes(pickle.dumps({"conv1.weight": Touch()}, 2))
    torch.save({"conv1.weight": Touch()}, folder / "hostile.pt")
    for spec in ("timm:test_resnet:{}/hostile.pth", "timm:test_resnet:{}/hostile.pt", "dvae:{}/hostile.pt"):
        code, line = refused(spec.format(folder), spec.split(":")[0])
        assert code == 1
        assert "read safely" in line or "posix.system, which is refused" in line
    assert not (folder / "executed").exists()


def test_images_that_do_not_fit(folder: Path) -> None:
    dvae, resnet = f"dvae:{folder / 'dvae.safetensors'}", f"timm:test_resnet:{folder / 'resnet.safetensors'}"
    code, line = refused(dvae, "dvae", (32, 48), 3, 4)
    assert code == 2
    assert line.endswith("4 x 6 pixels are too small for it; give a --loss-network-size of at least 8")
    code, line = refused(resnet, "timm", (16, 48), 3)
    assert code == 2
    assert line.endswith("makes images 32 times smaller: 16 x 48 is too small; choose another --loss-network-size")
    code, line = refused(resnet, "timm", (32, 48), 4)
    assert code == 2
    assert "takes images of 3 channels; these have 4" in line


def test_weights_that_cannot_be_fetched() -> None:
    """Tests have no network."""
    code, line = refused("timm:test_resnet", "timm", (64, 64), 3)
    assert code == 1
    assert "the weights of test_resnet cannot be had" in line
    assert "take model.safetensors from https://huggingface.co/timm/test_resnet.r160_in1k" in line
    assert line.endswith("give --loss-network timm:test_resnet:FILE")


def test_mistakes_are_usage_errors() -> None:
    with pytest.raises(UsageError):
        open_loss_network(None, "timm", (32, 32), 3)
