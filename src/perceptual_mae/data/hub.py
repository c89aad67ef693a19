"""A data set of the Hugging Face hub: `hub:USER/NAME` or `hub:USER/NAME:CONFIG`."""

from perceptual_mae.data.arrow import ArrowSource
from perceptual_mae.data.load import first_line, load, quietly
from perceptual_mae.data.splits import pick_name
from perceptual_mae.errors import PmaeError, UsageError

_ADVICE = "check the name and the network, and for a private data set log in with `hf auth login`"


def open_hub(spec: str, split: str) -> ArrowSource | None:
    """Open one split of a data set of the hub, downloaded at the first use; None where it has no validation split.

    Raises:
        UsageError: not USER/NAME, or no training split among several.
        PmaeError: not there, not reachable, or not readable.
    """
    name, _, config = spec.removeprefix("hub:").partition(":")
    if not name or name.count("/") > 1 or name.startswith("/") or name.endswith("/"):
        raise UsageError(f"{spec}: give hub:USER/NAME or hub:USER/NAME:CONFIG")
    from datasets import get_dataset_split_names

    try:
        with quietly():
            names = list(get_dataset_split_names(name, config or None))
    except Exception as error:  # the network and the hub's own errors
        raise PmaeError(f"{spec} could not be found ({first_line(error)}): {_ADVICE}") from error
    chosen = pick_name(names, split)
    if chosen is None:
        if split == "validation":
            return None
        raise UsageError(f"{spec} has no split `train` (splits: {', '.join(names)})")
    return ArrowSource(spec, load(spec, name, _ADVICE, name=config or None, split=chosen))
