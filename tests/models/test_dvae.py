"""DALL-E's encoder against reference tensors, its published sizes, and files of something else."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from perceptual_mae.models.dvae import DvaeEncoder


@pytest.fixture(scope="module")
def reference(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "dvae_reference.safetensors")


@pytest.fixture(scope="module")
def weights(reference: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("encoder."): t for name, t in reference.items() if name.startswith("encoder.")}


def small() -> DvaeEncoder:
    torch.manual_seed(0)
    return DvaeEncoder(n_hid=8, n_blk_per_group=1, group_count=3, vocab_size=16, input_channels=2, head=True)


def test_features_and_logits_are_the_reference(reference: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    encoder = DvaeEncoder.from_state_dict(weights, head=True)
    with torch.no_grad():
        features, logits = encoder.features(reference["image"]), encoder(reference["image"])
    assert len(features) == 4
    for number, one in enumerate(features, start=1):
        torch.testing.assert_close(one, reference[f"features.group_{number}"], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, reference["logits"], atol=1e-4, rtol=0)


def test_features_do_not_need_the_head(reference: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    headless = {name: tensor for name, tensor in weights.items() if "output" not in name}
    encoder = DvaeEncoder.from_state_dict(headless)
    assert encoder.state_dict().keys() == DvaeEncoder.from_state_dict(weights).state_dict().keys() == headless.keys()
    with torch.no_grad():
        features = encoder.features(reference["image"])
    torch.testing.assert_close(features[3], reference["features.group_4"], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="without its output head"):
        encoder(reference["image"])


def test_published_sizes() -> None:
    with torch.device("meta"):
        encoder, whole = DvaeEncoder(), DvaeEncoder(head=True)
        shapes = [tuple(one.shape[1:]) for one in encoder.features(torch.empty(1, 3, 224, 224))]
    assert shapes == [(256, 112, 112), (512, 56, 56), (1024, 28, 28), (2048, 28, 28)]
    assert sum(p.numel() for p in whole.parameters()) == 53_786_240
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1) == 37.0
    assert encoder.reduction == 8


def test_sizes_are_read_off_the_weights() -> None:
    source = small()
    found = DvaeEncoder.from_state_dict(source.state_dict(), head=True)
    sizes = ("n_hid", "n_blk_per_group", "group_count", "vocab_size", "input_channels")
    assert [getattr(found, size) for size in sizes] == [8, 1, 3, 16, 2]
    images = torch.rand(2, 2, 8, 12)
    assert torch.equal(found(images), source(images))


def test_an_encoder_computes_in_float32_what_is_kept_in_half_precision() -> None:
    half = {name: tensor.half() for name, tensor in small().state_dict().items()}
    encoder = DvaeEncoder.from_state_dict(half)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


def test_gradcheck() -> None:
    torch.manual_seed(0)
    encoder = DvaeEncoder(n_hid=4, n_blk_per_group=1, group_count=2, input_channels=1).double()
    images = torch.rand(1, 1, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(encoder.features, images)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.clear(), "no blocks.input.w among them"),
        (lambda state: state.update({"blocks.input.w": torch.ones(8)}), "no blocks.group_1 among them"),
        (lambda state: [state.pop(name) for name in list(state) if "group" in name], "no blocks.group_1 among them"),
        (lambda state: state.pop("blocks.input.b"), "blocks.input.b is missing"),
        (lambda state: state.update({"decoder.w": torch.ones(1)}), "decoder.w is none of its names"),
        (lambda state: state.update({"blocks.input.b": torch.ones(9)}), r"blocks.input.b has torch.float32 \(9,\)"),
        (lambda state: state.update({"blocks.input.b": torch.ones(8, dtype=torch.int64)}), "torch.int64"),
        (lambda state: state.pop("blocks.group_2.block_1.id_path.w"), "group_2.block_1.id_path.w is missing"),
    ],
)
def test_other_weights_are_refused(change, complaint: str) -> None:
    state = dict(small().state_dict())
    change(state)
    with pytest.raises(ValueError, match=complaint):
        DvaeEncoder.from_state_dict(state)
