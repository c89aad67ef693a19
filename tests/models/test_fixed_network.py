"""A network that is fixed: what it is shown, what its features are divided by, and that nothing of it ever moves."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from perceptual_mae.models.fixed_network import FixedNetwork
from perceptual_mae.training.spikes import buffers_of, put_back


class Layers(nn.Module):
    """Two layers of features at very different scales, with all that could move: weights, statistics, dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.second = nn.Conv2d(4, 5, 3, stride=2)

    def forward(self, images: Tensor) -> list[Tensor]:
        first = self.first(images)
        return [first, 1000 * self.second(torch.tanh(first))]

    def only_first(self, images: Tensor) -> list[Tensor]:
        return [self.first(images)]


def batches(count: int = 3) -> Sequence[Tensor]:
    return torch.rand(count, 2, 3, 8, 10, generator=torch.Generator().manual_seed(1)).unbind()


def calibrated(network: FixedNetwork, images: Sequence[Tensor] | None = None) -> FixedNetwork:
    for batch in images or batches(network.calibration):
        network.calibrate(network.measure([batch]))
    return network


# -- the scale ---------------------------------------------------------------------------------------------------------


def test_the_scale_is_the_mean_over_the_first_batches() -> None:
    network = FixedNetwork(Layers(), calibration=3)
    raw = Layers().eval()
    sums, seen = [0.0, 0.0], [False]
    for batch in batches():
        for layer, one in enumerate(raw(batch)):
            sums[layer] += sum(abs(value) for value in one.double().flatten().tolist()) / one.numel()
        network.calibrate(network.measure([batch]))
        seen.append(network.calibrated)
    assert seen == [False, False, False, True]
    assert network.batches == 3
    assert network.scale.tolist() == pytest.approx([total / 3 for total in sums], rel=1e-5)
    image = batches()[0]
    for judged, one, total in zip(network.judge([image]).features, raw(image), sums, strict=True):
        torch.testing.assert_close(judged, one / (total / 3))


def test_a_batch_that_is_put_back_is_measured_again() -> None:
    """A step that is skipped puts buffers back (`training.spikes`): also those of the network."""
    network, other = FixedNetwork(Layers(), calibration=3), FixedNetwork(Layers(), calibration=3)
    one, two, three, *_ = (network.measure([batch]) for batch in (*batches(), *batches()))
    for means in (one, two):
        network.calibrate(means)
    before = buffers_of([network])
    network.calibrate(1000 * three)
    assert int(network.batches) == 3
    put_back(before)
    assert not network.calibrated
    network.calibrate(three)
    assert network.calibrated
    for means in (one, two, three):
        other.calibrate(means)
    assert torch.equal(network.scale, other.scale)
    assert network.state_dict()["batches"] == 3


def test_features_of_every_layer_have_size_one() -> None:
    (images,) = batches(1)
    judged = calibrated(FixedNetwork(Layers()), [images]).judge([images])
    assert judged.scores is None
    assert [one.abs().mean().item() for one in judged.features] == pytest.approx([1, 1], rel=1e-5)


def test_a_layer_that_is_silent_stays_as_it_is() -> None:
    network = FixedNetwork(lambda images: (images, torch.relu(images - 0.5)), calibration=1)
    network.calibrate(network.measure([torch.full((1, 3, 4, 4), 0.25)]))
    features = network.judge([torch.ones(1, 3, 4, 4)]).features
    assert [one.unique().tolist() for one in features] == [[4], [0.5]]


def test_nothing_is_judged_before_there_is_a_scale() -> None:
    network = FixedNetwork(Layers())
    with pytest.raises(RuntimeError, match="calibrate"):
        network.judge(batches(1))
    assert not network.calibrated


def test_means_of_half_precision_are_float32() -> None:
    network = FixedNetwork(lambda images: [images.bfloat16()])
    images = torch.rand(1, 3, 64, 64)
    mean = network.measure([images])
    assert mean.dtype == torch.float32
    assert mean.item() == pytest.approx(images.bfloat16().double().mean().item(), rel=1e-6)


