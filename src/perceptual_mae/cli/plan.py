"""`pmae plan`."""

from collections.abc import Sequence
from dataclasses import fields

from perceptual_mae.cli.parser import Parser
from perceptual_mae.estimate.config import PlanConfig
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.settings import from_dict

SET_HERE = {"data", "sharding"}
"""Settings that the plan has its own of. It takes all others, also such as `out`: the flags of a run can be given
as they are."""


def make_parser() -> Parser:
    """The command's flags: those of the plan, and of `pmae pretrain`."""
    parser = Parser("plan", "What a pre-training run will take: time, memory, reading, disk, network. Trains nothing.")
    parser.add_argument("--config", action="config", help="a YAML file of settings, such as the config.yaml of a run")
    parser.add_class_arguments(PlanConfig, as_group=False, skip={"pretrain"})
    parser.add_class_arguments(PretrainConfig, as_group=False, skip=SET_HERE)
    return parser


def run(arguments: Sequence[str]) -> None:
    """Count, measure, and print the plan."""
    values = make_parser().parse(arguments).as_dict()
    values.pop("config", None)
    own = {field.name: values.pop(field.name) for field in fields(PlanConfig) if field.name in values}
    config = PlanConfig(pretrain=from_dict(PretrainConfig, {**values, "data": own["data"] or ""}), **own)
    config.check()

    from perceptual_mae.estimate.plan import plan
    from perceptual_mae.estimate.table import show
    from perceptual_mae.files import write_json
    from perceptual_mae.paths import user_path
    from perceptual_mae.terminal import messages, results

    with messages().status("") as status:
        made = plan(config, status.update)
    show(made, results())
    if config.json is not None:
        write_json(user_path(config.json), made.to_dict())
