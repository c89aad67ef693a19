"""Large-scale jitter: what is said of objects stays true of the pixels."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from perceptual_mae.augment.jitter import LargeScaleJitter

SIDE = 64
Objects = dict[str, Tensor]


def scene(height: int = 48, width: int = 80) -> tuple[Tensor, Objects]:
    """Three rectangles on black, each of a brightness of its own, and their masks; the last one is tiny."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    places = [(5, 4, 25, 20), (40, 10, 79, 44), (60, 2, 62, 4)]
    masks = torch.zeros(3, height, width, dtype=torch.uint8)
    for number, (x1, y1, x2, y2) in enumerate(places):
        masks[number, y1:y2, x1:x2] = 1
        image[:, y1:y2, x1:x2] = 80 * (number + 1)
    return image, {"boxes": torch.tensor(places).float(), "labels": torch.tensor([7, 2, 5]), "masks": masks}


def jittered(seed: int, jitter: LargeScaleJitter, image: Tensor, objects: Objects) -> tuple[Tensor, Objects]:
    torch.manual_seed(seed)
    return jitter(image, objects)


def around(masks: Tensor) -> Tensor:
    return masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])


@pytest.mark.parametrize("seed", range(40))
def test_masks_and_boxes_stay_on_their_objects(seed: int) -> None:
    image, objects = scene()
    square, found = jittered(seed, LargeScaleJitter(SIDE), image, objects)
    assert square.shape == (3, SIDE, SIDE)
    assert square.dtype == found["masks"].dtype == torch.uint8
    assert found["masks"].shape[1:] == (SIDE, SIDE)
    assert found["boxes"].dtype == torch.float32
    assert len({len(tensor) for tensor in found.values()}) == 1
    for box, label, mask in zip(found["boxes"], found["labels"], found["masks"], strict=True):
        inside = square[0][mask.bool()].float()
        if len(inside) > 30:  # edges are blended: the brightness of most pixels under a mask is that of its object
            assert (inside - {7: 80, 2: 160, 5: 240}[int(label)]).abs().median() < 3
        assert (box >= 0).all()
        assert (box <= SIDE).all()
        assert ((box[2:] - box[:2]) >= 1).all()
        assert (around(mask[None])[0] - box).abs().max() <= 1, "the box is that of the mask, to a pixel"


def test_at_its_own_size_nothing_changes() -> None:
    image, objects = scene(40, SIDE)
    square, found = jittered(0, LargeScaleJitter(SIDE, scale=(1.0, 1.0), flip=0.0), image, objects)
    assert torch.equal(square[:, :40], image)
    assert not square[:, 40:].any()
    kept = objects["masks"].flatten(1).any(dim=1).bool()
    assert torch.equal(found["masks"][:, :40], objects["masks"][kept])
    assert torch.equal(found["boxes"][0], objects["boxes"][0])


def test_twice_the_size_is_a_part_of_it() -> None:
    image, objects = scene(32, 32)
    masks = torch.zeros(1, 32, 32, dtype=torch.uint8)
    masks[0, 8:24, 8:24] = 1
    objects = {"boxes": torch.tensor([[8.0, 8, 24, 24]]), "labels": torch.tensor([1]), "masks": masks}
    jitter = LargeScaleJitter(32, scale=(2.0, 2.0), flip=0.0)
    corners = set()
    for seed in range(20):
        _, found = jittered(seed, jitter, image, objects)
        seen = found["masks"].sum() / 4
        x1, y1, x2, y2 = found["boxes"][0].tolist()
        assert (x2 - x1) * (y2 - y1) == 4 * seen == found["masks"].sum()
        corners.add((x1, y1))
    assert len(corners) > 5


