"""Augmentation of what D sees, against the paper's matrices pixel by pixel, and against plain tensor operations."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perceptual_mae.augment.ada import ADA_NUMBERS, Operation, augment, draw_ada, parameters, transforms
from perceptual_mae.models.pyramid import image_pyramid

OPERATIONS = (
    "flip", "turn", "shift", "scale", "rotation", "stretch", "second_rotation", "move",
    "brightness", "contrast", "luma_flip", "hue", "saturation",
)  # fmt: skip
UNIFORM = ("flip", "turn", "shift_x", "shift_y", "rotation", "second_rotation", "luma_flip", "hue")
NORMAL = ("scale", "stretch", "move_x", "move_y", "brightness", "contrast", "saturation")
COLUMNS = {name: 13 + i for i, name in enumerate(UNIFORM + NORMAL)}
"""The raw numbers as `draw_ada` documents them."""


def numbers(*executed: str, batch: int = 1, **raw: float) -> Tensor:
    """Raw numbers with which, at p = 1/2, exactly these operations are executed, with these raw numbers."""
    draw = torch.full((batch, ADA_NUMBERS), 0.99, dtype=torch.float64)
    for name in executed:
        draw[:, OPERATIONS.index(name)] = 0.01
    for name, value in raw.items():
        draw[:, COLUMNS[name]] = value
    return draw


def changed(images: Tensor, draw: Tensor, p: float = 0.5) -> Tensor:
    height, width = images.shape[-2:]
    return augment([images], transforms(draw, p, (height, width), images.shape[1]))[0]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def drawn(batch: int, seed: int = 0) -> Tensor:
    return draw_ada(batch, torch.Generator().manual_seed(seed))


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_numbers_are_drawn_on_the_cpu_and_by_the_generator_alone() -> None:
    first, again, other = drawn(5, seed=1), drawn(5, seed=1), drawn(5, seed=2)
    assert first.shape == (5, ADA_NUMBERS) == (5, 28)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    many = drawn(20_000)
    assert many[:, :21].min() >= 0
    assert many[:, :21].max() < 1
    torch.testing.assert_close(many[:, :21].mean(0), torch.full((21,), 0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(many[:, 21:].mean(0), torch.zeros(7), atol=0.03, rtol=0)
    torch.testing.assert_close(many[:, 21:].std(0), torch.ones(7), atol=0.03, rtol=0)


@pytest.mark.parametrize("p", [0.1, 0.4, 0.9])
def test_each_operation_is_executed_with_its_probability(p: float) -> None:
    count = 40_000
    chosen = parameters(drawn(count), p)
    rotation = 1 - math.sqrt(1 - p)
    # An executed flip flips half of the images, an executed turn leaves a quarter of them upright.
    expected = dict.fromkeys(chosen._fields, p)
    expected |= {"flip": p / 2, "luma_flip": p / 2, "turn": 3 * p / 4}
    expected |= {"rotation": rotation, "second_rotation": rotation}
    for name, share in expected.items():
        seen = (getattr(chosen, name) != 0).double().mean().item()
        assert seen == pytest.approx(share, abs=4.5 * math.sqrt(share * (1 - share) / count)), name
    rotated = ((chosen.rotation != 0) | (chosen.second_rotation != 0)).double().mean().item()
    assert rotated == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / count))
    # Along both axes or along none.
    assert torch.equal(chosen.shift_x != 0, chosen.shift_y != 0)
    assert torch.equal(chosen.move_x != 0, chosen.move_y != 0)


def test_operations_are_executed_independently_of_each_other() -> None:
    chosen = parameters(drawn(40_000), 0.5)
    executed = torch.stack([(value != 0).double() for value in chosen if value is not chosen.shift_y])
    correlation = torch.corrcoef(executed) - torch.eye(len(executed))
    fields = [name for name in chosen._fields if name != "shift_y"]
    pair = fields.index("move_x"), fields.index("move_y")
    correlation[pair] = correlation[pair[::-1]] = 0
    assert correlation.abs().max() < 0.025


def test_strengths_have_the_papers_distributions() -> None:
    chosen = parameters(drawn(60_000), 1.0)
    deviations = {"scale": 0.2, "stretch": 0.2, "move_x": 0.125, "move_y": 0.125}
    deviations |= {"brightness": 0.2, "contrast": 0.5, "saturation": 1.0}
    for name, deviation in deviations.items():
        assert getattr(chosen, name).std().item() == pytest.approx(deviation, rel=0.015), name
        assert getattr(chosen, name).mean().item() == pytest.approx(0, abs=0.02 * deviation), name
    widths = {"shift_x": 0.125, "shift_y": 0.125, "rotation": math.pi, "second_rotation": math.pi, "hue": math.pi}
    for name, width in widths.items():
        quantiles = torch.quantile(getattr(chosen, name), torch.tensor([0, 0.25, 0.5, 0.75, 1]).double()) / width
        torch.testing.assert_close(quantiles, torch.tensor([-1, -0.5, 0, 0.5, 1]).double(), atol=0.02, rtol=0)
        assert getattr(chosen, name).abs().max() <= width
    assert chosen.turn.unique(return_counts=True)[0].tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(torch.bincount(chosen.turn.long()) / 60_000, torch.full((4,), 0.25), atol=0.01, rtol=0)


def test_with_rising_p_operations_are_added_and_none_is_changed() -> None:
    draw = drawn(500)
    lower, higher = (torch.stack(parameters(draw, p)) for p in (0.3, 0.6))
    assert torch.equal(torch.where(lower != 0, higher, 0), lower)
    assert (higher != 0).sum() > (lower != 0).sum()


# -- what stays as it is -----------------------------------------------------------------------------------------------


def test_p_of_zero_gives_back_the_very_tensors() -> None:
    pyramid = [noise(4, 3, side, side) for side in (4, 8, 16)]
    result = augment(pyramid, transforms(drawn(4), 0.0, (16, 16), 3))
    assert all(after is before for after, before in zip(result, pyramid, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_images_that_nothing_happens_to_keep_every_bit(dtype: torch.dtype) -> None:
    images = noise(200, 3, 12, 20).mul(3).sub(1).to(dtype)  # beyond [0, 1], too: reconstructions are not clamped
    draw, p = drawn(200), 0.1
    result = changed(images, draw, p)
    chosen = parameters(draw, p)
    shifts = torch.stack([(chosen.shift_x * 20).round(), (chosen.shift_y * 12).round()])
    others = torch.stack([value for name, value in chosen._asdict().items() if not name.startswith("shift")])
    still = (others == 0).all(0) & (shifts == 0).all(0)
    assert 20 < still.sum() < 100
    assert result.dtype == dtype
    assert torch.equal(result[still], images[still])
    assert ((result[~still] - images[~still]).abs().flatten(1).amax(1) > 0).all()


def test_geometry_and_colour_leave_each_others_images_alone() -> None:
    images = noise(3, 3, 16, 16, dtype=torch.float32)
    draw = torch.cat([
        numbers("flip", flip=0.7),
        numbers("brightness", brightness=1.0),
        numbers("flip", "turn", "luma_flip", flip=0.2, turn=0.2, luma_flip=0.2),  # executed, and chose to do nothing
    ])  # fmt: skip
    result = changed(images, draw)
    torch.testing.assert_close(result[0], images[0].flip(-1), atol=1e-5, rtol=0)
    assert torch.equal(result[1], images[1] + torch.tensor(0.1))
    assert torch.equal(result[2], images[2])


def test_a_part_of_a_batch_is_changed_as_in_the_whole() -> None:
    images, draw = noise(6, 3, 8, 8, dtype=torch.float32), drawn(6)
    torch.testing.assert_close(changed(images[2:5], draw[2:5]), changed(images, draw)[2:5], atol=1e-6, rtol=0)
    assert torch.equal(changed(images, draw), changed(images, draw))


# -- geometry ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flips_turns_and_shifts_are_exact(dtype: torch.dtype) -> None:
    precision = {"atol": 1e-4 if dtype == torch.float32 else 1e-12, "rtol": 0}
    square, wide = noise(2, 3, 64, 64, dtype=dtype), noise(2, 3, 48, 80, dtype=dtype)
    for images in (square, wide):
        torch.testing.assert_close(changed(images, numbers("flip", batch=2, flip=0.5)), images.flip(-1), **precision)
    for quarters in range(4):
        draw = numbers("turn", batch=2, turn=quarters / 4 + 0.1)
        torch.testing.assert_close(changed(square, draw), torch.rot90(square, quarters, (2, 3)), **precision)
    upside_down = changed(wide, numbers("turn", batch=2, turn=0.5))
    torch.testing.assert_close(upside_down, wide.flip(-1, -2), **precision)

    # 0.125 * (2 * 0.9 - 1) * 80 = 8 to the right; 0.125 * (2 * 0.04 - 1) * 48 = -5.52, so 6 up.
    shifted = changed(wide, numbers("shift", batch=2, shift_x=0.9, shift_y=0.04))
    padded = np.pad(wide.numpy(), ((0, 0), (0, 0), (0, 6), (8, 0)), mode="symmetric")
    torch.testing.assert_close(shifted, torch.from_numpy(padded[:, :, 6:, :80]), **precision)


def test_a_rotation_of_an_image_that_is_not_square_does_not_shear_it() -> None:
    images = noise(1, 3, 24, 40)
    for quarters, raw in ((1, 0.75), (3, 0.25)):  # pi * (2 * 0.75 - 1) = pi / 2
        result = changed(images, numbers("rotation", rotation=raw))
        expected = torch.rot90(images[..., 8:32], quarters, (2, 3))
        torch.testing.assert_close(result[..., 8:32], expected, atol=1e-10, rtol=0)
        turned = changed(images, numbers("turn", turn=quarters / 4))
        torch.testing.assert_close(result, turned, atol=1e-10, rtol=0)


def test_scaling_is_about_the_centre() -> None:
    images = noise(1, 3, 16, 24)
    smaller = changed(images, numbers("scale", scale=-5.0))  # 2 ** (0.2 * -5): half
    pooled = F.avg_pool2d(images, 2)
    torch.testing.assert_close(smaller[..., 4:12, 6:18], pooled, atol=1e-12, rtol=0)
    # The rest is reflected about the border of the small image.
    torch.testing.assert_close(smaller[..., :4, 6:18], pooled[..., :4, :].flip(-2), atol=1e-12, rtol=0)
    wider = changed(images, numbers("stretch", stretch=-5.0))
    narrow = F.avg_pool2d(images, (1, 2))  # half as wide, twice as high
    high = F.interpolate(narrow, scale_factor=(2.0, 1.0), mode="bilinear")[..., 8:24, :]
    torch.testing.assert_close(wider[..., 1:-1, 6:18], high[..., 1:-1, :], atol=1e-12, rtol=0)


def matrix(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float64)


def papers_geometry(draw: np.ndarray, p: float, height: int, width: int) -> np.ndarray:
    """G of one image: where a point, in pixels from the centre, goes. Every operation multiplies from the left."""
    gate = dict(zip(OPERATIONS, draw[:13], strict=True))
    raw = {name: draw[column] for name, column in COLUMNS.items()}

    def scale(x: float, y: float) -> np.ndarray:
        return matrix((x, 0, 0), (0, y, 0), (0, 0, 1))

    def rotate(angle: float) -> np.ndarray:  # counter-clockwise as seen, with y downwards
        c, s = math.cos(angle), math.sin(angle)
        return matrix((c, s, 0), (-s, c, 0), (0, 0, 1))

    def translate(x: float, y: float) -> np.ndarray:
        return matrix((1, 0, x), (0, 1, y), (0, 0, 1))

    rare = 1 - math.sqrt(1 - p)
    factor, stretch = 2 ** (0.2 * raw["scale"]), 2 ** (0.2 * raw["stretch"])
    G = np.eye(3)
    if gate["flip"] < p:
        G = scale(1 - 2 * int(raw["flip"] * 2), 1) @ G
    if gate["turn"] < p:
        G = rotate(math.pi / 2 * int(raw["turn"] * 4)) @ G
    if gate["shift"] < p:
        x, y = (0.125 * (2 * raw[name] - 1) for name in ("shift_x", "shift_y"))
        G = translate(round(x * width), round(y * height)) @ G
    if gate["scale"] < p:
        G = scale(factor, factor) @ G
    if gate["rotation"] < rare:
        G = rotate(math.pi * (2 * raw["rotation"] - 1)) @ G
    if gate["stretch"] < p:
        G = scale(stretch, 1 / stretch) @ G
    if gate["second_rotation"] < rare:
        G = rotate(math.pi * (2 * raw["second_rotation"] - 1)) @ G
    if gate["move"] < p:
        G = translate(0.125 * raw["move_x"] * width, 0.125 * raw["move_y"] * height) @ G
    return G


def papers_colour(colour: np.ndarray, draw: np.ndarray, p: float) -> np.ndarray:
    """What one colour `(3,)` in [0, 1] becomes: the paper's operations one by one on values in [-1, 1]."""
    gate = dict(zip(OPERATIONS, draw[:13], strict=True))
    raw = {name: draw[column] for name, column in COLUMNS.items()}
    v = np.ones(3) / math.sqrt(3)
    x = 2 * colour - 1
    if gate["brightness"] < p:
        x = x + 0.2 * raw["brightness"]
    if gate["contrast"] < p:
        x = x * 2 ** (0.5 * raw["contrast"])
    if gate["luma_flip"] < p and raw["luma_flip"] >= 0.5:
        x = x - 2 * v * (v @ x)
    if gate["hue"] < p:
        angle = math.pi * (2 * raw["hue"] - 1)
        x = x * math.cos(angle) + np.cross(v, x) * math.sin(angle) + v * (v @ x) * (1 - math.cos(angle))
    if gate["saturation"] < p:
        grey = v * (v @ x)
        x = grey + (x - grey) * 2 ** raw["saturation"]
    return (x + 1) / 2


