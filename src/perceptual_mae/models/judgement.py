"""What a network that looks at images tells of them: the one interface of discriminators and fixed loss networks."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Judgement(NamedTuple):
    """What one look at a batch of images finds.

    Attributes:
        features: outputs of the network's blocks, `(B, C_j, H_j, W_j)` each, in the order of the blocks.
        scores: `(B,)` how real each image looks, without a sigmoid: 1 is real, 0 is generated. None from networks that
            only have features.
    """

    features: tuple[Tensor, ...]
    scores: Tensor | None = None


class LossNetwork(Protocol):
    """A network through which reconstructions are compared with images: a discriminator, or a fixed network.

    It takes images as a pyramid `(B, C, h, w)` in [0, 1], coarse to fine, and looks at the scales that it was made for.
    """

    def judge(self, pyramid: Sequence[Tensor]) -> Judgement:
        """Look at one batch."""
        ...

    def __call__(self, *pyramids: Sequence[Tensor]) -> tuple[Judgement, ...]:
        """Look at several batches, each by itself: nothing of one is seen in the judgement of another."""
        ...