def test_an_object_that_is_cut_has_the_box_of_what_is_left() -> None:
    # A cross of one pixel's width: what is seen of its box is much more than what is seen of its mask.
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 32, :], masks[0, :, 2] = 1, 1
    objects = {"boxes": torch.tensor([[0.0, 0, 64, 64]]), "labels": torch.tensor([1]), "masks": masks}
    jitter = LargeScaleJitter(64, scale=(2.0, 2.0), flip=0.0)
    lines = 0
    for seed in range(30):
        _, found = jittered(seed, jitter, torch.zeros(3, 64, 64, dtype=torch.uint8), objects)
        if len(found["masks"]):
            assert torch.equal(found["boxes"], around(found["masks"]))
            lines += bool((found["boxes"][0, 2:] - found["boxes"][0, :2]).min() == 2)
    assert lines, "in some views one bar of the cross is out of sight"


def test_mirrored() -> None:
    image, objects = scene()
    plain, said = jittered(3, LargeScaleJitter(SIDE, flip=0.0), image, objects)
    mirror, mirrored = jittered(3, LargeScaleJitter(SIDE, flip=1.0), image, objects)
    assert torch.equal(mirror, plain.flip(-1))
    assert torch.equal(mirrored["masks"], said["masks"].flip(-1))
    x1, y1, x2, y2 = said["boxes"].unbind(1)
    assert torch.equal(mirrored["boxes"], torch.stack([SIDE - x2, y1, SIDE - x1, y2], dim=1))
    assert torch.equal(mirrored["labels"], said["labels"])


def test_half_are_mirrored_and_scales_cover_their_range() -> None:
    image, objects = scene()
    image[:] = 255
    widths = []
    for seed in range(300):
        square, _ = jittered(seed, LargeScaleJitter(SIDE, scale=(0.25, 1.0)), image, objects)
        columns = square[0].any(dim=0)
        widths.append(int(columns.sum()) / SIDE * (1 if columns[0] else -1))
    scales = torch.tensor(widths).abs()
    assert 0.25 <= scales.min() < 0.28
    assert 0.97 < scales.max() <= 1
    assert abs(scales.mean() - 0.625) < 0.05
    assert 0.4 < sum(width < 0 for width in widths) / sum(scales < 1) < 0.6


def test_what_can_no_longer_be_seen_is_left_out() -> None:
    image, objects = scene()
    _, found = jittered(0, LargeScaleJitter(SIDE, scale=(0.1, 0.1)), image, objects)
    assert found["labels"].tolist() == [7, 2]  # the tiny one is less than a pixel
    empty = {name: tensor[:0] for name, tensor in objects.items()}
    _, none = jittered(0, LargeScaleJitter(SIDE), image, empty)
    assert none["boxes"].shape == (0, 4)
    assert none["masks"].shape == (0, SIDE, SIDE)
    unseen = objects | {"masks": torch.zeros_like(objects["masks"])}
    _, gone = jittered(0, LargeScaleJitter(SIDE, scale=(1.0, 1.0)), image, unseen)
    assert len(gone["boxes"]) == 0


@pytest.mark.parametrize(("height", "width"), [(1, 1), (500, 3), (3, 500), (7, 64)])
def test_odd_shapes(height: int, width: int) -> None:
    image = torch.full((1, height, width), 9, dtype=torch.uint8)
    whole = {
        "boxes": torch.tensor([[0.0, 0, width, height]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, height, width, dtype=torch.uint8),
    }
    for seed in range(10):
        square, found = jittered(seed, LargeScaleJitter(SIDE), image, whole)
        assert square.shape == (1, SIDE, SIDE)
        assert len(found["boxes"]) <= 1
        assert torch.equal(square[0] > 0, found["masks"].any(dim=0)) or not len(found["masks"])


def test_draws_depend_on_the_generator_alone() -> None:
    image, objects = scene()
    jitter = LargeScaleJitter(SIDE)
    first, second = jittered(5, jitter, image, objects), jittered(5, jitter, image, objects)
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], jittered(6, jitter, image, objects)[0])
    after = torch.rand(1)
    jittered(6, jitter, *scene(200, 30))
    assert torch.equal(torch.rand(1), after), "however large the image, so many numbers are drawn"
    assert torch.equal(objects["boxes"], scene()[1]["boxes"]), "what is given stays as it was"