def reflected(index: int, side: int) -> int:
    index %= 2 * side
    return index if index < side else 2 * side - 1 - index


def reference(image: np.ndarray, draw: np.ndarray, p: float) -> np.ndarray:
    """One image `(C, H, W)`, pixel by pixel in float64."""
    channels, height, width = image.shape
    inverse = np.linalg.inv(papers_geometry(draw, p, height, width))
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            place = inverse @ np.array([column + 0.5 - width / 2, row + 0.5 - height / 2, 1])
            x, y = place[0] + width / 2 - 0.5, place[1] + height / 2 - 0.5
            left, top = math.floor(x), math.floor(y)
            value = np.zeros(channels)
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - abs(y - (top + i))) * (1 - abs(x - (left + j)))
                value += weight * image[:, reflected(top + i, height), reflected(left + j, width)]
            result[:, row, column] = papers_colour(value, draw, p) if channels == 3 else value
    return result


@pytest.mark.parametrize(("p", "size"), [(0.4, (12, 12)), (0.7, (10, 18)), (1.0, (15, 8))])
def test_everything_together_is_the_papers_matrices_pixel_by_pixel(p: float, size: tuple[int, int]) -> None:
    images, draw = noise(8, 3, *size), drawn(8, seed=3)
    result = changed(images, draw, p)
    for after, before, row in zip(result, images, draw, strict=True):
        expected = reference(before.numpy(), row.double().numpy(), p)
        torch.testing.assert_close(after, torch.from_numpy(expected), atol=1e-9, rtol=0)


