"""Feature stages of timm models: the same as timm's own with the same weights; other weights and sizes are refused."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from perceptual_mae.models.timm_features import ImageSizeError, TimmFeatures

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def whole(name: str, seed: int = 1, **options: object) -> torch.nn.Module:
    """A whole timm model with random weights, in which no two layers are alike."""
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False, **options).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1)
    return model


def features(network: TimmFeatures, images: Tensor = IMAGES) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return network.eval()(images)


def test_a_file_of_imagenet_weights(golden: Path) -> None:
    file = golden.parent / "weights" / "tf_efficientnet_lite0.safetensors"
    if not file.is_file():
        pytest.skip("no ../shared/weights/tf_efficientnet_lite0.safetensors beside the repository")
    network = TimmFeatures("tf_efficientnet_lite0", (64, 96))
    random = features(network)
    state = load_file(file)
    network.load(state)

    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    reference.load_state_dict(state)
    reference.eval()
    with torch.no_grad():  # mean and std are 0.5
        expected = reference.forward_intermediates(2 * IMAGES - 1, intermediates_only=True)
    assert len(features(network)) == len(expected) == 5
    for one, other, before in zip(features(network), expected, random, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert (one - before).abs().mean() > 0.1


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_weights_of_the_whole_model(name: str) -> None:
    source = whole(name)
    network = TimmFeatures(name, (64, 96))
    network.load({f"module.{key}": tensor for key, tensor in source.state_dict().items()})
    config = source.pretrained_cfg
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = source.forward_intermediates((IMAGES - mean) / std, intermediates_only=True)[-3:]
    for one, other in zip(features(network)[-3:], expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_transformer_at_another_size() -> None:
    source = whole("test_vit", img_size=160)
    network = TimmFeatures("test_vit", (64, 96))
    network.load(source.state_dict())
    reference = timm.create_model("test_vit", pretrained=False, img_size=(64, 96)).eval()
    reference.load_state_dict(checkpoint_filter_fn(source.state_dict(), reference))
    with torch.no_grad():
        normalised = (IMAGES - network.mean) / network.std
        expected = reference.forward_intermediates(normalised, indices=3, intermediates_only=True)
    for one, other in zip(features(network), expected, strict=True):
        assert one.shape == (2, 64, 4, 6)
        torch.testing.assert_close(one, other)


def test_maps_have_their_channels_first() -> None:
    network = TimmFeatures("swin_tiny_patch4_window7_224", (64, 96)).to("meta")
    shapes = [tuple(one.shape) for one in network(IMAGES.to("meta"))]
    assert shapes == [(2, 96 * 2**stage, 16 // 2**stage, 24 // 2**stage) for stage in range(4)]


def test_random_numbers_of_the_run_are_left_alone() -> None:
    before = torch.get_rng_state()
    TimmFeatures("test_vit", (64, 96))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "size", "complaint"),
    [
        (
            "tf_efficientnet_lite0",
            (16, 64),
            "stage 5 of tf_efficientnet_lite0 .* 32 times smaller: 16 x 64 is too small",
        ),
        ("test_vit", (64, 100), "patches of 16 pixels: 64 x 100 is no multiple"),
        ("inception_v3", (40, 40), "inception_v3 does not take images of 40 x 40"),
    ],
)
def test_sizes_that_do_not_fit(name: str, size: tuple[int, int], complaint: str) -> None:
    with pytest.raises(ImageSizeError, match=complaint):
        TimmFeatures(name, size)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("resnet5", "timm has no model resnet5; did you mean resnet50"),
        ("resnet50.of_mine", "of_mine"),
        ("hf-hub:someone/something", "timm has no model"),
    ],
)
def test_models_that_there_are_not(name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        TimmFeatures(name, (64, 64))


def test_weights_of_another_model_are_refused() -> None:
    network, deeper = TimmFeatures("resnet18", (64, 64)), TimmFeatures("resnet34", (64, 64))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    states = {name: timm.create_model(name).state_dict() for name in ("resnet18", "resnet34")}
    with pytest.raises(ValueError, match=r"not of resnet18: .* are of no part of it, such as layer1\.2\.conv1\.weight"):
        network.load(states["resnet34"])
    with pytest.raises(
        ValueError, match=r"not of resnet34: 120 of 216 tensors match, layer1\.2\.conv1\.weight is miss"
    ):
        deeper.load(states["resnet18"])
    with pytest.raises(ValueError, match=r"not of resnet18 at this image size: conv1\.weight is \(16, 3"):
        network.load(states["resnet18"] | {"conv1.weight": torch.ones(16, 3, 7, 7)})
    with pytest.raises(ValueError, match="0 of 120 tensors match"):
        network.load({})
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    network.load(states["resnet18"] | {"my_head.weight": torch.ones(1), "fc.weight": torch.ones(7, 512)})


def test_the_page_of_its_weights() -> None:
    page = TimmFeatures("resnet18.a1_in1k", (64, 64)).published_at
    assert page == "https://huggingface.co/timm/resnet18.a1_in1k"
