"""What is exported: an encoder, and the run that it comes from, if it comes from one."""

import re
from dataclasses import dataclass
from pathlib import Path

from timm.models import VisionTransformer
from torch import Tensor

from perceptual_mae.encoders.fit import Side, check_multiple
from perceptual_mae.encoders.open import open_whole
from perceptual_mae.encoders.vit import vit
from perceptual_mae.errors import UsageError
from perceptual_mae.models import MaskedAutoencoder
from perceptual_mae.models.architecture import PLAIN_VIT, Architecture
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.paths import user_path
from perceptual_mae.pretraining.folder import RunFolder


@dataclass(frozen=True)
class Source:
    """An encoder on the CPU with its origin.

    Attributes:
        spec: as the user typed it.
        encoder: in float32.
        matched: which of its weights were found, in words.
        folder: of the run of `pmae pretrain` or `pmae finetune` that it comes from; None: it comes from none.
        run: the run of `pmae pretrain`.
        autoencoder: of that run, with its decoder.
        step: steps that it was trained for.
    """

    spec: str
    encoder: Encoder
    matched: str
    folder: Path | None = None
    run: RunFolder | None = None
    autoencoder: MaskedAutoencoder | None = None
    step: int | None = None

    @property
    def architecture(self) -> Architecture:
        """How to build the network again."""
        assert self.encoder.architecture is not None  # `open_source` has refused what has none
        return self.encoder.architecture

    @property
    def plain_vit(self) -> VisionTransformer | None:
        """The network where it is a Vision Transformer that its sizes describe; None where it is something else."""
        return self.encoder.network if self.architecture.name == PLAIN_VIT else None

    @property
    def state(self) -> dict[str, Tensor]:
        """The weights under timm's names, ready to be written."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.encoder.network.state_dict().items()}

    @property
    def pixels(self) -> tuple[list[float], list[float]]:
        """Mean and std per channel, as people write them: 0.485, not the number of float32 that is nearest to it."""
        mean, std = (buffer.flatten().numpy() for buffer in (self.encoder.mean, self.encoder.std))
        return [float(str(value)) for value in mean], [float(str(value)) for value in std]

    def at(self, size: tuple[int, int]) -> Encoder:
        """The same encoder for images of another size, `(height, width)` in pixels, as `open_encoder` would open it.

        Of plain Vision Transformers only.
        """
        network, encoder = self.encoder.network, self.encoder
        if size == encoder.image_size:
            return encoder
        check_multiple(size, network.patch_embed.patch_size)
        made = vit(network.state_dict(), size, encoder.image_size, network.blocks[0].attn.num_heads)
        pixels = (encoder.mean.flatten().tolist(), encoder.std.flatten().tolist())
        return Encoder(made.network, encoder.name, size, *pixels, made.architecture, encoder.fixed_positions)


def open_source(spec: str, image_size: Side | None = None) -> Source:
    """Open an encoder to export it.

    Args:
        spec: an encoder argument, see `load_encoder`.
        image_size: side of the images that it is to take, or `(height, width)`; default: the encoder's own.

    Raises:
        UsageError: there is no such encoder, or it is none that could be built again.
        PmaeError: it cannot be read.
    """
    opened = open_whole(spec, image_size)
    encoder = opened.encoder
    if encoder.architecture is None:
        raise UsageError(f"ENCODER {spec}: it is no network: there are no weights to export")
    encoder.float()
    path = None if re.match(r"(timm|hub|random):", spec) else user_path(spec)
    if path is None or not (path / "config.yaml").is_file():
        return Source(spec, encoder, opened.matched)
    return Source(spec, encoder, opened.matched, path, opened.run, opened.autoencoder, opened.step)
