"""`pmae figures`."""

from collections.abc import Sequence

from perceptual_mae.cli.parser import Parser
from perceptual_mae.errors import UsageError, nearest
from perceptual_mae.paths import user_path

FIGURES = ("ada",)


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser("figures", "Draw how the method works.")
    parser.add_argument("figure", help="ada: a photograph as the discriminator may see it")
    parser.add_argument("--image", type=str | None, help="photograph to draw; default: a built-in one")
    parser.add_argument("--out", type=str, default="ada.png", help="PNG to write")
    parser.add_argument("--seed", type=int, default=0, help="of the random draws")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Draw, and say where the picture is."""
    settings = make_parser().parse(arguments)
    if settings.figure not in FIGURES:
        raise UsageError(f"no figure {settings.figure!r}{nearest(settings.figure, FIGURES)}; see `pmae figures --help`")

    from perceptual_mae.report.augmentations import draw_augmentations

    image = user_path(settings.image) if settings.image is not None else None
    print(draw_augmentations(image, user_path(settings.out), settings.seed))
