"""What a network for a labelled task is: an encoder with a head."""

from typing import Any

from torch import Tensor, nn

Prediction = dict[str, Tensor]
"""What a network says of one image, on the CPU. Classified: `probabilities` `(K,)`. Segmented: `labels` `(H, W)` uint8.
Detected, best first: `boxes` `(n, 4)`, `labels` `(n,)`, `scores` `(n,)` and `masks` `(n, H, W)` bool. Places are pixels
of the image that was given."""


class TaskNetwork(nn.Module):
    """An encoder with a head.

    Attributes:
        encoder: the part that was pre-trained, a network of timm's, whose lower layers learn more slowly.
    """

    encoder: nn.Module

    def forward(self, images: Tensor, targets: list[Any]) -> dict[str, Tensor]:
        """The parts of the loss, in training mode; their sum is what is minimised.

        Args:
            images: `(B, C, H, W)` in [0, 1], of the network's size.
            targets: B of them, see `data.labelled`.
        """
        raise NotImplementedError

    def predict(self, images: list[Tensor]) -> list[Prediction]:
        """What it says of images `(C, h, w)` uint8 of any sizes, on its device; in eval mode, without gradients."""
        raise NotImplementedError
