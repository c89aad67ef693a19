"""`pmae evaluate`."""

from collections.abc import Sequence

from perceptual_mae.cli.parser import Parser
from perceptual_mae.evaluation.config import EvaluateConfig


def make_parser() -> Parser:
    """The command's flags: every setting of `EvaluateConfig`."""
    parser = Parser("evaluate", "Measure an encoder: reconstructions, k-NN, linear probe. What is there is kept.")
    parser.add_argument("encoder", help="run folder, weights file, timm:NAME, timm:NAME:FILE, hub:USER/NAME, ...")
    parser.add_class_arguments(EvaluateConfig, as_group=False, skip={"encoder"})
    return parser


def run(arguments: Sequence[str]) -> None:
    """Measure, and print the table."""
    parser = make_parser()
    config = EvaluateConfig(**parser.instantiate(parser.parse(arguments)).as_dict())
    config.check()

    from perceptual_mae.measure.evaluation import evaluate, table
    from perceptual_mae.terminal import messages, results, show_path

    console = messages()
    folder = evaluate(config, console)
    results().print(table(folder))
    show_path(console, f"everything: {folder / 'results.md'}")
