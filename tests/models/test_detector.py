"""Mask R-CNN over an encoder: losses, places in the image, and being built again."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from perceptual_mae.encoders import load_encoder
from perceptual_mae.models.detector import Detector
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.models.feature_pyramid import LEVELS

SIDE = 64
FORMS: list[dict[str, Any]] = [{}, {"pyramid": "several"}, {"window": 3}, {"window": 3, "pyramid": "several"}]
LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("random:micro/8", SIDE)


def detector(encoder: Encoder, **settings: Any) -> Detector:
    torch.manual_seed(0)
    return Detector.of(encoder, 3, **({"sampled": 16} | settings))


def scene() -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Two images: two bright rectangles on noise, and nothing but noise."""
    images = 0.2 * torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[4.0, 6, 24, 30], [34.0, 30, 60, 58]])
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
        masks[number, y1:y2, x1:x2] = 1
        images[0, number, y1:y2, x1:x2] = 1
    empty = {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0]}
    return images, [{"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks}, empty]


@pytest.mark.parametrize("form", FORMS)
def test_losses_reach_every_weight(encoder: Encoder, form: dict[str, Any]) -> None:
    network = detector(encoder, **form).train()
    losses = network(*scene())
    assert losses.keys() == LOSSES
    assert all(loss.ndim == 0 and loss > 0 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert idle == []
    assert sum(parameter.grad.abs().sum() for parameter in network.encoder.parameters()) > 0


def test_images_without_objects_alone(encoder: Encoder) -> None:
    images, targets = scene()
    network = detector(encoder).train()
    losses = network(images[1:], targets[1:])
    assert losses["loss_mask"] == losses["loss_box_reg"] == 0
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters()), "as DDP wants it"


def test_it_learns_what_it_sees(encoder: Encoder) -> None:
    images, targets = scene()
    network = detector(encoder).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    totals = []
    for _ in range(24):
        loss = torch.stack(list(network(images, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(float(loss.detach()))
    assert sum(totals[-3:]) < 0.5 * sum(totals[:3])
    (found,) = network.predict([(255 * images[0]).round().to(torch.uint8)])
    best = found["boxes"][:1]
    truth = targets[0]["boxes"]
    corner, end = torch.maximum(best[:, :2], truth[:, :2]), torch.minimum(best[:, 2:], truth[:, 2:])
    common = (end - corner).clamp(min=0).prod(dim=1)
    areas = (best[:, 2:] - best[:, :2]).prod(dim=1) + (truth[:, 2:] - truth[:, :2]).prod(dim=1)
    assert (common / (areas - common)).max() > 0.5


def test_the_encoder_is_timms_network_with_its_weights(encoder: Encoder) -> None:
    network = detector(encoder)
    state = network.encoder.state_dict()
    assert state.keys() == encoder.network.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.network.state_dict().items())
    assert {id(p) for p in network.encoder.parameters()} < {id(p) for p in network.parameters()}
    assert len(network.state_dict()) == len({t.data_ptr() for t in network.state_dict().values()}), "each is there once"


@pytest.mark.parametrize("form", FORMS)
def test_built_again_from_plain_values(encoder: Encoder, form: dict[str, Any]) -> None:
    network = detector(encoder, **form).eval()
    _make_it_find_things(network)
    description = json.loads(json.dumps({**network.describe(), "something": "else"}))
    again = Detector.from_description(description).eval()
    again.load_state_dict(network.state_dict())
    image = torch.randint(256, (3, 40, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    (first,), (second,) = network.predict([image]), again.predict([image])
    assert len(first["boxes"]) > 0
    assert all(torch.equal(first[name], second[name]) for name in first)


def _make_it_find_things(network: Detector) -> None:
    """Scores of a network that has not learnt anything lie above the threshold by chance; so they do for sure."""
    with torch.no_grad():
        network.rcnn.roi_heads.box_predictor.cls_score.bias[0] -= 2


def test_predictions_have_their_form(encoder: Encoder) -> None:
    network = detector(encoder).train()
    _make_it_find_things(network)
    sizes = [(48, 80), (64, 64), (10, 3), (300, 200)]
    images = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in sizes]
    found = network.predict(images)
    assert network.training, "as it was"
    for one, (height, width) in zip(found, sizes, strict=True):
        boxes, scores, masks = one["boxes"], one["scores"], one["masks"]
        assert boxes.shape == (len(scores), 4)
        assert masks.shape == (len(scores), height, width)
        assert (one["labels"].dtype, masks.dtype) == (torch.int64, torch.bool)
        assert len(scores) <= 100
        assert (scores > 0.05).all()
        assert (scores.diff() <= 0).all()
        assert ((one["labels"] >= 1) & (one["labels"] <= 3)).all()
        assert ((boxes >= 0) & (boxes <= torch.tensor([width, height, width, height]))).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert not any(tensor.requires_grad for tensor in one.values())
    assert max(len(one["scores"]) for one in found) > 0


class Says(nn.Module):
    """Heads that find always the same."""

    def __init__(self, boxes: list[list[float]]) -> None:
        super().__init__()
        self.boxes = torch.tensor(boxes)

    def forward(self, features: Any, proposals: list[Tensor], sizes: Any) -> tuple[list[dict[str, Tensor]], Any]:
        assert sizes == [(SIDE, SIDE)] * len(proposals)
        count = len(self.boxes)
        found = {
            "boxes": self.boxes,
            "labels": torch.arange(1, count + 1),
            "scores": torch.linspace(0.9, 0.5, count),
            "masks": torch.ones(count, 1, 28, 28),
        }
        return [found] * len(proposals), {}


def test_places_are_those_of_the_image_that_was_given(encoder: Encoder) -> None:
    network = detector(encoder)
    # An image of 160 x 80 pixels lies in the upper half of the square, at 0.4 of its size; below it is black.
    network.rcnn.roi_heads = Says([[8.0, 4, 24, 12], [40.0, 24, 60, 50], [10.0, 40, 20, 60]])
    (found,) = network.predict([torch.zeros(3, 80, 160, dtype=torch.uint8)])
    assert found["labels"].tolist() == [1, 2], "the third lies in the black"
    torch.testing.assert_close(found["boxes"], torch.tensor([[20.0, 10, 60, 30], [100.0, 60, 150, 80]]))
    expected = torch.zeros(2, 80, 160, dtype=torch.bool)
    # torchvision's masks lie half a pixel of the square, 1.25 of the image, to the upper left of where they should.
    expected[0, 11:31, 21:61] = True
    expected[1, 61:80, 101:151] = True
    assert torch.equal(found["masks"], expected)


def test_masks_come_back_where_they_were(encoder: Encoder) -> None:
    """What the mask head is asked to learn, said by it without a mistake, is the mask again."""
    network = detector(encoder)
    rows, columns = torch.meshgrid(*[torch.arange(SIDE) + 0.5] * 2, indexing="ij")
    truth = ((rows - 30) ** 2 + (columns - 27) ** 2) < 120
    box = torch.tensor([[16.0, 19, 38, 41]])
    heads = Says(box.tolist())
    asked = project_masks_on_boxes(truth[None].float(), box, torch.tensor([0]), 28)
    network.rcnn.roi_heads = heads
    plain = heads.forward
    heads.forward = lambda *given: ([plain(*given)[0][0] | {"masks": asked[:, None]}], {})
    (found,) = network.predict([torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)])
    assert (found["masks"][0] ^ truth).sum() <= 12, "of 376 pixels; half a pixel aside it would be 20 or more"


def test_the_image_is_laid_into_the_square(encoder: Encoder) -> None:
    network, seen = detector(encoder).eval(), []
    network.rcnn.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image = torch.full((3, 100, 50), 255, dtype=torch.uint8)
    image[:, :50] = 51
    network.predict([image])
    (square,) = seen
    assert square.shape == (1, 3, SIDE, SIDE)
    assert not square[..., 32:].any()
    torch.testing.assert_close(square[0, :, :30, :32], torch.full((3, 30, 32), 0.2))
    torch.testing.assert_close(square[0, :, 34:, :32], torch.ones(3, 30, 32))


@pytest.mark.parametrize("patch", [8, 14, 16])
def test_anchors_and_cut_outs_know_the_strides(patch: int) -> None:
    side = 8 * patch
    network = detector(load_encoder(f"random:micro/{patch}", side))
    maps = network.rcnn.backbone(torch.zeros(1, 3, side, side))
    anchors = network.rcnn.rpn.anchor_generator(
        ImageList(torch.zeros(1, 3, side, side), [(side, side)]), list(maps.values())
    )
    strides = [patch / 4, patch / 2, patch, 2 * patch, 4 * patch]
    expected = []
    for stride, one in zip(strides, maps.values(), strict=True):
        for row in range(one.shape[2]):
            for column in range(one.shape[3]):
                for aspect in (0.5, 1.0, 2.0):  # height over width; corners are rounded, as torchvision does it
                    wide, high = 4 * stride / aspect**0.5, 4 * stride * aspect**0.5
                    corners = torch.tensor([-wide, -high, wide, high]).round()
                    expected.append(corners + stride * torch.tensor([column, row, column, row]))
    torch.testing.assert_close(anchors[0], torch.stack(expected))
    assert anchors[0].dtype == torch.float32

    # Maps that hold the places of their pixels: what is cut out is the middle of the box, whichever map it is from.
    places = {}
    for name, stride in zip(LEVELS, strides, strict=False):
        rows, columns = torch.meshgrid(*[(torch.arange(n) + 0.5) * stride for n in maps[name].shape[2:]], indexing="ij")
        places[name] = torch.stack([columns, rows, torch.full_like(rows, float(name))])[None]
    sides = [1.5 * patch, 4 * patch, 7 * patch]
    boxes = torch.tensor(
        [[0.5 * side - s / 2, 0.5 * side - s / 2, 0.5 * side + s / 2, 0.5 * side + s / 2] for s in sides]
    )
    boxes += torch.tensor([0.3, -0.2, 0.3, -0.2])
    cut = network.rcnn.roi_heads.box_roi_pool(places, [boxes], [(side, side)]).mean(dim=(2, 3))
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = torch.tensor(strides)[[0, 0, 1], None] / 2  # torchvision's pixels have their centres at whole numbers
    torch.testing.assert_close(cut[:, :2], middle + half, atol=0.05, rtol=0)
    assert cut[:, 2].tolist() == [0, 0, 1]


def test_places_are_computed_in_full_precision(encoder: Encoder) -> None:
    network, seen = detector(encoder).train(), []
    network.rcnn.roi_heads.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    with torch.autocast("cpu", torch.bfloat16):
        losses = network(*scene())
    torch.stack(list(losses.values())).sum().backward()
    assert all(one.dtype == torch.float32 for one in seen[0])
    plain = detector(encoder).train()(*scene())
    assert losses["loss_objectness"].item() == pytest.approx(plain["loss_objectness"].item(), rel=0.02)


def test_weights_are_drawn_from_pytorchs_generator(encoder: Encoder) -> None:
    first, again = detector(encoder), detector(encoder)
    other = Detector.of(encoder, 3)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="detection takes square images, not 32 x 64"):
        detector(load_encoder("random:micro/8", (32, 64)))
    with pytest.raises(ValueError, match="is no Vision Transformer"):
        detector(load_encoder("pixels:8"))
    description = detector(load_encoder("random:micro/8", SIDE)).describe()
    description["architecture"]["options"]["depth"] = 2
    assert Detector.from_description(description)
    with pytest.raises(ValueError, match="a pyramid of several maps needs 4 blocks, the network has 2"):
        Detector.from_description(description | {"pyramid": "several"})
