"""An encoder with a linear classifier on its mean token: fine-tuning as in MAE (arXiv 2111.06377)."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from torch import Tensor, nn

from perceptual_mae.augment.crops import center_crop_resize
from perceptual_mae.models.architecture import PLAIN_VIT, Architecture
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.models.task_network import Prediction, TaskNetwork


class Classifier(TaskNetwork):
    """A network of timm's that classifies; of a Vision Transformer the mean of the patch tokens, normalised.

    Args:
        architecture: of the encoder; weights are drawn from PyTorch's generator.
        image_size: `(height, width)` in pixels of the images.
        mean, std: per channel, of images in [0, 1].
        classes: K, how many there are.
        drop_path: share of residual branches that are dropped in the last block (stochastic depth).

    Attributes:
        encoder: timm's network, classifier included: its state dict loads into timm as it is.

    Raises:
        ValueError: the network cannot classify.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        architecture: Architecture,
        image_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        classes: int,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.architecture, self.image_size, self.classes = architecture, image_size, classes
        self.encoder: Any = _with_head(architecture, classes, drop_path)
        self.register_buffer("mean", torch.tensor(list(mean)).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).reshape(1, -1, 1, 1))

    @classmethod
    def of(cls, encoder: Encoder, classes: int, drop_path: float = 0.0) -> Self:
        """One with the weights of an encoder, which stays as it was. The final norm of a Vision Transformer begins
        anew, after the mean, as in MAE.

        Raises:
            ValueError: the encoder is no network that can learn.
        """
        if encoder.architecture is None:
            raise ValueError(f"{encoder.name} is no network that can learn")
        architecture = encoder.architecture
        if architecture.name == PLAIN_VIT:
            # The norm of one that was fine-tuned went with its head, behind the mean: it has none to say so.
            architecture = replace(architecture, options={**architecture.options, "final_norm": True})
        mean, std = encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()
        network = cls(architecture, encoder.image_size, mean, std, classes, drop_path)
        fresh = network.encoder.load_state_dict(encoder.network.state_dict(), strict=False)
        lost = [name for name in fresh.unexpected_keys if not name.startswith("norm.")]
        missing = [name for name in fresh.missing_keys if not name.startswith(("head", "fc", "classifier", "fc_norm"))]
        if lost or missing:
            raise ValueError(f"{encoder.name} cannot be given a classifier: {(lost + missing)[0]} has no place")
        return network

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """One as `description` tells it, its weights drawn from PyTorch's generator."""
        return cls(
            Architecture.from_dict(description["architecture"]),
            tuple(description["image_size"]),
            description["mean"],
            description["std"],
            description["classes"],
        )

    def describe(self) -> dict[str, Any]:
        """Plain values that build such a network again."""
        return {
            "architecture": self.architecture.to_dict(),
            "image_size": list(self.image_size),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "classes": self.classes,
        }

    def timm_line(self, file: str) -> str:
        """The line of Python that makes timm's network with the weights of a file."""
        name, options = self.architecture.name, dict(self.architecture.options)
        values: dict[str, str] = {}
        if name == PLAIN_VIT:
            name = "vit_base_patch16_224"  # whose sizes are the defaults of timm's class, and can all be overridden
            if options.pop("gated", False):
                values = {"mlp_layer": "timm.layers.SwiGLUPacked", "act_layer": "torch.nn.SiLU"}
            defaults = inspect.signature(VisionTransformer).parameters
            options = {key: value for key, value in options.items() if value != defaults[key].default}
        if _is_vit(self.encoder):
            options["global_pool"] = "avg"
        values |= {key: repr(value) for key, value in (options | {"num_classes": self.classes}).items()}
        words = "".join(f", {key}={value}" for key, value in values.items())
        return f"timm.create_model({name!r}{words}, checkpoint_path={file!r})"

    def logits(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)` in [0, 1] to `(B, K)`."""
        return self.encoder((images - self.mean) / self.std)

    def forward(self, images: Tensor, targets: list[Tensor]) -> dict[str, Tensor]:
        """Cross-entropy with classes, scalars, or with shares of all classes, `(K,)` each."""
        return {"cross_entropy": F.cross_entropy(self.logits(images).float(), torch.stack(targets))}

    @torch.no_grad()
    def predict(self, images: list[Tensor]) -> list[Prediction]:
        """`probabilities` `(K,)` of the central crop of each image."""
        crops = torch.stack([center_crop_resize(image, self.image_size) for image in images])
        logits = self.logits(crops.to(self.mean.device).float() / 255)
        return [{"probabilities": row} for row in logits.float().softmax(dim=1).cpu()]


def _with_head(architecture: Architecture, classes: int, drop_path: float) -> nn.Module:
    """timm's network with a classifier for its images, that starts out undecided."""
    drop: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    with torch.device("meta"):
        pool: dict[str, Any] = {"global_pool": "avg"} if _is_vit(architecture.build()) else {}
    try:
        network = architecture.build(num_classes=classes, **pool, **drop)
    except TypeError as error:
        if not drop:
            raise ValueError(f"{architecture.name} cannot be given a classifier ({error})") from error
        network = architecture.build(num_classes=classes, **pool)  # it has no residual branches to drop
    head = network.get_classifier()
    if isinstance(head, nn.Linear):
        nn.init.trunc_normal_(head.weight, std=2e-5)
        nn.init.zeros_(head.bias)
    return network


def _is_vit(network: nn.Module) -> bool:
    """Whether a network of timm's is a Vision Transformer, whose mean token is to be classified."""
    return hasattr(network, "blocks") and hasattr(network, "cls_token")
