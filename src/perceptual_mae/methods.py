"""The methods of the paper's Table 2, as data.

Each row names an architecture, the terms of its loss and its adversary; nothing else in the package knows a method by
name. Names on the right are looked up in `pretrain/build.py`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One term of the generator's loss.

    Attributes:
        name: the term in logs: `loss/<name>`.
        loss: which loss, a key of `pretrain.build.LOSSES`.
        weight: its factor in the sum.
        every_epochs: acts in epochs divisible by this, counted from 1 (2: in even epochs only).
        every_steps: acts in steps divisible by this, counted from 1, then with its weight multiplied by as much.
    """

    name: str
    loss: str
    weight: float = 1.0
    every_epochs: int = 1
    every_steps: int = 1


@dataclass(frozen=True)
class Published:
    """What the paper reports for a row: ImageNet top-1 in %, None where it has no number."""

    linear_probe: float | None
    vit_base: float | None
    vit_large: float | None


@dataclass(frozen=True)
class Method:
    """A row of Table 2.

    Attributes:
        summary: one line for `--help` and reports.
        architecture: the generator, a key of `pretrain.build.ARCHITECTURES`.
        terms: the generator's loss.
        paper: the paper's figures for the row.
    """

    summary: str
    architecture: str
    terms: tuple[Term, ...]
    paper: Published


METHODS: dict[str, Method] = {
    "mse": Method(
        summary="masked autoencoder, mean squared error on removed patches",
        architecture="mae",
        terms=(Term("mse", loss="masked-mse"),),
        paper=Published(linear_probe=67.8, vit_base=83.6, vit_large=85.9),
    ),
}
