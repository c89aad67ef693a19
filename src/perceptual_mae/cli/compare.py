"""`pmae compare`."""

import shlex
from collections.abc import Sequence
from dataclasses import fields

from perceptual_mae.cli.parser import Parser
from perceptual_mae.evaluation.config import EvaluateConfig
from perceptual_mae.measure.config import CompareConfig
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.settings import from_dict

SET_HERE = {"out", "method", "architecture", "loss_network"}
"""Settings of the training that the comparison makes itself."""


def make_parser() -> Parser:
    """The command's flags: those of the comparison, of `pmae pretrain`, and below `--evaluate.` of `pmae evaluate`."""
    parser = Parser("compare", "Which loss suits my images: train several methods, measure them, write one report.")
    parser.add_class_arguments(CompareConfig, as_group=False, skip={"pretrain", "evaluate"})
    parser.add_class_arguments(PretrainConfig, as_group=False, skip=SET_HERE)
    parser.add_class_arguments(EvaluateConfig, "evaluate", skip={"encoder", "data", "out"})
    return parser


def run(arguments: Sequence[str]) -> None:
    """Train and measure, and say where the report is."""
    values = make_parser().parse(arguments).as_dict()
    evaluation = EvaluateConfig(encoder="", **values.pop("evaluate"))
    own = {field.name: values.pop(field.name) for field in fields(CompareConfig) if field.name in values}
    config = CompareConfig(pretrain=from_dict(PretrainConfig, values), evaluate=evaluation, **own)
    config.check()

    from perceptual_mae.measure.comparison import compare
    from perceptual_mae.terminal import messages, show_path

    console = messages()
    folder = compare(config, console, f"pmae compare {shlex.join(arguments)}")
    show_path(console, f"report: {folder / 'report.html'}")
