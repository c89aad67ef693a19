"""`pmae pretrain`."""

import os
from collections.abc import Sequence

from perceptual_mae.cli.parser import Parser
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.training.launch import adopt_slurm, is_main


def make_parser() -> Parser:
    """The command's flags: every setting of `PretrainConfig`."""
    parser = Parser("pretrain", "Pre-train a Vision Transformer on your images. A run that is in --out is continued.")
    parser.add_argument("--config", action="config", help="a YAML file of settings, such as the config.yaml of a run")
    parser.add_class_arguments(PretrainConfig, as_group=False)
    return parser


def run(arguments: Sequence[str]) -> None:
    """Train, and say where the report is."""
    parser = make_parser()
    values = parser.instantiate(parser.parse(arguments))
    values.pop("config", None)
    config = PretrainConfig(**values.as_dict())
    config.check()

    from perceptual_mae.api import pretrain
    from perceptual_mae.terminal import messages, show_path

    adopt_slurm(os.environ)
    console = messages(quiet=not is_main(os.environ))
    path = pretrain(config, console)
    show_path(console, f"report: {path / 'report.html'}")
    show_path(console, f"encoder: {path / 'encoder.safetensors'} (timm names)")
