"""`pmae`: finds the subcommand, and turns errors into one line and an exit code."""

import errno
import importlib
import sys
from collections.abc import Sequence

from perceptual_mae import __version__
from perceptual_mae.credentials import without_credentials
from perceptual_mae.errors import PmaeError, WriteError, nearest, printable

COMMANDS = {
    "pretrain": "pre-train a Vision Transformer on your images",
    "check": "read your images once: formats, sizes, what cannot be read, mean and std",
    "plan": "what a pre-training run will take: time, memory, reading, disk, network",
    "reconstruct": "draw what a run makes of masked images",
    "evaluate": "measure an encoder: reconstructions, k-NN, linear probe",
    "finetune": "teach an encoder a labelled task: classification, detection, segmentation",
    "predict": "write what a fine-tuned network says of images",
    "attention": "draw where encoders look",
    "embed": "write features of images to a parquet file",
    "app": "a local web page: hide part of an image, see what runs make of it",
    "export": "write an encoder for timm, transformers, ONNX, torch.export, or the Hugging Face hub",
    "compare": "train several methods on your images, measure them, write one report",
    "report": "write the report.html of a run anew",
    "figures": "draw how the method works: `pmae figures ada` shows the augmentations",
    "convert-dvae": "make DALL-E's published image tokeniser usable as a loss network",
    "shard": "write images as WebDataset shards, to train on more than fits a disk",
    "demo": "three minutes on real photographs: does it learn?",
    "doctor": "versions, devices, what is missing and how to install it",
}

HELP = """\
usage: pmae COMMAND [options]

Pre-train a Vision Transformer on your own images, with masked autoencoding
and perceptual losses (arXiv 2212.14504), and see what it learnt.

commands:
{commands}

options:
  -h, --help     show this help; `pmae COMMAND --help` shows a command's
  --version      show the version

example:
  pmae pretrain --data ./images --model small --out runs/mine
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for a failure, 2 for wrong usage."""
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except PmaeError as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone (`pmae ... | head`); there is nobody to tell
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        # A full disk can be met by any library that writes, to its cache for one.
        return _say(str(WriteError(error.filename or "a file", error.errno, error.strerror or "no more space")), 1)
    return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<14} {line}" for name, line in COMMANDS.items())), end="")
        return 0
    if arguments[0] == "--version":
        print(f"pmae {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        return _say(f"no command {name[:100]!r}{nearest(name, COMMANDS)}; `pmae --help` lists them", 2)
    try:
        importlib.import_module(f"perceptual_mae.cli.{name.replace('-', '_')}").run(rest)
    except SystemExit as end:  # `--help` and `--print_config` end so
        return int(end.code or 0)
    return 0


def _say(message: str, code: int) -> int:
    if message:
        print(f"pmae: {printable(' '.join(without_credentials(message).split()))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
