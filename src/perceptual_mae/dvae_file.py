"""Files with the weights of DALL-E's encoder: the published pickle, and the safetensors that is made of it."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.files import write_atomically
from perceptual_mae.foreign_pickle import read_module
from perceptual_mae.models.dvae import HEAD, DvaeEncoder

PUBLISHED_AT = "https://cdn.openai.com/dall-e/encoder.pkl"
PUBLISHED_WEIGHTS = 53_786_240
"""Numbers in the published encoder, with its output head."""
CLASSES = (
    "dall_e.encoder.Encoder",
    "dall_e.encoder.EncoderBlock",
    "dall_e.utils.Conv2d",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.pooling.MaxPool2d",
)
"""What the published module consists of."""
_SIZES = ("n_hid", "n_blk_per_group", "group_count", "vocab_size", "input_channels")


@dataclass(frozen=True)
class Converted:
    """What was written where.

    Attributes:
        path: the safetensors file.
        tensors: how many there are in it.
        weights: numbers in them.
    """

    path: Path
    tensors: int
    weights: int

    def __str__(self) -> str:
        published = f"the published encoder has {PUBLISHED_WEIGHTS:,}"
        what = "as many as the published encoder" if self.weights == PUBLISHED_WEIGHTS else f"another one: {published}"
        return f"{self.path}: {self.tensors} tensors, {self.weights:,} weights ({what})"


def read(path: Path) -> dict[str, Tensor]:
    """The weights in a file, safetensors or the published pickle; which of the two it says itself.

    Raises:
        PmaeError: it is neither, is damaged, or a pickle with anything in it but the encoder (nothing is executed).
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        begin = file.read(9)
    if begin[8:] == b"{":  # safetensors: the length of a JSON header, then the header
        try:
            return load_file(path)
        except SafetensorError as error:
            raise PmaeError(f"{path}: damaged: {_line(error)}") from error
    return read_module(path, CLASSES)


def open_encoder(path: Path, head: bool = False) -> DvaeEncoder:
    """The encoder in a file, in float32; with its output head if asked for.

    Raises:
        PmaeError, OSError: see `read`; or the weights are of something else.
    """
    return _encoder(path, read(path), head)


def convert(pickled: Path, out: Path) -> Converted:
    """Make a safetensors file of the published pickle: the same tensors, its sizes in the metadata.

    Raises:
        UsageError: `out` is the pickle itself.
        PmaeError, OSError: see `read`; or the weights are of something else. Then nothing is written.
    """
    if out.exists() and out.samefile(pickled):
        raise UsageError(f"{out}: this is the file to read; give another name to write to")
    state = read(pickled)
    encoder = _encoder(pickled, state, head=f"{HEAD}conv.w" in state)
    sizes = {name: str(getattr(encoder, name)) for name in _SIZES}
    try:
        write_atomically(out, lambda temporary: save_file(state, temporary, metadata={"format": "pt"} | sizes))
    except SafetensorError as error:  # the disk is full, for one
        raise PmaeError(f"{out}: {_line(error)}") from error
    return Converted(out, len(state), sum(tensor.numel() for tensor in state.values()))


def _encoder(path: Path, state: dict[str, Tensor], head: bool) -> DvaeEncoder:
    try:
        return DvaeEncoder.from_state_dict(state, head)
    except ValueError as error:
        raise PmaeError(f"{path}: {error}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
