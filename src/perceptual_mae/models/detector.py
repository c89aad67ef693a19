"""Mask R-CNN (arXiv 1703.06870) over a plain Vision Transformer: boxes, classes and masks of objects."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from perceptual_mae.models.architecture import Architecture
from perceptual_mae.models.backbone import Backbone
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.models.feature_pyramid import LEVELS, SCALES, SeveralMapsPyramid, SimplePyramid
from perceptual_mae.models.paste import paste
from perceptual_mae.models.task_network import Prediction, TaskNetwork
from perceptual_mae.models.windowed import WindowedBackbone

Pyramid = Literal["last", "several"]

_WIDTH = 256
"""Channels of the pyramid and the heads in the papers; narrower where the encoder's tokens are."""
_ANCHOR = 8
"""Side of an anchor over the stride of its map (arXiv 1612.03144: 32 pixels at stride 4, ..., 512 at 64)."""
_ASPECTS = (0.5, 1.0, 2.0)
_CANONICAL = 14
"""Patches a side of a box that is cut out of the map of one pixel a patch (the same: 224 pixels at stride 16)."""
_SHIFT = 0.5
"""Pixels of the square by which the masks that torchvision trains on lie too far to the upper left of their boxes: it
cuts them out by `roi_align` without `aligned`."""
_SAMPLED = 512
"""Boxes of an image that the heads learn from in a step (arXiv 1703.06870), a quarter of them objects."""


