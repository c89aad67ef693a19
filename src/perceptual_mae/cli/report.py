"""`pmae report`."""

from collections.abc import Sequence

from perceptual_mae.cli.parser import Parser


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser("report", "Write the report.html of a run anew, also while it trains.")
    parser.add_argument("run", help="run folder")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Write, and say where it is."""
    settings = make_parser().parse(arguments).as_dict()

    from perceptual_mae.api import report

    print(report(**settings))
