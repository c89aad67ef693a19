"""`pmae doctor`."""

from collections.abc import Sequence

from perceptual_mae.cli.parser import Parser


def make_parser() -> Parser:
    """The command has no flags but --help."""
    return Parser("doctor", "Show versions and devices, what is missing, and the line that installs it.")


def run(arguments: Sequence[str]) -> None:
    """Examine and print."""
    make_parser().parse(arguments)

    from rich.table import Table
    from rich.text import Text

    from perceptual_mae.doctor import examine
    from perceptual_mae.terminal import results

    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in examine():
        table.add_row(Text(finding.topic, "bold"), Text(finding.found), Text(finding.advice, "yellow"))
    results().print(table)
