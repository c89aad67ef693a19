"""Model sizes by name (paper section 4; the sizes below `base` are ours, for one machine)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Widths and depths of an encoder and of the decoder that goes with it."""

    embed_dim: int
    depth: int
    num_heads: int
    decoder_embed_dim: int
    decoder_depth: int
    decoder_num_heads: int


SIZES: dict[str, Size] = {
    #             encoder: dim depth heads  decoder: dim depth heads
    "micro": Size(96, 6, 3, 64, 2, 4),
    "tiny": Size(192, 12, 3, 128, 4, 4),
    "small": Size(384, 12, 6, 256, 4, 8),
    "base": Size(768, 12, 12, 512, 8, 16),
    "large": Size(1024, 24, 16, 512, 8, 16),
    "huge": Size(1280, 32, 16, 512, 8, 16),
}
