"""`pmae app`."""

import importlib.util
import sys
from collections.abc import Sequence
from typing import Literal

from perceptual_mae.cli.parser import Parser
from perceptual_mae.errors import PmaeError

LOCAL = ("127.0.0.1", "localhost", "::1")


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser(
        "app",
        "A page in your browser: hide part of an image and see what runs make of it, where they look, and which of "
        "your images is most like it. Only this machine can open it, and it keeps nothing.",
    )
    parser.add_argument("runs", nargs="+", help="run folders; several are shown side by side")
    parser.add_argument("--data", type=str | None, help="example images; default: the first run's validation images")
    parser.add_argument("--neighbours", type=str | None, help="parquet file of `pmae embed`: shows nearest neighbours")
    parser.add_argument("--neighbours_data", type=str | None, help="its images; default: where they were")
    parser.add_argument(
        "--encoders", type=tuple[str, ...], default=(), help="more encoders to look through, with commas between them"
    )
    parser.add_argument("--host", type=str, default="127.0.0.1", help="where to listen; 0.0.0.0: the whole network")
    parser.add_argument("--port", type=int | None, help="default: the first free one from 7860")
    parser.add_argument("--max_upload", type=float, default=20.0, help="MB of an image file at most")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="where to compute")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Open everything, say where the page is, and serve it until Ctrl-C."""
    settings = make_parser().parse(arguments)
    if importlib.util.find_spec("gradio") is None:
        raise PmaeError("pmae app needs gradio: pip install 'perceptual-mae[app]'")

    from perceptual_mae.app.server import open_browser, serve
    from perceptual_mae.app.studio import open_studio

    studio = open_studio(
        settings.runs,
        encoders=settings.encoders,
        data=settings.data,
        neighbours=settings.neighbours,
        neighbours_data=settings.neighbours_data,
        max_upload=settings.max_upload,
        device=settings.device,
    )

    def ready(address: str) -> None:
        print(f"{address}  (Ctrl-C ends it)", flush=True)
        if settings.host not in LOCAL:
            print(f"pmae: anyone on the network who can reach {settings.host} can use this page", file=sys.stderr)
        if settings.open:
            open_browser(address)

    serve(studio, settings.host, settings.port, ready)