class Detector(TaskNetwork):
    """An encoder, a feature pyramid, and the heads of torchvision's Mask R-CNN.

    Args:
        backbone: the encoder, for square images.
        classes: K, how many there are; labels are 1 to K.
        pyramid: `last`: made of the encoder's last map; `several`: of the outputs of four of its blocks.
        sampled: boxes of an image that the heads learn from in a step, at most a quarter of them objects; what a step
            costs depends on it most of all.

    The weights of all that is not the backbone are drawn from PyTorch's generator.

    Attributes:
        rcnn: torchvision's network. What it does to sizes of images is not used: images come as squares.
        side: of these squares, in pixels.

    Raises:
        ValueError: the images are no squares, or the encoder has too few blocks.
    """

    def __init__(self, backbone: Backbone, classes: int, pyramid: Pyramid = "last", sampled: int = _SAMPLED) -> None:
        super().__init__()
        height, width = backbone.image_size
        if height != width:
            raise ValueError(f"detection takes square images, not {height} x {width}")
        self.classes, self.pyramid, self.side = classes, pyramid, height
        self.rcnn = _mask_rcnn(_Body(backbone, pyramid), classes, sampled)

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        classes: int,
        *,
        pyramid: Pyramid = "last",
        window: int | None = None,
        drop_path: float = 0.0,
        sampled: int = _SAMPLED,
    ) -> Self:
        """One with the weights of an encoder, which stays as it was.

        Args:
            encoder: a Vision Transformer of timm's.
            classes: how many there are.
            pyramid: of which maps.
            window: side in patches of the windows of ViTDet's backbone; None: every block sees the whole image.
            drop_path: share of residual branches that are dropped in the last block (stochastic depth).
            sampled: boxes of an image that the heads learn from in a step.

        Raises:
            ValueError: it is no Vision Transformer, not a plain one that can be cut into windows, or not for squares.
        """
        if window is None:
            return cls(Backbone.of(encoder, drop_path=drop_path), classes, pyramid, sampled)
        return cls(WindowedBackbone.of(encoder, drop_path=drop_path, window=window), classes, pyramid, sampled)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """One as `describe` tells it, all weights drawn from PyTorch's generator."""
        height, width = description["image_size"]
        architecture = Architecture.from_dict(description["architecture"])
        arguments = (architecture, (height, width), description["mean"], description["std"])
        window = description["window"]
        backbone = Backbone(*arguments) if window is None else WindowedBackbone(*arguments, window=window)
        return cls(backbone, description["classes"], description["pyramid"])

    def describe(self) -> dict[str, Any]:
        """Plain values that build such a network again."""
        backbone = self.backbone
        return {
            "architecture": backbone.architecture.to_dict(),
            "image_size": list(backbone.image_size),
            "mean": backbone.mean.flatten().tolist(),
            "std": backbone.std.flatten().tolist(),
            "classes": self.classes,
            "pyramid": self.pyramid,
            "window": backbone.window if isinstance(backbone, WindowedBackbone) else None,
        }

    @property
    def backbone(self) -> Backbone:
        """The encoder with the pixels that it takes."""
        return self.rcnn.backbone.backbone

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        """timm's network."""
        return self.backbone.network

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """torchvision's losses: of proposals `loss_objectness` and `loss_rpn_box_reg`, of objects `loss_classifier`,
        `loss_box_reg` and `loss_mask`.

        Args:
            images: `(B, C, side, side)` in [0, 1].
            targets: of each image `boxes` `(n, 4)` float32 as corners in pixels, `labels` `(n,)` int64 from 1 on,
                `masks` `(n, side, side)` uint8; n may be 0.
        """
        listed, features = self._features(images)
        proposals, losses = self.rcnn.rpn(listed, features, targets)
        _, more = self.rcnn.roi_heads(features, proposals, listed.image_sizes, targets)
        return {**losses, **more}

    @torch.no_grad()
    def predict(self, images: list[Tensor]) -> list[Prediction]:
        """At most 100 objects of each image whose score is above 0.05, best first.

        Args:
            images: `(C, h, w)` uint8 each, of any sizes.

        Returns:
            of each `boxes` `(n, 4)` as corners, `labels` `(n,)`, `scores` `(n,)`, and `masks` `(n, h, w)` bool, on the
            CPU, in pixels of the image.
        """
        device, was_training = self.backbone.mean.device, self.training
        squares = torch.stack([self._laid_into_square(image.to(device)) for image in images])
        self.eval()
        try:
            listed, features = self._features(squares)
            proposals, _ = self.rcnn.rpn(listed, features)
            found, _ = self.rcnn.roi_heads(features, proposals, listed.image_sizes)
        finally:
            self.train(was_training)
        return [self._in_the_image(one, image.shape[1:]) for one, image in zip(found, images, strict=True)]

    def _features(self, images: Tensor) -> tuple[ImageList, "OrderedDict[str, Tensor]"]:
        return ImageList(images, [(self.side, self.side)] * len(images)), self.rcnn.backbone(images)

    def _fitted(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at which an image just fits into the square."""
        scale = self.side / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _laid_into_square(self, image: Tensor) -> Tensor:
        """`(C, h, w)` uint8 to `(C, side, side)` in [0, 1]: the image in the upper left corner, the rest black."""
        height, width = self._fitted(image.shape[1], image.shape[2])
        small = F.interpolate(image[None].float(), size=(height, width), mode="bilinear", antialias=True)[0] / 255
        return F.pad(small, (0, self.side - width, 0, self.side - height))

    def _in_the_image(self, found: dict[str, Tensor], size: Sequence[int]) -> Prediction:
        """Objects of the square, as objects of the image of `size` (height, width) that was laid into it."""
        found = {name: tensor.cpu() for name, tensor in found.items()}
        height, width = size
        rows, columns = self._fitted(height, width)
        factor = torch.tensor([width / columns, height / rows] * 2)
        boxes = (found["boxes"] * factor).clamp(min=0).minimum(torch.tensor([width, height] * 2))
        seen = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # nothing is left of what lay in the black
        boxes, small, size = boxes[seen], found["masks"][seen][:, 0], (height, width)
        # One by one: a hundred masks of a large photograph as numbers would take gigabytes.
        masks = [paste(mask, box, size) for mask, box in zip(small, boxes + _SHIFT * factor, strict=True)]
        return {
            "boxes": boxes,
            "labels": found["labels"][seen],
            "scores": found["scores"][seen],
            "masks": torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool),
        }


class _Body(nn.Module):
    """What torchvision calls a backbone: images `(B, C, side, side)` in [0, 1] to maps of equal width by name."""

    def __init__(self, backbone: Backbone, pyramid: Pyramid) -> None:
        super().__init__()
        self.out_channels = min(_WIDTH, backbone.embed_dim)
        self.backbone = backbone
        last = (backbone.depth - 1,)
        self.blocks = last if pyramid == "last" else backbone.several(len(SCALES), "a pyramid of several maps")
        kind = SimplePyramid if pyramid == "last" else SeveralMapsPyramid
        self.pyramid = kind(backbone.embed_dim, self.out_channels)

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        return self.pyramid(self.backbone(images, self.blocks))


def _mask_rcnn(body: _Body, classes: int, sampled: int) -> MaskRCNN:
    """torchvision's network with heads of the body's width, and with strides that it does not have to guess (it takes
    them for whole numbers or powers of two, which those of patches of 14 pixels are not)."""
    width, patch = body.out_channels, body.backbone.patch_size
    strides = [patch / scale for scale in SCALES]
    anchors = _Anchors([*strides, 2 * strides[-1]])
    return MaskRCNN(
        body,
        image_mean=[0.0],
        image_std=[1.0],
        rpn_anchor_generator=anchors,
        rpn_head=_ProposalHead(width, len(_ASPECTS)),
        box_batch_size_per_image=sampled,
        box_roi_pool=_cut_out(7, patch),
        box_head=TwoMLPHead(7 * 7 * width, 4 * width),
        box_predictor=_BoxPredictor(4 * width, 1 + classes),
        mask_roi_pool=_cut_out(14, patch),
        mask_head=MaskRCNNHeads(width, (width,) * 4, 1, norm_layer=LayerNorm2d),
        mask_predictor=MaskRCNNPredictor(width, width, 1 + classes),
    )


def _cut_out(side: int, patch: int) -> MultiScaleRoIAlign:
    """Boxes out of the maps that suit their sizes, as `side` x `side` pixels each."""
    pool = MultiScaleRoIAlign(list(LEVELS), side, sampling_ratio=2)
    pool.scales = [scale / patch for scale in SCALES]
    pool.map_levels = LevelMapper(0, len(SCALES) - 1, _CANONICAL * patch, canonical_level=SCALES.index(1.0))
    return pool


class _Anchors(AnchorGenerator):
    """Anchors at known strides, in float32 whatever the maps are: half precision cannot say where 1000 pixels are."""

    def __init__(self, strides: Sequence[float]) -> None:
        super().__init__(tuple((_ANCHOR * stride,) for stride in strides), (_ASPECTS,) * len(strides))
        self.strides = list(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        sizes = [list(one.shape[-2:]) for one in feature_maps]
        anchors = torch.cat(self.grid_anchors(sizes, [[stride, stride] for stride in self.strides]))
        return [anchors] * len(image_list.image_sizes)


class _ProposalHead(RPNHead):
    """torchvision's, its outputs in float32: places are computed of them."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [one.float() for one in logits], [one.float() for one in deltas]


class _BoxPredictor(FastRCNNPredictor):
    """torchvision's, its outputs in float32."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()
