"""What is turned, one at a time, from a fixed start: settings that decide whether the adversarial rows work when small.

All of them are reported, whatever they do. A knob is a setting and its value as JSON; `&` joins two that belong
together.
"""

START = "msg-gan-p"
"""The row that is turned: it has an adversary, features and several scales. Knobs of one row alone name it."""

NOTHING = "mask_ratio=0.75"
"""Turns nothing: the start itself, trained and measured as the others are."""

KNOBS: dict[str, dict[str, tuple[str, ...]]] = {
    # what it is about: {row: its other values}
    # from MAE's rate for 4,096 images to 256 in proportion and by the square root; and twice the start's 1.5e-3
    "learning rate": {"mse": ("lr=1.5e-4", "lr=6e-4", "lr=3e-3"), START: ("lr=6e-4", "lr=3e-3")},
    # more steps in the same images; the paper has 16 images in a step. With 64: MAE's rate in proportion and by the
    # square root, and the start's by the square root
    "batch": {
        "mse": (
            "batch_size=64&lr=3.75e-5",
            "batch_size=64&lr=3e-4",
            "batch_size=64&lr=7.5e-4",
            "batch_size=16&lr=3.75e-4",
        ),
        START: ("batch_size=64&lr=7.5e-4", "batch_size=16&lr=3.75e-4"),
    },
    "mask ratio": {
        "mse": ("mask_ratio=0.5", "mask_ratio=0.6", "mask_ratio=0.85"),
        START: ("mask_ratio=0.5", "mask_ratio=0.6"),
    },
    "crop": {"mse": ("crop.scale=[0.4,1.0]", "crop.scale=[0.08,1.0]"), START: ("crop.scale=[0.4,1.0]",)},
    "batch and crop": {"mse": ("batch_size=64&lr=7.5e-4&crop.scale=[0.4,1.0]",)},
    "decoder": {"mse": ("decoder.depth=1", "decoder.depth=4"), START: ("decoder.depth=1", "decoder.depth=4")},
    "normalised patches": {"mse": ("pixels.norm_pix_loss=true",)},
    "alpha of MS-SSIM": {"ms-ssim": ("losses.alpha=0.5", "losses.alpha=1.0")},
    "discriminator: learning rate": {START: ("discriminator.lr=5e-5", "discriminator.lr=8e-4")},
    "discriminator: width": {START: ("discriminator.channel_base=64", "discriminator.channel_base=512")},
    "discriminator: order": {START: ('discriminator.update="alternating"',)},
    "adversarial term": {
        START: (
            "losses.adversarial=0.0",
            "losses.adversarial=0.3",
            "losses.adversarial_balance=1e9",
            "losses.adversarial_balance=0.03",
            "losses.adversarial_balance=0.3",
        )
    },
    "equation 1 to the letter": {
        "ls-gan-p": ('recipe="paper"',),
        START: ('recipe="paper"',),
        "timm-p": ('recipe="paper"',),  # since its features are not held by default either, the start again
    },
    "feature matching": {
        START: (
            "losses.feature_balance=1e9",
            "losses.feature_balance=0.1",
            "losses.feature_balance=1.0",
            "losses.delta_s=0.0",
            "losses.perceptual_every=1",
        )
    },
    "features of a fixed network": {
        "timm-p": (
            "losses.feature_balance=0.3",
            "losses.feature_balance=1.0",
            "losses.feature_balance=10.0",
            'recipe="paper"&losses.delta_s=0.0',
            "losses.delta_f=0.0",
            "loss_network_size=128",
        )
    },
    "path length": {"stylegan2-ada-p": ("path.weight=0.0", 'path.estimator="exact"')},
    "R1": {"stylegan2-ada-p": ("discriminator.r1_gamma=0.0", "discriminator.r1_gamma=0.1")},
    "ADA": {"stylegan2-ada-p": ("ada.enabled=false", "ada.images=50000")},
}


def turns(rows: tuple[str, ...] = ()) -> list[tuple[str, str, str]]:
    """Every turn: what it is about, the row, the knob; only of some rows, if any are named. Starts come first."""
    asked = [
        row for row in dict.fromkeys(row for by_row in KNOBS.values() for row in by_row) if not rows or row in rows
    ]
    return [("the start", row, NOTHING) for row in asked] + [
        (about, row, knob)
        for about, by_row in KNOBS.items()
        for row, knobs in by_row.items()
        for knob in knobs
        if not rows or row in rows
    ]
