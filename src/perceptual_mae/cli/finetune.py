"""`pmae finetune`."""

import os
from collections.abc import Sequence

from perceptual_mae.cli.parser import Parser
from perceptual_mae.errors import UsageError, nearest
from perceptual_mae.training.launch import adopt_slurm, is_main
from perceptual_mae.transfer.config import CONFIGS

HELP = """\
usage: pmae finetune TASK ENCODER --data DATA [options]

Teach an encoder a labelled task. A run that is in --out is continued.

tasks:
  classification   images whose sub-folders (or a label column) are classes
  detection        boxes and masks of objects, in COCO's format
  segmentation     a class for every pixel, in ADE20K's layout

`pmae finetune TASK --help` shows a task's options.

example:
  pmae finetune classification runs/mine --data ./labelled --out runs/classifier
"""


def make_parser(task: str) -> Parser:
    """The flags of a task: every setting of its class."""
    parser = Parser(f"finetune {task}", "Teach an encoder a labelled task. A run that is in --out is continued.")
    parser.add_argument("--config", action="config", help="a YAML file of settings, such as the config.yaml of a run")
    parser.add_argument("encoder", type=str, help="run folder, weights file, timm:NAME, random:SIZE/PATCH, ...")
    parser.add_class_arguments(CONFIGS[task], as_group=False, skip={"encoder"})
    return parser


def run(arguments: Sequence[str]) -> None:
    """Train, and say how well it went and where the report is."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return
    task, *rest = arguments
    if task not in CONFIGS:
        raise UsageError(f"no task {task!r}{nearest(task, CONFIGS)}; there are {', '.join(CONFIGS)}")
    parser = make_parser(task)
    values = parser.instantiate(parser.parse(rest))
    values.pop("config", None)
    config = CONFIGS[task](**values.as_dict())
    config.check()

    from perceptual_mae.finetune import finetune
    from perceptual_mae.terminal import messages, show_path

    adopt_slurm(os.environ)
    console = messages(quiet=not is_main(os.environ))
    path = finetune(config, console)
    show_path(console, f"report: {path / 'report.html'}")
    use = f"pmae predict {path} IMAGES --out predictions"
    show_path(console, f"model: {path / 'model.safetensors'} (the best by validation; `{use}`)")
