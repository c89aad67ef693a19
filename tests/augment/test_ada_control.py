"""The controller of p against a hand-written loop."""

import random

import pytest
import torch

from perceptual_mae.augment.ada_control import AdaController, signs


def test_signs_are_about_a_half() -> None:
    assert signs(torch.tensor([0.6, 3.0, 0.4, 0.9])) == 0.5
    assert signs(torch.tensor([0.0, 0.1, -2.0])) == -1
    assert signs(torch.tensor([0.5, 0.5, 0.51, 0.5])) == 0.25


def steps(count: int, seed: int = 0) -> list[tuple[float, int]]:
    """Sums of signs of steps of 16 images, of a discriminator that grows sure, then unsure, then sure."""
    choose = random.Random(seed)
    means = [0.9 if (step // 40) % 2 == 0 else 0.2 for step in range(count)]
    return [(float(sum(choose.random() < (1 + mean) / 2 for _ in range(16)) * 2 - 16), 16) for mean in means]


def run(controller: AdaController, observed: list[tuple[float, int]], first: int = 0) -> list[float]:
    """p after every step."""
    history = []
    for step, (sign_sum, count) in enumerate(observed, first + 1):
        controller.observe(sign_sum, count)
        if step % controller.every == 0:
            controller.adjust(16)
        history.append(controller.p)
    return history


@pytest.mark.parametrize(("target", "every", "p"), [(0.6, 4, 0.0), (0.5, 1, 0.4), (0.3, 3, 1.0)])
def test_trajectory_equals_a_loop(target: float, every: int, p: float) -> None:
    observed = steps(160)
    expected, seen = [], []
    now = p
    for step, (sign_sum, _) in enumerate(observed, 1):
        seen.append(sign_sum / 16)
        if step % every == 0:
            mean = sum(seen) / len(seen)
            now += (1 if mean > target else -1 if mean < target else 0) * every * 16 / 1000
            now = min(1.0, max(0.0, now))
            seen = []
        expected.append(now)
    history = run(AdaController(target, images=1000, every=every, p=p), observed)
    assert history == pytest.approx(expected, abs=1e-12)
    assert len({round(value, 6) for value in history}) > 5


def test_defaults_are_the_papers() -> None:
    controller = AdaController()
    assert controller.p == 0
    # 500,000 images of a discriminator that is always sure, in steps of 5,000: from 0 to 1.
    for step in range(1, 101):
        controller.observe(0.7 * 5000, 5000)
        if step % 4 == 0:
            controller.adjust(5000)
            assert controller.p == pytest.approx(step / 100)
    assert controller.p == 1
    controller.observe(3000, 5000)  # r on target
    controller.adjust(5000)
    assert controller.p == 1
    controller.observe(2900, 5000)
    controller.adjust(5000)
    assert controller.p == pytest.approx(0.96)


def test_p_stays_within_its_bounds() -> None:
    controller = AdaController(images=100)
    for sign, bound in ((-1, 0.0), (1, 1.0), (-1, 0.0)):
        for _ in range(3):
            controller.observe(sign * 16.0, 16)
            controller.adjust(16)
        assert controller.p == bound


def test_r_is_a_mean_over_images_since_the_last_adjustment() -> None:
    controller = AdaController(target=0.5, images=64, p=0.5)
    controller.observe(10, 10)
    controller.observe(0, 30)  # r = 1/4, though the mean of the two means is 1/2
    controller.adjust(1)
    assert controller.p == 0.5 - 4 / 64
    controller.adjust(1)  # nothing was observed since
    assert controller.p == 0.5 - 4 / 64
    controller.observe(30, 40)  # r = 3/4, and over everything so far it would be 1/2
    controller.adjust(1)
    assert controller.p == 0.5


def test_a_state_in_the_middle_of_a_window_is_restored_exactly() -> None:
    observed = steps(90)
    whole = AdaController(images=777)
    history = run(whole, observed)
    for cut in range(1, 90):
        before, after = AdaController(images=777), AdaController(images=777, p=0.9)
        run(before, observed[:cut])
        after.load_state_dict(before.state_dict())
        assert run(after, observed[cut:], first=cut) == history[cut:]
        assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), after.buffers(), strict=True))


def test_p_is_a_number_and_nothing_is_learnt() -> None:
    with torch.device("meta"):  # whatever device networks are built on
        controller = AdaController(p=0.25)
    assert type(controller.p) is float
    assert controller.p == 0.25
    assert list(controller.parameters()) == []
    assert {buffer.device.type for buffer in controller.buffers()} == {"cpu"}
