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

    from rich.console import Console

    from perceptual_mae.api import demo

    console = Console(stderr=True)
    path = demo(console=console, **settings)
    console.print(f"\nreport: {path / 'report.html'}", highlight=False, markup=False)
    console.print(f"before and after: {path / 'figures' / 'before-after.png'}", highlight=False, markup=False)
