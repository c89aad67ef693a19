"""What `quicken` is worth: a loss network's time, forward over two batches and backward over one, before and after.

Prints JSON. Both are measured in turn.
"""

import argparse
import json
import statistics
import warnings
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import seconds
from perceptual_mae.losses.feature_matching import FeatureMatching
from perceptual_mae.losses.term import Seen
from perceptual_mae.models import Reconstruction
from perceptual_mae.models.fixed_network import FixedNetwork
from perceptual_mae.models.masking import Masking
from perceptual_mae.models.timm_features import TimmFeatures

NOTHING = torch.empty(0)
UNUSED = Reconstruction(NOTHING, (), (), NOTHING, Masking(NOTHING, NOTHING, NOTHING), (1, 1), torch.clone)
"""Feature matching looks at what networks see, and not at this."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    size = (options.image_size, options.image_size)
    plain, quick = (TimmFeatures(options.network, size).eval().requires_grad_(False) for _ in range(2))
    quick.quicken()
    images, drawn = (torch.rand(options.batch, 3, *size) for _ in range(2))
    times: dict[str, list[float]] = {"plain": [], "quick": []}
    networks = {"plain": FixedNetwork(plain), "quick": FixedNetwork(quick)}
    for network in networks.values():
        network.calibrate(network.measure([images]))
    for _ in range(options.rounds):
        for name, network in networks.items():
            times[name].append(seconds(partial(compared, network, images, drawn)))
    found = {name: round(statistics.median(values), 4) for name, values in times.items()}
    ratio = round(found["quick"] / found["plain"], 3)
    print(json.dumps({"benchmark": "loss_network", **vars(options), "seconds": found, "ratio": ratio}))


def compared(network: FixedNetwork, images: Tensor, drawn: Tensor) -> Tensor:
    """The gradient of feature matching on what was drawn."""
    leaf = drawn.clone().requires_grad_()
    with torch.no_grad():
        real = network.judge([images])
    value, _ = FeatureMatching()(UNUSED, images, Seen(real, network.judge([leaf])))
    (gradient,) = torch.autograd.grad(value, leaf)
    return gradient


if __name__ == "__main__":
    main()