def test_what_lies_outside_is_filled_with_image() -> None:
    images = noise(64, 3, 20, 20).mul(0.5).add(0.25)
    geometry = drawn(64)
    geometry[:, 8:13] = 1.5  # no colours
    result = changed(images, geometry, 1.0)
    assert result.min() >= 0.25 - 1e-9
    assert result.max() <= 0.75 + 1e-9


def test_every_scale_has_the_same_draw() -> None:
    # Waves that are their own reflection about the border, so that nothing has an edge.
    y, x = (torch.arange(side).add(0.5) * math.pi / side for side in (64, 96))
    waves = [torch.cos(y)[:, None] * torch.cos(2 * x), torch.cos(2 * y)[:, None] + 0 * x, torch.cos(x) + 0 * y[:, None]]
    images = (torch.stack(waves) / 4 + 0.5).expand(40, -1, -1, -1)
    sizes = [(16, 24), (32, 48), (64, 96)]
    change = transforms(drawn(40), 0.8, sizes[-1], 3)
    augmented = augment(image_pyramid(images, sizes), change)
    for after, before in zip(augmented, image_pyramid(augmented[-1], sizes), strict=True):
        assert (after - before).abs().mean() < 0.006
    # ... which says something: another draw is somewhere else entirely.
    assert (augmented[0] - augmented[0].roll(1, 0)).abs().mean() > 0.1


