"""An encoder that learns to name every pixel: UperNet over a Vision Transformer."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual_mae.models.architecture import Architecture
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.models.sliding import sliding_maps, starts
from perceptual_mae.models.task_network import Prediction, TaskNetwork
from perceptual_mae.models.upernet import AUXILIARY_WEIGHT, IGNORED, Backbone, build_upernet

_AT_ONCE = 8
"""Windows that are looked at together."""


class Segmenter(TaskNetwork):
    """UperNet with an auxiliary head over the maps of four blocks of a Vision Transformer.

    Args:
        architecture: of a Vision Transformer of timm's; all weights are drawn from PyTorch's generator.
        image_size: `(height, width)` in pixels of the images that it trains on, and of the windows it predicts in.
        mean, std: per channel, of images in [0, 1].
        classes: how many, at most 254.
        drop_path: share of residual branches that are dropped in the last block, see `Backbone`.
        width: channels of the head; default: suited to the encoder, see `head_width`.

    Attributes:
        upernet: a model of `transformers`.
    """

    def __init__(
        self,
        architecture: Architecture,
        image_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        classes: int,
        drop_path: float = 0.0,
        width: int | None = None,
    ) -> None:
        super().__init__()
        backbone = {
            "architecture": architecture.to_dict(),
            "image_size": list(image_size),
            "mean": list(mean),
            "std": list(std),
            "drop_path": drop_path,
        }
        self.image_size, self.classes = image_size, classes
        self.upernet: Any = build_upernet(backbone, classes, width)

    @classmethod
    def of(cls, encoder: Encoder, classes: int, **arguments: Any) -> Self:
        """One with the weights of an encoder, which stays as it was; those of the head are drawn.

        Raises:
            ValueError: the encoder is no Vision Transformer.
        """
        if encoder.architecture is None or not encoder.depth:
            raise ValueError(f"{encoder.name} is no Vision Transformer: it has no blocks whose outputs are maps")
        mean, std = encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()
        segmenter = cls(encoder.architecture, encoder.image_size, mean, std, classes, **arguments)
        # After `transformers` has drawn all weights that it holds, the encoder's among them.
        segmenter.backbone.take(encoder.network.state_dict())
        return segmenter

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """One as `description` tells it, its weights drawn from PyTorch's generator."""
        return cls(
            Architecture.from_dict(description["architecture"]),
            tuple(description["image_size"]),
            description["mean"],
            description["std"],
            description["classes"],
            width=description["width"],
        )

    def describe(self) -> dict[str, Any]:
        """Plain values that build such a network again."""
        return {
            "architecture": self.backbone.architecture.to_dict(),
            "image_size": list(self.image_size),
            "mean": self.backbone.mean.flatten().tolist(),
            "std": self.backbone.std.flatten().tolist(),
            "classes": self.classes,
            "width": self.upernet.config.hidden_size,
        }

    @property
    def backbone(self) -> Backbone:
        """The encoder with the pixels that it takes."""
        return self.upernet.backbone.backbone

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        """The part that was pre-trained. It is held by UperNet: as an attribute its weights would be saved twice."""
        return self.backbone.network

    def forward(self, images: Tensor, targets: list[Tensor]) -> dict[str, Tensor]:
        """Cross-entropy, a mean over the pixels that count, of the head, and of the auxiliary head times 0.4.

        Args:
            images: `(B, C, H, W)` in [0, 1], of the network's size.
            targets: B of `(H, W)` int64, 255 where a pixel does not count.
        """
        classes = torch.stack(targets)
        if len(images) == 1:
            # BatchNorm has nothing to compare one image with where UperNet pools it to a single place: it comes twice.
            images, classes = images.expand(2, -1, -1, -1), classes.expand(2, -1, -1)
        maps = self._maps(images)
        main, auxiliary = self.upernet.decode_head(maps), self.upernet.auxiliary_head(maps)
        return {
            "segmentation": _cross_entropy(main, classes),
            "auxiliary": AUXILIARY_WEIGHT * _cross_entropy(auxiliary, classes),
        }

    def logits(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)` in [0, 1], of the network's size, to `(B, classes, H, W)`."""
        return _enlarged(self.upernet.decode_head(self._maps(images)), images.shape[2:])

    @torch.no_grad()
    def predict(self, images: list[Tensor]) -> list[Prediction]:
        """The class of every pixel of images `(C, h, w)` uint8, of any sizes and at their own scale: `labels` `(h, w)`.

        Larger images are seen through windows two thirds of their side apart, whose logits are averaged. Smaller
        ones are filled up with the mean colour at the bottom and on the right.
        """
        return [{"labels": labels} for batch in self._together(images) for labels in self._predict(batch).unbind()]

    def _predict(self, images: Tensor) -> Tensor:
        """`(B, C, h, w)` uint8 to `(B, h, w)` uint8 on the CPU."""
        backbone, (height, width) = self.backbone, images.shape[2:]
        window = self.image_size
        filled = backbone.mean.repeat(len(images), 1, max(height, window[0]), max(width, window[1]))
        filled[..., :height, :width] = images.to(filled.device).to(filled.dtype).div_(255)
        bands = sliding_maps(self.logits, filled, window, _AT_ONCE)
        labels = torch.cat([band.argmax(dim=1).to(torch.uint8).cpu() for band in bands], dim=1)
        return labels[:, :height, :width]

    def _together(self, images: list[Tensor]) -> Iterator[Tensor]:
        """Neighbours of one size as batches, of so many images that a row of their windows fits `_AT_ONCE`."""
        start = 0
        while start < len(images):
            shape = images[start].shape
            many = max(1, _AT_ONCE // len(starts(shape[2], self.image_size[1])))
            stop = start + 1
            while stop < min(start + many, len(images)) and images[stop].shape == shape:
                stop += 1
            yield torch.stack(images[start:stop])
            start = stop

    def _maps(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.upernet.backbone.forward_with_filtered_kwargs(images).feature_maps


def _enlarged(logits: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def _cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """A mean over the pixels that count; 0 where none does, as in a crop beside everything that has a class."""
    enlarged = _enlarged(logits.float(), classes.shape[1:])
    total = F.cross_entropy(enlarged, classes, ignore_index=IGNORED, reduction="sum")
    return total / (classes != IGNORED).sum().clamp(min=1)
