"""`pmae predict`."""

from collections.abc import Sequence
from typing import Literal

from perceptual_mae.cli.parser import Parser
from perceptual_mae.paths import user_path


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser(
        "predict",
        "Write what a fine-tuned network says of images: classes as CSV, objects in COCO's format of results, or masks "
        "as ADE20K has them; and pictures that show it.",
    )
    parser.add_argument("run", help="run of `pmae finetune`, or its model.safetensors")
    parser.add_argument("images", nargs="+", help="images, and folders of them")
    parser.add_argument("--out", type=str, required=True, help="folder to write")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="where to compute")
    parser.add_argument("--batch_size", type=int | None, help="images that the network sees at once; default: suited")
    parser.add_argument("--score", type=float, default=0.5, help="detected objects with less are not drawn")
    parser.add_argument("--overlays", type=bool, default=True, help="draw what is said over each image")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Predict, and say how many images there were and where it is."""
    settings = make_parser().parse(arguments).as_dict()

    from perceptual_mae.predict import predict
    from perceptual_mae.terminal import counting, messages

    with counting(messages()) as progress:
        done = predict(**settings, progress=progress)
    out = user_path(settings["out"])
    words = f"{done.path}: {done.images:,} image{'' if done.images == 1 else 's'}"
    if settings["overlays"]:
        words += f", drawn in {out / 'overlays'}"
    if done.skipped:
        words += f"; {done.skipped:,} broken left out, see {out / 'skipped.txt'}"
    print(words)
