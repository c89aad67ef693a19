"""How encoders are fine-tuned: the recipes of the field, a row each. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """AdamW, its schedule (warm-up, then half a cosine), and how the encoder is held.

    Attributes:
        epochs: passes over the images.
        lr: learning rate of the head at its peak.
        per: images of a step that it is for; other batches scale it in proportion. None: it is for any batch.
        betas: decay rates of AdamW's moments.
        weight_decay: of weights; biases, norms, tokens and position embeddings have none.
        layer_decay: a block learns at so many times the rate of the block above it.
        drop_path: share of residual branches dropped in the last block, rising from 0 in the first.
        warmup_epochs: epochs of linear warm-up.
    """

    epochs: int
    lr: float
    per: int | None
    betas: tuple[float, float]
    weight_decay: float
    layer_decay: float
    drop_path: float
    warmup_epochs: float


RECIPES: dict[str, dict[str, Recipe]] = {
    "classification": {
        # MAE's fine-tuning of ViT-B (arXiv 2111.06377, table 9).
        "mae": Recipe(100, 5e-4, 256, (0.9, 0.999), 0.05, 0.65, 0.1, 5),
        # Section 4 of the paper (arXiv 2212.14504); what it does not say is MAE's.
        "paper": Recipe(100, 1e-3, 256, (0.9, 0.95), 0.05, 0.65, 0.1, 5),
    },
    "detection": {
        # ViTDet's ViT-B (arXiv 2203.16527, appendix A.2) with a cosine in place of its steps.
        "mae": Recipe(100, 1e-4, None, (0.9, 0.999), 0.1, 0.7, 0.1, 1),
    },
    "segmentation": {
        # MAE's UperNet (arXiv 2111.06377, appendix A.4) as BEiT trains it, with a cosine in place of its line.
        "mae": Recipe(100, 1e-4, None, (0.9, 0.999), 0.05, 0.65, 0.1, 5),
    },
}
