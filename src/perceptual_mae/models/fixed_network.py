"""A trained network whose weights stay as they are, through which images are compared (section 3.1 of the paper)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual_mae.models.judgement import Judgement


class FixedNetwork(nn.Module):
    """Makes a loss network (see `LossNetwork`) of anything that turns images into maps of features.

    The features of a trained network come at any scale: those of an EfficientNet make a loss of 84 beside an L1 of
    0.27, and nothing is learnt. So those of each layer j are divided by one number, the mean |phi_j(I)| over the first
    batches of real images, and the weights of feature matching mean the same for every network.

    The network is in eval mode and stays so; its weights take no gradient. They are no parameters of this module and
    not in its `state_dict`, which has what was measured and nothing else: checkpoints stay small.

    Args:
        features: a module, or a method of one: images `(B, C, H, W)` in [0, 1] to maps `(B, C_j, H_j, W_j)`.
        image_size: `(height, width)` in pixels of the images that it is shown; None: as they come.
        calibration: batches that the scale is measured on.
    """

    scale: Tensor
    batches: Tensor

    def __init__(
        self,
        features: Callable[[Tensor], Sequence[Tensor]],
        image_size: tuple[int, int] | None = None,
        calibration: int = 8,
    ) -> None:
        super().__init__()
        self.features, self.image_size, self.calibration = (features,), image_size, calibration
        if self.network is not None:
            self.network.requires_grad_(False).eval()
        self.register_buffer("scale", torch.empty(0))  # (L,) after the first batch
        self.register_buffer("batches", torch.tensor(0))
        self._calibrated = False

    @property
    def network(self) -> nn.Module | None:
        """The module that looks; None if features come from a plain function."""
        (features,) = self.features  # in a tuple, so that it is not registered as a part
        owner = features if isinstance(features, nn.Module) else getattr(features, "__self__", None)
        return owner if isinstance(owner, nn.Module) else None

    # -- looking -------------------------------------------------------------------------------------------------------

    def judge(self, pyramid: Sequence[Tensor]) -> Judgement:
        """Features of the finest images of a pyramid, divided by the layers' scales; no scores.

        Args:
            pyramid: images `(B, C, h, w)` in [0, 1], coarse to fine. The gradient reaches them.

        Raises:
            RuntimeError: nothing has been measured yet, or the scale was measured on another network.
        """
        if not len(self.scale):
            raise RuntimeError("the features have no scale yet: calibrate() this network with real images first")
        # A layer that was silent on every image has no scale: it stays as it is.
        scale = torch.where(self.scale > 0, self.scale, 1)
        maps = self._look(pyramid)
        if len(maps) != len(scale):
            raise RuntimeError(f"the scale of {len(scale)} layers is another network's: this one has {len(maps)}")
        return Judgement(tuple(one / number for one, number in zip(maps, scale, strict=True)))

    def forward(self, *pyramids: Sequence[Tensor]) -> tuple[Judgement, ...]:
        """`judge` each pyramid by itself."""
        return tuple(self.judge(pyramid) for pyramid in pyramids)

    def _look(self, pyramid: Sequence[Tensor]) -> Sequence[Tensor]:
        images = pyramid[-1]
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        if self.image_size is not None and tuple(images.shape[-2:]) != self.image_size:
            images = F.interpolate(images, self.image_size, mode="bilinear", antialias=True)
        return self.features[0](images)

    # -- the scale of its features -------------------------------------------------------------------------------------

    @property
    def calibrated(self) -> bool:
        """Whether all batches of real images that the scale is taken from have been seen."""
        if not self._calibrated:  # asked no more once it is: reading `batches` makes a GPU wait
            self._calibrated = int(self.batches) >= self.calibration
        return self._calibrated

    @torch.no_grad()
    def measure(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Mean |phi_j(I)| of each layer over a batch of real images: `(L,)`, at least float32."""
        maps = self._look(pyramid)
        return torch.stack([one.abs().mean(dtype=torch.promote_types(one.dtype, torch.float32)) for one in maps])

    def calibrate(self, means: Tensor) -> None:
        """Take one more batch into the running mean.

        Args:
            means: `(L,)` as `measure` gives it, averaged over the processes where there are several.
        """
        means = means.detach().to(self.scale)
        if not len(self.scale):
            self.scale = torch.zeros_like(means)
        # In place, since a step that is skipped puts buffers back. Of the first batch `lerp` takes exactly the means.
        self.scale.lerp_(means, (1 / (self.batches + 1)).to(means))
        self.batches += 1

    # -- what a module does to its parts -------------------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FixedNetwork":
        """Take the network along to another device or precision."""
        if self.network is not None:
            self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Take over a scale, which has no length before the first batch."""
        if f"{prefix}scale" in state_dict:
            self.scale = torch.empty_like(state_dict[f"{prefix}scale"], device=self.scale.device)
        self._calibrated = False
        super()._load_from_state_dict(state_dict, prefix, *arguments)
