"""`pmae attention`."""

from collections.abc import Sequence
from typing import Literal

from perceptual_mae.cli.parser import Parser


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser("attention", "Draw where encoders look in some images: the attention of [CLS] (figure 3).")
    parser.add_argument(
        "encoders", nargs="+", help="run folders, weights files, timm:NAME, timm:NAME:FILE or hub:USER/NAME"
    )
    parser.add_argument("--data", type=str | None, help="images to draw; default: the run's validation images")
    parser.add_argument("--block", type=int, default=-1, help="which block, from 0 or, negative, from the end")
    parser.add_argument("--heads", type=str, default="mean", help="mean, all, or numbers such as 0,3,5")
    parser.add_argument("--mass", type=float | None, help="draw the patches that hold this share of the attention")
    parser.add_argument("--image_size", type=int | str | None, help="side in pixels or HxW; default: the encoder's own")
    parser.add_argument("--count", type=int, default=6, help="how many images")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images")
    parser.add_argument("--out", type=str | None, help="PNG; default: figures/attention.png of a run, or attention.png")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="where to compute")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Draw, and say where the picture is."""
    settings = make_parser().parse(arguments).as_dict()

    from perceptual_mae.attention_maps import attention

    print(attention(**settings))
