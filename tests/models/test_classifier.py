"""The classifier against its formula, and against timm's own network made from the line that it prints."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from perceptual_mae import load_encoder
from perceptual_mae.models.architecture import Architecture
from perceptual_mae.models.classifier import Classifier
from perceptual_mae.models.encoder import Encoder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("random:micro/8", (32, 48))


@pytest.fixture
def classifier(encoder: Encoder) -> Classifier:
    torch.manual_seed(0)
    return Classifier.of(encoder, classes=7).eval()


def random_head(classifier: Classifier) -> None:
    """Values that a test can see: a fresh head says nothing."""
    torch.nn.init.normal_(classifier.encoder.head.weight)
    torch.nn.init.normal_(classifier.encoder.head.bias)
    torch.nn.init.normal_(classifier.encoder.fc_norm.weight)
    torch.nn.init.normal_(classifier.encoder.fc_norm.bias)


def test_logits_are_a_linear_map_of_the_normalised_mean_token(
    classifier: Classifier, encoder: Encoder, photographs: Tensor
) -> None:
    random_head(classifier)
    images = photographs.float() / 255
    tokens = encoder(images, block=-1)[:, 1:].double()  # after the last block, before any norm
    mean = tokens.mean(dim=1)
    centred = mean - mean.mean(dim=1, keepdim=True)
    normal = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
    head, norm = classifier.encoder.head.double(), classifier.encoder.fc_norm.double()
    expected = (normal * norm.weight + norm.bias) @ head.weight.T + head.bias
    classifier.encoder.float()
    torch.testing.assert_close(classifier.logits(images).double(), expected, rtol=1e-4, atol=1e-4)


def test_a_fresh_head_is_undecided_and_the_encoder_is_the_given_one(classifier: Classifier, encoder: Encoder) -> None:
    head = classifier.encoder.head
    assert head.weight.std().item() == pytest.approx(2e-5, rel=0.1)
    assert not head.bias.any()
    own = classifier.encoder.state_dict()
    for name, tensor in encoder.network.state_dict().items():
        if not name.startswith("norm."):
            assert torch.equal(own[name], tensor), name
    assert not any(name.startswith("norm.") for name in own)
    assert all(parameter.requires_grad for parameter in classifier.parameters())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_cross_entropy_takes_classes_and_shares(classifier: Classifier, photographs: Tensor) -> None:
    random_head(classifier)
    images, labels = photographs[:3].float() / 255, torch.tensor([0, 6, 2])
    log = classifier.logits(images).double().log_softmax(dim=1)
    hard = classifier(images, list(labels))
    assert hard.keys() == {"cross_entropy"}
    assert hard["cross_entropy"].item() == pytest.approx(-log[[0, 1, 2], labels].mean().item(), rel=1e-5)
    shares = torch.rand(3, 7).softmax(dim=1)
    soft = classifier(images, list(shares))["cross_entropy"]
    assert soft.item() == pytest.approx(-(shares * log).sum(dim=1).mean().item(), rel=1e-5)


def test_predictions_are_of_the_central_crop(classifier: Classifier, photographs: Tensor) -> None:
    """An image with a border above and below that the crop leaves out."""
    random_head(classifier)
    image = photographs[0]
    bordered = F.pad(image, (0, 0, 20, 20), value=255)
    inside, outside = classifier.predict([image, bordered])
    torch.testing.assert_close(inside["probabilities"], outside["probabilities"])
    direct = classifier.logits(image[None].float() / 255).softmax(dim=1)[0]
    torch.testing.assert_close(inside["probabilities"], direct.detach())


def test_a_description_builds_the_network_again(classifier: Classifier, photographs: Tensor) -> None:
    random_head(classifier)
    again = Classifier.from_description(classifier.describe()).eval()
    again.load_state_dict(classifier.state_dict())
    images = photographs.float() / 255
    assert torch.equal(again.logits(images), classifier.logits(images))


def test_an_encoder_that_was_fine_tuned_has_a_norm_again(encoder: Encoder, tmp_path: Path) -> None:
    """Its own went with its head; a classifier that was saved without one is built as it was."""
    state = {name: tensor for name, tensor in encoder.network.state_dict().items() if not name.startswith("norm.")}
    save_file(state, file := tmp_path / "encoder.safetensors", {"image_size": "[32, 48]"})
    classifier = Classifier.of(load_encoder(file), classes=3)
    assert isinstance(classifier.encoder.fc_norm, torch.nn.LayerNorm)
    assert Classifier.from_description(classifier.describe()).state_dict().keys() == classifier.state_dict().keys()
    old = classifier.describe()
    old["architecture"]["options"]["final_norm"] = False
    assert isinstance(Classifier.from_description(old).encoder.fc_norm, torch.nn.Identity)


@pytest.mark.parametrize("spec", ["random:micro/8", "vit_tiny_patch16_224", "efficientnet_lite0"])
def test_timm_makes_the_same_network_of_the_line(spec: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if spec.startswith("random"):
        encoder = load_encoder(spec, 64)
    else:
        size = {"img_size": (64, 64)} if spec.startswith("vit") else {}
        architecture = Architecture(spec, size)
        encoder = Encoder(architecture.build(), spec, (64, 64), (0.4,) * 3, (0.3,) * 3, architecture)
    classifier = Classifier.of(encoder, classes=5).eval()
    for parameter in classifier.encoder.get_classifier().parameters():
        torch.nn.init.normal_(parameter)
    file = tmp_path / "timm.safetensors"
    save_file(classifier.encoder.state_dict(), file)
    network = eval(classifier.timm_line(str(file)), {"timm": timm, "torch": torch}).eval()
    images = torch.rand(2, 3, 64, 64)
    pixels = (images - classifier.mean) / classifier.std
    assert torch.equal(network(pixels), classifier.logits(images))


def test_drop_path_rises_to_the_last_block(encoder: Encoder) -> None:
    blocks = Classifier.of(encoder, 2, drop_path=0.2).encoder.blocks
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.2 * i / 5 for i in range(6)])


def test_what_is_no_network_cannot_learn() -> None:
    with pytest.raises(ValueError, match="pixels:4 is no network that can learn"):
        Classifier.of(load_encoder("pixels:4", 32), 2)
