"""Feature maps of any model of timm's, "a strong ImageNet classifier" among them, to compare images by."""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from perceptual_mae.errors import nearest
from perceptual_mae.models.folding import fold_batch_norms


class ImageSizeError(ValueError):
    """Images of a size that a model does not take; it may take another."""


class TimmFeatures(nn.Module):
    """The stages of a timm model (`features_only`): of a convolutional one its resolutions, of a ViT its last blocks.

    Args:
        name: as timm knows it, with or without the tag of its weights: `resnet50`, `vit_base_patch16_224.mae`.
        image_size: `(height, width)` in pixels of the images that it will see.

    The weights are random until `load` or `fetch`.

    Raises:
        ValueError: no such model, or one without feature maps.
        ImageSizeError: images too small for one of its stages, or of a size that it refuses.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, image_size: tuple[int, int]) -> None:
        super().__init__()
        if not timm.is_model(name):
            raise ValueError(f"timm has no model {name}{nearest(name, timm.list_models())}")
        self.name, self.image_size = name, image_size
        self.options, shapes = _fitting(name, image_size)
        self.grid = shapes[-1][2:]
        network = self._create(pretrained=False)
        self.stages: nn.Module = network
        self.config: dict[str, Any] = network.pretrained_cfg
        self.register_buffer("mean", torch.tensor(self.config["mean"]).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(self.config["std"]).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """`(B, 3, H, W)` in [0, 1] to the maps of the stages `(B, C_j, H_j, W_j)`, fine to coarse."""
        return _channels_first(self.stages, self.stages((images - self.mean) / self.std))

    @property
    def published_at(self) -> str | None:
        """The page of the weights that `fetch` fetches."""
        repository = self.config.get("hf_hub_id")
        return f"https://huggingface.co/{repository}" if repository else None

    def fetch(self) -> None:
        """Load timm's own weights from the Hugging Face hub or its cache.

        Raises:
            Exception: whatever timm and the hub's client raise when there are none or there is no network.
        """
        self.stages = self._create(pretrained=True)

    def _create(self, pretrained: bool) -> Any:
        with torch.random.fork_rng(devices=[]):  # these weights are replaced: a run's random numbers stay as they are
            return timm.create_model(self.name, pretrained=pretrained, features_only=True, **self.options)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights of the whole model, under timm's names.

        What belongs to no stage (a classifier) is left out. Position embeddings of another square grid are resampled.

        Raises:
            ValueError: the weights are of another model: a tensor is missing or of another shape, or the file has
                weights in the stages that the model does not have.
        """
        own = self.stages.state_dict()
        given = {_plain(name): tensor for name, tensor in state.items()}
        loaded: dict[str, Tensor] = {}
        for name, target in own.items():
            if name.endswith("num_batches_tracked"):  # counts for nothing in eval mode, and not all files have it
                continue
            value = given.get(_plain(name))
            if value is None:
                matched = sum(_plain(other) in given for other in own)
                what = f"{matched} of {len(own)} tensors match, {name} is missing"
                raise ValueError(f"the weights are not of {self.name}: {what}")
            if name.endswith("pos_embed") and value.ndim == 3 and value.shape != target.shape:
                prefix = target.shape[1] - self.grid[0] * self.grid[1]
                value = resample_abs_pos_embed(value.float(), list(self.grid), num_prefix_tokens=prefix)
            if value.shape != target.shape:
                shapes = f"{tuple(value.shape)}, not {tuple(target.shape)}"
                raise ValueError(f"the weights are not of {self.name} at this image size: {name} is {shapes}")
            loaded[name] = value
        if strangers := self._strangers(state):
            few = f"{len(strangers)} are of no part of it, such as {strangers[0]}"
            raise ValueError(f"the weights are not of {self.name}: {few}")
        self.stages.load_state_dict(loaded, strict=False)

    def quicken(self) -> None:
        """Make it quicker for good, once its weights are there and stay as they are.

        Batch normalisations go into the convolutions, whose weights come to lie channels last: an EfficientNet-Lite0
        at 64 pixels then takes half as long on a CPU, forward and backward (`benchmarks.loss_network`).
        """
        self.eval().requires_grad_(False)
        side = (1, 3, *self.image_size)
        example = torch.rand(side, generator=torch.Generator().manual_seed(0))
        fold_batch_norms(self.stages, (example - self.mean) / self.std)
        self.stages.to(memory_format=torch.channels_last)

    def _strangers(self, state: Mapping[str, Tensor]) -> list[str]:
        """Weights of layers that the stages do not have though they have neighbours of theirs: a deeper model's."""
        with torch.device("meta"):
            whole = timm.create_model(self.name, pretrained=False, **self.options).state_dict()
        own = {_plain(name) for name in self.stages.state_dict()}
        known = {_plain(name) for name in whole}
        parts = {name.split(".")[0] for name in whole if _plain(name) in own}
        return [
            name
            for name in state
            if name.endswith((".weight", ".bias")) and _plain(name) not in known and name.split(".")[0] in parts
        ]


def _plain(name: str) -> str:
    """A name as the whole model, a checkpoint's wrapper and timm's `features_only` have in common.

    The latter puts the stages side by side, so that `stages.0.blocks` becomes `stages_0.blocks`.
    """
    return name.removeprefix("module.").removeprefix("model.").replace(".", "_")


def _channels_first(stages: nn.Module, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Some transformers give their maps as `(B, H, W, C)`."""
    last = str(getattr(stages, "output_fmt", "NCHW")).endswith("NHWC")
    return tuple(one.permute(0, 3, 1, 2) if last else one for one in maps)


def _fitting(name: str, image_size: tuple[int, int]) -> tuple[dict[str, Any], list[tuple[int, ...]]]:
    """What to tell timm so that a model takes images of a size, and the shapes of its maps then.

    Nothing is computed: the model is tried on the meta device.
    """
    size = f"{image_size[0]} x {image_size[1]}"
    try:
        try:  # transformers are made for one size and need to be told; convolutional networks do not know the word
            stages, options = _on_meta(name, img_size=image_size), {"img_size": image_size}
        except TypeError:
            stages, options = _on_meta(name), {}
    except Exception as error:  # each of timm's models has its own way to say that it has no maps
        raise ValueError(f"{name} cannot be had as feature maps of {size} images: {_line(error)}") from error
    reductions = stages.feature_info.reduction()
    for stage, reduction in enumerate(reductions, start=1):
        if min(image_size) < reduction:
            raise ImageSizeError(f"stage {stage} of {name} makes images {reduction} times smaller: {size} is too small")
    patch = reductions[0]
    if options and any(side % patch for side in image_size):  # the rest would not be looked at
        raise ImageSizeError(f"{name} looks at patches of {patch} pixels: {size} is no multiple")
    try:
        maps = stages(torch.empty(1, 3, *image_size, device="meta"))
    except Exception as error:
        raise ImageSizeError(f"{name} does not take images of {size}: {_line(error)}") from error
    return options, [tuple(one.shape) for one in _channels_first(stages, maps)]


def _on_meta(name: str, **options: Any) -> Any:
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False, features_only=True, **options).eval()


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
