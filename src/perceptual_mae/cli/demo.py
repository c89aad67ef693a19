"""`pmae demo`."""

from collections.abc import Sequence

from perceptual_mae.cli.parser import Parser


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser("demo", "Pre-train a micro model on built-in photographs (about three minutes on two CPU cores).")
    parser.add_argument("--out", type=str, default="runs/demo", help="run folder; a demo that is there is continued")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Train, and say where to look."""
    settings = make_parser().parse(arguments).as_dict()

    from perceptual_mae.api import demo
    from perceptual_mae.terminal import messages, show_path

    console = messages()
    path = demo(console=console, **settings)
    show_path(console, f"\nreport: {path / 'report.html'}")
    show_path(console, f"before and after: {path / 'figures' / 'before-after.png'}")
