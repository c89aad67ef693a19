"""`pmae export`."""

from collections.abc import Sequence
from typing import Literal

from perceptual_mae.cli.parser import Parser

Target = Literal["timm", "safetensors", "transformers", "onnx", "torch-export", "hub"]


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser(
        "export",
        "Write an encoder for other tools. Each export is opened again with the tool's own library and compared with "
        "the original before it is put in place.",
    )
    parser.add_argument("encoder", help="run folder, weights file, timm:NAME, timm:NAME:FILE or hub:USER/NAME")
    parser.add_argument("--to", type=Target, required=True, help="format; hub uploads the timm format")
    parser.add_argument(
        "--out", type=str | None, help="folder to write, of safetensors the file; default: export/ in the run"
    )
    parser.add_argument("--image_size", type=int | str | None, help="side in pixels or HxW; default: the encoder's own")
    parser.add_argument("--licence", type=str | None, help="for the card, such as apache-2.0; default: not stated")
    parser.add_argument("--repo", type=str | None, help="USER/NAME on the Hugging Face hub, for --to hub")
    parser.add_argument("--private", action="store_true", help="make that repository a private one")
    parser.add_argument(
        "--pictures", type=bool | None, help="copy the run's pictures beside the card; default: yes, but not to the hub"
    )
    return parser


def run(arguments: Sequence[str]) -> None:
    """Export, and say how what was written compares."""
    settings = make_parser().parse(arguments)

    from perceptual_mae.export import export_encoder
    from perceptual_mae.terminal import results, show_path

    exported = export_encoder(
        settings.encoder,
        settings.to,
        settings.out,
        settings.image_size,
        licence=settings.licence,
        repo=settings.repo,
        private=settings.private,
        pictures=settings.pictures,
    )
    console = results()
    for line in (f"encoder: {exported.matched}", *map(str, exported.checks), *exported.notes):
        show_path(console, line)
    print(exported.address or exported.path)
