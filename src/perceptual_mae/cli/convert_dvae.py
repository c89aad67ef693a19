"""`pmae convert-dvae`."""

from collections.abc import Sequence

from perceptual_mae.cli.parser import Parser
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.paths import user_path


def make_parser() -> Parser:
    """The command's arguments."""
    parser = Parser("convert-dvae", "Make a safetensors file of DALL-E's published encoder; nothing in it is executed.")
    parser.add_argument("encoder", help="encoder.pkl, from https://cdn.openai.com/dall-e/encoder.pkl")
    parser.add_argument("out", help="safetensors file to write, for --loss-network dvae:FILE")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Convert, and say what was written."""
    settings = make_parser().parse(arguments)
    encoder, out = user_path(settings.encoder), user_path(settings.out)
    if not encoder.is_file():
        raise UsageError(f"{encoder}: there is no such file")
    if out.suffix != ".safetensors" or out.is_dir():
        raise UsageError(f"{out}: give a file to write that ends in .safetensors")

    from perceptual_mae.dvae_file import convert

    try:
        print(convert(encoder, out))
    except OSError as error:
        raise PmaeError(f"{error.filename or out}: {error.strerror or error}") from error