# -- colours -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "raw"),
    [
        ("brightness", 1.3),
        ("contrast", -0.8),
        ("luma_flip", 0.6),
        ("hue", 0.1),
        ("hue", 0.9),
        ("saturation", 1.2),
        ("saturation", -3.0),
    ],
)
def test_each_colour_operation_is_the_papers(operation: str, raw: float) -> None:
    images, draw = noise(1, 3, 4, 5), numbers(operation, **{operation: raw})
    result = changed(images, draw)
    for i in range(4):
        for j in range(5):
            expected = papers_colour(images[0, :, i, j].numpy(), draw[0].numpy(), 0.5)
            torch.testing.assert_close(result[0, :, i, j], torch.from_numpy(expected), atol=1e-12, rtol=0)
    assert (result - images).abs().max() > 0.05


def test_colours_as_a_person_would_say_it() -> None:
    red, grey = (torch.tensor(c, dtype=torch.float64).view(1, 3, 1, 1) for c in ([0.9, 0.1, 0.1], [0.3, 0.3, 0.3]))
    third = changed(red, numbers("hue", hue=0.5 + 1 / 3))  # a turn of 120 degrees: red to green
    torch.testing.assert_close(third.flatten(), torch.tensor([0.1, 0.9, 0.1]).double(), atol=1e-6, rtol=0)
    for operation, raw in (("hue", 0.8), ("saturation", 2.0)):
        torch.testing.assert_close(changed(grey, numbers(operation, **{operation: raw})), grey)
    inverted = changed(grey, numbers("luma_flip", luma_flip=0.9))
    torch.testing.assert_close(inverted, 1 - grey)
    doubled = changed(grey, numbers("contrast", contrast=2.0))  # about the middle grey
    torch.testing.assert_close(doubled, 0.5 + 2 * (grey - 0.5))
    dull = changed(red, numbers("saturation", saturation=-40.0)).flatten()
    torch.testing.assert_close(dull, torch.full((3,), 1.1 / 3).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channels_than_rgb_have_brightness_and_contrast_alone(channels: int) -> None:
    images = noise(1, channels, 6, 9)
    every = numbers("brightness", "contrast", brightness=0.7, contrast=1.1)
    expected = (((2 * images - 1) + 0.14) * 2**0.55 + 1) / 2
    torch.testing.assert_close(changed(images, every), expected, atol=1e-12, rtol=0)
    no_hue = numbers("luma_flip", "hue", "saturation", luma_flip=0.9, hue=0.1, saturation=1.0)
    assert torch.equal(changed(images, no_hue), images)
    torch.testing.assert_close(changed(images, numbers("flip", flip=0.9)), images.flip(-1))
    result = changed(images, drawn(1, seed=5), 1.0)
    assert result.shape == images.shape
    assert not torch.equal(result, images)


# -- gradients, precision, mistakes ------------------------------------------------------------------------------------


def test_gradcheck() -> None:
    change = transforms(drawn(3, seed=4), 0.6, (4, 6), 3)
    images = [noise(3, 3, 2, 3).requires_grad_(), noise(3, 3, 4, 6).requires_grad_()]
    assert torch.autograd.gradcheck(lambda *pyramid: augment(pyramid, change), images)


def test_the_gradient_of_an_unchanged_image_is_untouched() -> None:
    images = noise(2, 3, 8, 8).requires_grad_()
    weights = noise(2, 3, 8, 8, seed=1)
    draw = torch.cat([numbers(), numbers("rotation", "hue", rotation=0.6, hue=0.6)])
    (changed(images, draw) * weights).sum().backward()
    assert images.grad is not None
    assert torch.equal(images.grad[0], weights[0])
    assert not torch.equal(images.grad[1], weights[1])


def test_half_precision_does_not_reach_the_coordinates() -> None:
    images, draw = noise(8, 3, 64, 64, dtype=torch.float32), drawn(8)
    expected = changed(images, draw, 0.9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(changed(images, draw, 0.9), expected)
    low = images.bfloat16()
    result = changed(low, draw, 0.9)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, changed(low.float(), draw, 0.9).bfloat16())


def test_float32_is_near_float64() -> None:
    images, draw = noise(16, 3, 96, 96), drawn(16)
    torch.testing.assert_close(
        changed(images.float(), draw, 0.8).double(), changed(images, draw, 0.8), atol=5e-4, rtol=0
    )


def test_mistakes() -> None:
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="must lie in"):
            transforms(drawn(2), p, (8, 8), 3)
    for p in (0.0, 0.5):
        with pytest.raises(ValueError, match="6 channels"):
            augment([noise(2, 6, 8, 8)], transforms(drawn(2), p, (8, 8), 3))
    assert len(Operation) == len(OPERATIONS)
