"""R1 against derivatives written by hand."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from perceptual_mae.losses.gradient_penalty import r1_penalty
from perceptual_mae.models.judgement import Judgement


def judge_by(score: Tensor) -> Judgement:
    return Judgement((), score)


def random_pyramid(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(3, 2, side, side, dtype=dtype, generator=generator) for side in (2, 4))


def test_linear_by_hand() -> None:
    """Two for each of 2 coarse elements and three for each of 8 fine ones: (2 * 4 + 8 * 9) / 2, whatever the images."""

    def judge(pyramid: Sequence[Tensor]) -> Judgement:
        coarse, fine = pyramid
        return judge_by(2 * coarse.flatten(1).sum(1) + 3 * fine.flatten(1).sum(1))

    penalty = r1_penalty(judge, (torch.rand(5, 2, 1, 1), torch.rand(5, 2, 2, 2)))
    assert penalty.item() == 40
    assert penalty.shape == ()


def test_quadratic_by_hand() -> None:
    """The gradient of |x|^2 / 2 is x: squares are summed over an image's scales, and the mean is over images."""
    pyramid = random_pyramid()
    penalty = r1_penalty(lambda scales: judge_by(sum(s.square().flatten(1).sum(1) / 2 for s in scales)), pyramid)
    expected = sum(value**2 for scale in pyramid for value in scale.flatten().tolist()) / 3 / 2
    assert penalty.item() == pytest.approx(expected, rel=1e-12)


def test_second_derivative_by_hand() -> None:
    """D(x) = sum_k a_k tanh(w_k x), all scales of an image in one vector x.

    With t = tanh(w_k x) and c_k = a_k (1 - t_k^2), its gradient is g = sum_k c_k w_k, and of |g|^2 / 2
    d/da_k = (1 - t_k^2) (g w_k),    d/dw_k = c_k g - 2 a_k t_k (1 - t_k^2) (g w_k) x.
    """
    pyramid = random_pyramid()
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(4, 40, dtype=torch.float64, generator=generator).div(5).requires_grad_()
    a = torch.randn(4, dtype=torch.float64, generator=generator).requires_grad_()

    def judge(scales: Sequence[Tensor]) -> Judgement:
        return judge_by(torch.tanh(torch.cat([s.flatten(1) for s in scales], dim=1) @ w.T) @ a)

    penalty = r1_penalty(judge, pyramid)
    found_w, found_a = torch.autograd.grad(penalty, [w, a])

    value, d_w, d_a = 0.0, torch.zeros(4, 40).double(), torch.zeros(4).double()
    with torch.no_grad():
        for image in range(3):
            x = torch.cat([scale[image].flatten() for scale in pyramid])
            t = [torch.tanh(w[k] @ x) for k in range(4)]
            g = sum(a[k] * (1 - t[k] ** 2) * w[k] for k in range(4))
            value += float(g @ g) / 2 / 3
            for k in range(4):
                slope = 1 - t[k] ** 2
                d_a[k] += slope * (g @ w[k]) / 3
                d_w[k] += (a[k] * slope * g - 2 * a[k] * t[k] * slope * (g @ w[k]) * x) / 3
    assert penalty.item() == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(found_w, d_w, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found_a, d_a, rtol=1e-9, atol=1e-12)


def test_images_are_constants() -> None:
    """They may come with a graph, from a differentiable augmentation: nothing flows back, and they stay as they are."""
    source = torch.rand(2, 1, 4, 4, requires_grad=True)
    given, weight = source * 2, torch.ones((), requires_grad=True)
    r1_penalty(lambda scales: judge_by(weight * scales[0].square().flatten(1).sum(1)), [given]).backward()
    assert source.grad is None
    assert weight.grad is not None
    plain = torch.rand(2, 1, 4, 4)
    r1_penalty(lambda scales: judge_by(weight * scales[0].flatten(1).sum(1)), [plain])
    assert not plain.requires_grad


def test_a_scale_that_is_not_looked_at_counts_for_nothing() -> None:
    coarse, fine = random_pyramid()

    def judge(scales: Sequence[Tensor]) -> Judgement:
        return judge_by(scales[-1].square().flatten(1).sum(1))

    assert torch.equal(r1_penalty(judge, [coarse, fine]), r1_penalty(judge, [fine]))


def test_a_group_s_share_is_in_the_gradient() -> None:
    """The gradient is of the sum of the scores: here each image feels both, x_1 + 2 x_2 and x_1 + x_2."""

    def judge(scales: Sequence[Tensor]) -> Judgement:
        first, second = scales[0].flatten()
        return judge_by(torch.stack([first + 2 * second, first + second]))

    assert r1_penalty(judge, [torch.rand(2, 1, 1, 1)]).item() == (2**2 + 3**2) / 2 / 2


def test_no_half_precision() -> None:
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    fine = random_pyramid(torch.float32)[1]

    def judge(scales: Sequence[Tensor]) -> Judgement:
        return judge_by(torch.tanh(scales[0].flatten(1) @ weight.to(scales[0].dtype).T).sum(1))

    with torch.autocast("cpu", torch.bfloat16):
        penalty = r1_penalty(judge, [fine])
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(r1_penalty(judge, [fine.double()]).item(), rel=1e-5)
    assert r1_penalty(judge, [fine.bfloat16()]).dtype == torch.float32


def test_a_network_without_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="without scores"):
        r1_penalty(lambda scales: Judgement(tuple(scales)), [torch.rand(1, 1, 2, 2)])
