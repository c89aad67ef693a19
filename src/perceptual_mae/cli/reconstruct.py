"""`pmae reconstruct`."""

from collections.abc import Sequence
from typing import Literal

from perceptual_mae.cli.parser import Parser


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser("reconstruct", "Draw original / masked / reconstruction / pasted for some images (figure 2).")
    parser.add_argument("run", help="run folder")
    parser.add_argument("--data", type=str | None, help="images to draw; default: the run's validation images")
    parser.add_argument("--out", type=str | None, help="PNG to write; default: figures/reconstruct.png of the run")
    parser.add_argument("--count", type=int, default=8, help="how many images")
    parser.add_argument("--mask_ratio", type=float | None, help="share of patches removed; default: the run's")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images and of the masks")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="where to compute")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Draw, and say where the picture is."""
    settings = make_parser().parse(arguments).as_dict()

    from perceptual_mae.api import reconstruct

    print(reconstruct(**settings))