def test_autocast() -> None:
    network = calibrated(FixedNetwork(Layers()))
    (images,) = batches(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert network.measure([images]).dtype == torch.float32
        features = network.judge([images]).features
    for one, exact in zip(features, network.judge([images]).features, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.float() - exact).abs().mean() < 0.02


# -- what it is shown --------------------------------------------------------------------------------------------------


def test_it_looks_at_the_finest_scale_of_each_pyramid() -> None:
    network = calibrated(FixedNetwork(Layers()))
    one, other, coarse = *batches(2), torch.rand(2, 3, 4, 5)
    both = network([coarse, one], [coarse, other])
    assert len(both) == 2
    for judged, images in zip(both, (one, other), strict=True):
        for ours, expected in zip(judged.features, network.judge([images]).features, strict=True):
            assert torch.equal(ours, expected)


def test_images_are_made_smaller_without_aliasing() -> None:
    network = FixedNetwork(lambda images: [images], (4, 6), calibration=1)
    images = torch.rand(1, 1, 8, 12)
    network.calibrate(torch.ones(1))
    (small,) = network.judge([images]).features
    assert small.shape == (1, 1, 4, 6)
    triangle = torch.tensor([1.0, 3, 3, 1]) / 8  # the bilinear filter of half the frequency
    expected = (images[0, 0, 1:5, 3:7] * triangle[:, None] * triangle).sum()
    torch.testing.assert_close(small[0, 0, 1, 2], expected)


def test_images_are_made_larger() -> None:
    network = FixedNetwork(lambda images: [images], (16, 16), calibration=1)
    network.calibrate(torch.ones(1))
    assert network.judge([torch.rand(1, 3, 8, 8)]).features[0].shape == (1, 3, 16, 16)


def test_gradcheck_through_resizing() -> None:
    network = calibrated(FixedNetwork(Layers(), (4, 5)).double(), [b.double() for b in batches()])
    images = torch.rand(1, 3, 8, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: network.judge([x]).features, images)


# -- nothing of it moves -----------------------------------------------------------------------------------------------


def test_weights_take_no_gradient_and_images_do() -> None:
    layers = Layers()
    network = calibrated(FixedNetwork(layers))
    images = batches(1)[0].clone().requires_grad_()
    sum(one.abs().sum() for one in network.judge([images]).features).backward()
    assert images.grad is not None
    assert images.grad.abs().min() > 0
    assert all(p.grad is None and not p.requires_grad for p in layers.parameters())
    assert list(network.parameters()) == []
    assert network.network is layers


def test_it_is_never_in_training_mode() -> None:
    layers = Layers()
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    network = calibrated(FixedNetwork(layers).train())
    nn.ModuleDict({"loss": network}).train()
    assert not any(module.training for module in layers.modules())
    one, other = network(batches(1), batches(1))
    assert torch.equal(one.features[1], other.features[1])  # no dropout
    assert all(torch.equal(tensor, before[name]) for name, tensor in layers.state_dict().items())


def test_it_moves_with_its_module() -> None:
    layers = Layers()
    network = nn.ModuleDict({"loss": FixedNetwork(layers.only_first)}).double()
    assert {p.dtype for p in layers.parameters()} == {torch.float64}
    assert network["loss"].scale.dtype == torch.float64
    network.to("meta")
    assert {p.device.type for p in layers.parameters()} == {"meta"}


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_has_the_scale_and_no_weights(tmp_path: Path) -> None:
    network = calibrated(FixedNetwork(Layers(), calibration=4), batches(3))
    assert network.state_dict().keys() == {"scale", "batches"}
    save_file(network.state_dict(), tmp_path / "loss_network.safetensors")

    other = FixedNetwork(Layers(), calibration=4)
    other.load_state_dict(load_file(tmp_path / "loss_network.safetensors"))
    assert not other.calibrated
    assert torch.equal(other.scale, network.scale)
    for one in (network, other):
        calibrated(one, batches(4)[3:])
        assert one.calibrated
    assert torch.equal(other.scale, network.scale)
    assert torch.equal(other.judge(batches(1)).features[1], network.judge(batches(1)).features[1])


def test_a_checkpoint_from_before_the_first_batch() -> None:
    network = calibrated(FixedNetwork(Layers()))
    network.load_state_dict(FixedNetwork(Layers()).state_dict())
    assert not network.calibrated
    with pytest.raises(RuntimeError, match="calibrate"):
        network.judge(batches(1))


def test_a_checkpoint_within_another_module() -> None:
    one, other = (nn.ModuleDict({"loss": FixedNetwork(Layers())}) for _ in range(2))
    calibrated(one["loss"])
    assert one.state_dict().keys() == {"loss.scale", "loss.batches"}
    other.load_state_dict(one.state_dict())
    assert torch.equal(other["loss"].scale, one["loss"].scale)


def test_a_scale_of_another_network_is_refused() -> None:
    network = FixedNetwork(Layers())
    network.load_state_dict({"scale": torch.ones(3), "batches": torch.tensor(8)})
    with pytest.raises(RuntimeError, match="of 3 layers is another network's"):
        network.judge(batches(1))
