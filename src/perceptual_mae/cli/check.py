"""`pmae check`."""

from collections.abc import Sequence
from typing import Literal

from perceptual_mae.cli.parser import Parser
from perceptual_mae.paths import user_path
from perceptual_mae.training.config import LoaderConfig


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser("check", "Read every image once: what there is, what cannot be read, and which settings fit.")
    parser.add_argument("--data", type=str, required=True, help="images, as of `pmae pretrain`")
    parser.add_argument("--channels", type=int, default=3, help="of the images, as --pixels.channels")
    parser.add_argument("--max_pixels", type=int, default=LoaderConfig.max_pixels, help="as --loader.max-pixels")
    parser.add_argument("--workers", type=int | Literal["auto"], default="auto", help="processes that read")
    parser.add_argument("--json", type=str | None, help="file to write everything to, for other programs")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Read all images, and print what was found."""
    settings = make_parser().parse(arguments)
    out = user_path(settings.json) if settings.json is not None else None

    from rich.table import Table
    from rich.text import Text

    from perceptual_mae.check import check_data, skipped_lines
    from perceptual_mae.files import write_json
    from perceptual_mae.terminal import counting, messages, results

    with counting(messages()) as progress:
        checked = check_data(settings.data, settings.channels, settings.max_pixels, settings.workers, progress)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in ("", *checked.parts):
        table.add_column(head)
    for topic, found in checked.rows():
        table.add_row(Text(topic, "bold"), *map(Text, found))
    console = results()
    console.print(table)
    for line in skipped_lines(checked):
        console.print(line, style="dim", highlight=False, markup=False)
    for line in checked.advice():
        console.print(f"! {line}", style="yellow", highlight=False, markup=False)
    if out is not None:
        write_json(out, checked.to_dict())
