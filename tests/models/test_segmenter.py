"""UperNet over a Vision Transformer: its parts, its losses, and what it says of images of any size."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import UperNetForSemanticSegmentation

import perceptual_mae
from perceptual_mae.models.encoder import Encoder, RawPixels
from perceptual_mae.models.segmenter import Segmenter
from perceptual_mae.models.sliding import starts
from perceptual_mae.models.upernet import head_width

CLASSES = 5
SIZE = (48, 64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def pictures(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return perceptual_mae.load_encoder("random:micro/8", SIZE)


@pytest.fixture
def network(encoder: Encoder) -> Segmenter:
    """In eval mode, with logits far enough apart to tell classes."""
    torch.manual_seed(0)
    segmenter = Segmenter.of(encoder, CLASSES).eval()
    with torch.no_grad():
        segmenter.upernet.decode_head.classifier.weight.normal_()
    return segmenter


# -- what it is made of ------------------------------------------------------------------------------------------------


def test_it_is_transformers_upernet_with_the_weights_of_the_encoder(encoder: Encoder, network: Segmenter) -> None:
    assert isinstance(network.upernet, UperNetForSemanticSegmentation)
    weights = encoder.network.state_dict()
    assert network.encoder.state_dict().keys() == weights.keys()
    for name, tensor in network.encoder.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
        assert tensor.data_ptr() != weights[name].data_ptr(), name
    assert all(parameter.requires_grad for parameter in network.parameters())
    names = [name for name, _ in network.named_parameters()]
    statistics = ("mean", "std", "num_batches_tracked")
    assert len(names) == sum(not name.endswith(statistics) and "running_" not in name for name in network.state_dict())
    assert sum(name.startswith("upernet.backbone.backbone.network.") for name in names) == len(weights)


@pytest.mark.parametrize(
    ("patch", "strides"), [(4, (4, 8, 16, 32)), (8, (4, 8, 16, 32)), (16, (4, 8, 16, 32)), (32, (4, 8, 16, 32))]
)
def test_maps_have_the_strides_of_hierarchical_networks(patch: int, strides: tuple[int, ...]) -> None:
    segmenter = Segmenter.of(perceptual_mae.load_encoder(f"random:micro/{patch}", (64, 96)), CLASSES)
    maps = segmenter.upernet.backbone.forward_with_filtered_kwargs(random(2, 3, 64, 96)).feature_maps
    assert [tuple(one.shape) for one in maps] == [(2, 96, 64 // stride, 96 // stride) for stride in strides]


def test_maps_are_those_of_four_blocks_in_order(encoder: Encoder, network: Segmenter) -> None:
    images = random(2, 3, *SIZE)
    maps = network.upernet.backbone.forward_with_filtered_kwargs(images).feature_maps
    blocks = [round(encoder.depth * quarter / 4) - 1 for quarter in (1, 2, 3, 4)]
    assert blocks[-1] == encoder.depth - 1
    expected = [encoder(images, block)[:, 1:].mT.unflatten(2, encoder.grid) for block in blocks[:3]]
    expected.append(encoder(images)[:, 1:].mT.unflatten(2, encoder.grid))
    torch.testing.assert_close(maps[1], expected[1])
    torch.testing.assert_close(maps[2], F.max_pool2d(expected[2], 2))
    torch.testing.assert_close(maps[3], F.max_pool2d(expected[3], 4, ceil_mode=True))
    (enlarge,) = network.upernet.backbone.rescale[0]
    torch.testing.assert_close(maps[0], enlarge(expected[0]))


def test_an_odd_grid_keeps_its_edge() -> None:
    """Of three rows of patches, two are pooled and the last stands alone."""
    segmenter = Segmenter.of(perceptual_mae.load_encoder("random:micro/16", (48, 16)), CLASSES)
    coarsest = segmenter.upernet.backbone.rescale[-1]
    assert coarsest(torch.tensor([[[[1.0], [2.0], [9.0]]]])).flatten().tolist() == [2.0, 9.0]


@pytest.mark.parametrize(("width", "expected"), [(96, 64), (192, 128), (384, 256), (768, 512), (1280, 512)])
def test_heads_are_as_wide_as_suits_the_encoder(width: int, expected: int) -> None:
    assert head_width(width) == expected


def test_a_prediction_does_not_depend_on_its_neighbours(encoder: Encoder) -> None:
    segmenter = Segmenter.of(encoder, CLASSES).eval()
    images = random(3, 3, *SIZE)
    together = segmenter.logits(images)
    alone = torch.cat([segmenter.logits(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_one_image_is_enough_for_a_step(encoder: Encoder) -> None:
    """BatchNorm alone would fail on the place that UperNet pools it to: the image stands for itself and its twin."""
    torch.manual_seed(0)
    segmenter = Segmenter.of(encoder, CLASSES).train()
    images, target = random(1, 3, *SIZE), torch.randint(0, CLASSES, SIZE)
    alone = segmenter(images, [target])
    twice = segmenter(images.repeat(2, 1, 1, 1), [target, target])
    for name, loss in alone.items():
        assert torch.isfinite(loss)
        torch.testing.assert_close(loss, twice[name], atol=0.02, rtol=0)  # the heads drop some of their channels


def test_no_vision_transformer() -> None:
    pixels = Encoder(RawPixels(4), "pixels:4", (32, 32), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ValueError, match=r"pixels:4 is no Vision Transformer"):
        Segmenter.of(pixels, CLASSES)


@pytest.mark.parametrize("width", [None, 40])
def test_rebuilt_from_plain_values(encoder: Encoder, width: int | None) -> None:
    segmenter = Segmenter.of(encoder, CLASSES, width=width, drop_path=0.2).eval()
    assert segmenter.upernet.config.hidden_size == (width or 64)
    again = Segmenter.from_description(json.loads(json.dumps(segmenter.describe()))).eval()
    again.load_state_dict(segmenter.state_dict())
    assert again.describe() == segmenter.describe()
    images = random(2, 3, *SIZE)
    torch.testing.assert_close(again.logits(images), segmenter.logits(images))


# -- losses ------------------------------------------------------------------------------------------------------------


def by_hand(logits: Tensor, targets: Tensor) -> float:
    """Mean of -log p over the pixels that count, in float64."""
    logs = logits.double().log_softmax(dim=1)
    return float(
        -torch.stack([logs[b, k, y, x] for b, y, x in (targets != 255).nonzero() for k in [targets[b, y, x]]]).mean()
    )


def test_losses_are_those_of_transformers(network: Segmenter) -> None:
    images = random(2, 3, *SIZE)
    targets = torch.randint(CLASSES, (2, *SIZE), generator=torch.Generator().manual_seed(1))
    targets[0, :20] = 255
    losses = network(images, list(targets))
    assert losses.keys() == {"segmentation", "auxiliary"}
    theirs = network.upernet(images, labels=targets)
    torch.testing.assert_close(sum(losses.values()), theirs.loss)
    torch.testing.assert_close(network.logits(images), theirs.logits)
    assert losses["segmentation"].item() == pytest.approx(by_hand(theirs.logits.detach(), targets), rel=1e-5)


def test_pixels_that_do_not_count_teach_nothing(network: Segmenter) -> None:
    targets = [torch.full(SIZE, 255), torch.full(SIZE, 255)]
    losses = network(random(2, 3, *SIZE), targets)
    assert [loss.item() for loss in losses.values()] == [0.0, 0.0]
    sum(losses.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None)


def test_every_weight_learns(network: Segmenter) -> None:
    network.train()
    sum(network(random(2, 3, *SIZE), [torch.randint(CLASSES, SIZE) for _ in range(2)]).values()).backward()
    still = [
        name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert still == []


def test_it_learns_to_tell_dark_from_bright(encoder: Encoder) -> None:
    torch.manual_seed(0)
    segmenter = Segmenter.of(encoder, 2).train()
    optimizer = torch.optim.AdamW(segmenter.parameters(), 2e-3)
    halves = torch.zeros(2, 3, *SIZE)
    halves[0, :, :, 32:] = halves[1, :, 24:] = 1
    targets = list(halves[:, 0].long())
    first = None
    for _ in range(30):
        loss = sum(segmenter(halves, targets).values())
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 4
    said = segmenter.eval().predict([(255 * half).to(torch.uint8) for half in halves])
    agreed = torch.stack([one["labels"].long() == target for one, target in zip(said, targets, strict=True)])
    assert agreed.float().mean() > 0.97


# -- predictions -------------------------------------------------------------------------------------------------------


def test_an_image_of_the_networks_size_is_seen_at_once(network: Segmenter) -> None:
    images = pictures(3, 3, *SIZE)
    expected = network.upernet(images.float() / 255).logits.argmax(dim=1)
    assert len(expected.unique()) > 1
    said = network.predict(list(images))
    assert all(one["labels"].dtype == torch.uint8 for one in said)
    assert torch.equal(torch.stack([one["labels"] for one in said]).long(), expected)


@torch.no_grad()
def by_windows(network: Segmenter, image: Tensor) -> Tensor:
    """Means of the logits of all windows in float64, of an image no smaller than one."""
    height, width = image.shape[1:]
    total = torch.zeros(CLASSES, height, width, dtype=torch.float64)
    count = torch.zeros(height, width, dtype=torch.float64)
    for top in starts(height, SIZE[0]):
        for left in starts(width, SIZE[1]):
            place = (slice(top, top + SIZE[0]), slice(left, left + SIZE[1]))
            total[:, *place] += network.upernet(image[None, :, *place].float() / 255).logits[0].double()
            count[place] += 1
    return total / count


def test_larger_images_are_seen_through_windows(network: Segmenter) -> None:
    images = [*pictures(2, 3, 100, 150), pictures(3, 48, 200)]
    said = network.predict(images)
    for image, one in zip(images, said, strict=True):
        expected = by_windows(network, image)
        best, second = expected.topk(2, dim=0).values
        sure = best - second > 1e-4  # where rounding does not decide
        assert sure.float().mean() > 0.9
        assert one["labels"].shape == image.shape[1:]
        assert (one["labels"].long() == expected.argmax(dim=0))[sure].all()


@pytest.mark.parametrize("size", [(30, 40), (20, 64), (48, 30), (1, 1), (20, 100)])
def test_smaller_images_are_filled_up_with_the_mean_colour(network: Segmenter, size: tuple[int, int]) -> None:
    image = pictures(3, *size)
    filled = network.backbone.mean[0].expand(3, max(size[0], SIZE[0]), max(size[1], SIZE[1])).clone()
    filled[:, : size[0], : size[1]] = image.float() / 255
    expected = by_windows(network, filled * 255).argmax(dim=0)[: size[0], : size[1]]
    labels = network.predict([image])[0]["labels"]
    assert labels.shape == size
    assert (labels == expected).float().mean() > 0.98


def test_many_sizes_at_once_are_what_they_are_alone(network: Segmenter) -> None:
    images = [pictures(3, *size) for size in ((48, 64), (48, 64), (50, 64), (48, 64), (20, 20), *[(48, 64)] * 10)]
    together = network.predict(images)
    for image, one in zip(images, together, strict=True):
        assert (one["labels"] == network.predict([image])[0]["labels"]).float().mean() > 0.99
    assert network.predict([]) == []


def test_predictions_have_no_gradient_and_change_nothing(network: Segmenter) -> None:
    image = pictures(3, 60, 70)
    before: dict[str, Any] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    kept = image.clone()
    assert not network.predict([image])[0]["labels"].requires_grad
    assert torch.equal(image, kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
