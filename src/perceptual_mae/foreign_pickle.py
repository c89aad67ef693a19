"""Reading a pickled PyTorch module without executing anything that the pickle says.

A pickle is a program: it names functions, and to unpickle it is to call them. Here names stand for nothing but what is
listed below: a module is a stand-in that keeps its state, a tensor is a note of where its numbers are, and any other
name is refused. The numbers are read from the archive afterwards, when nothing of the pickle runs any more.
"""

import errno
import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from perceptual_mae.errors import PmaeError

_DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_LONGEST = 1 << 24
"""Bytes of the longest pickle that is read. The tensors are not in it: tens of thousands are usual."""


def read_module(path: Path, classes: Collection[str]) -> dict[str, Tensor]:
    """The state dict of a module that `torch.save` wrote as a whole (the zip format, PyTorch 1.6 and later).

    Args:
        path: the file.
        classes: full names of the module's class and those of its parts, such as `torch.nn.modules.linear.Identity`.

    Returns:
        parameters and buffers by name, in the file's own dtypes, on the CPU.

    Raises:
        PmaeError: it is no such file, is damaged, or names anything else. Nothing of it was executed.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(2)
        if begin != b"PK":
            old = "a pickle, but not in the zip format that torch.save has had since PyTorch 1.6"
            what = old if begin.startswith(b"\x80") else "no zip archive, so torch.save did not write it"
            raise PmaeError(f"{path}: {what}; nothing of it was executed")
        with zipfile.ZipFile(path) as archive:
            return dict(_Reader(path, archive, classes).read())
    except PmaeError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # which is to look for a part of the archive before its beginning
            raise
        raise PmaeError(f"{path}: damaged: a part of it lies nowhere; nothing of it was executed") from error
    except Exception as error:  # what the bytes of a damaged or hostile file raise is anybody's guess
        reason = f"{type(error).__name__}: {ascii(str(error))[1:80]}"
        raise PmaeError(f"{path}: damaged, or no pickled module ({reason}); nothing of it was executed") from error


# -- what names in a pickle stand for ----------------------------------------------------------------------------------
#
# A class that only has a state, instances without any attributes, and a type of Python's own: nothing on them could be
# called or changed by a pickle.


class _Storage(NamedTuple):
    """A run of numbers in the archive: `data/<key>`."""

    dtype: torch.dtype
    key: str
    length: int


class _Note(NamedTuple):
    """Where the numbers of a tensor are. From the pickle: to be believed only when it has been checked."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class _Module:
    """Stands for a module of any class: takes no arguments, does nothing, keeps the state that the pickle gives it.

    A pickle cannot give one to the class itself: `__setstate__` is asked first, and then lacks an argument.
    """

    __slots__ = ("state",)

    def __setstate__(self, state: object) -> None:
        self.state = state


class _RebuildTensor:
    """Stands for `torch._utils._rebuild_tensor_v2`."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Note:
        return _Note(storage, offset, size, stride)


class _RebuildParameter:
    """Stands for `torch._utils._rebuild_parameter`."""

    __slots__ = ()

    def __call__(self, data: Any, *_: Any) -> Any:
        return data


class _Nothing:
    """Stands for what no state dict needs: calling it comes to None."""

    __slots__ = ()

    def __call__(self, *_: Any) -> None:
        return None


_ADMITTED: dict[str, Any] = _DTYPES | {
    "collections.OrderedDict": dict,
    "torch._utils._rebuild_tensor_v2": _RebuildTensor(),
    "torch._utils._rebuild_parameter": _RebuildParameter(),
    "torch.device": _Nothing(),
    "__builtin__.set": _Nothing(),
    "builtins.set": _Nothing(),
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, program: bytes, path: Path, classes: Collection[str]) -> None:
        super().__init__(io.BytesIO(program))
        self.path, self.classes = path, classes

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for. Compared as a whole, so that a dotted name leads nowhere."""
        full = f"{module}.{name}"
        if full in self.classes:
            return _Module
        if full not in _ADMITTED:
            shown = ascii(full)[1:-1][:100]  # a file may hold control characters
            raise PmaeError(f"{self.path} holds {shown}, which is refused; nothing of it was executed")
        return _ADMITTED[full]

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", torch.dtype() as dtype, str() as key, _, int() as length):
                return _Storage(dtype, key, length)
        raise pickle.UnpicklingError("a reference to something that is no storage")


class _Reader:
    """Reads the module in an archive of `torch.save`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, classes: Collection[str]) -> None:
        self.path, self.archive, self.classes = path, archive, classes
        self.bytes_left = path.stat().st_size
        self.modules_read: set[int] = set()
        self.storages_read: set[str] = set()
        programs = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(programs) != 1:
            raise self.wrong("no data.pkl in it, or several, so torch.save did not write it")
        self.root = programs[0].removesuffix("data.pkl")

    def wrong(self, what: str) -> PmaeError:
        return PmaeError(f"{self.path}: {what}; nothing of it was executed")

    def read(self) -> Iterator[tuple[str, Tensor]]:
        program = self.record("data.pkl", _LONGEST)
        self.scan(program)
        module = _Unpickler(program, self.path, self.classes).load()
        if f"{self.root}byteorder" in self.archive.namelist() and self.record("byteorder", 16) != b"little":
            raise self.wrong("written by a big-endian machine, which is not read")
        yield from self.state(module, "")

    def scan(self, program: bytes) -> None:
        """Refuse, before anything is unpickled, what would be no name at all or ask for gigabytes."""
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name.startswith("EXT"):
                raise self.wrong("a pickle with extension codes, which are refused")
            # Python keeps a table of what a pickle remembers, up to the highest index.
            if opcode.name.endswith("PUT") and int(argument or 0) > len(program):
                raise self.wrong("damaged: it remembers more objects than it has")

    def record(self, name: str, longest: int | None = None) -> bytes:
        """The bytes of a file of the archive; of all that are read together no more than the archive itself has."""
        try:
            info = self.archive.getinfo(f"{self.root}{name}")
        except KeyError:
            raise self.wrong(f"damaged: it lacks {ascii(name)[:100]}") from None
        allowed = min(longest or self.bytes_left, self.bytes_left)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > allowed:
            raise self.wrong(f"its {ascii(name)[:100]} is compressed or too long, so torch.save did not write it")
        self.bytes_left -= info.file_size
        return self.archive.read(info)

    def state(self, module: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers of a stand-in and of its parts, as `nn.Module.state_dict` would give them."""
        state = getattr(module, "state", None)
        shown = f"its part {ascii(prefix)[1:-2][:100]}" if prefix else "what is in it"
        if not isinstance(module, _Module) or not isinstance(state, dict):
            raise self.wrong(f"{shown} is no module")
        if id(module) in self.modules_read:  # parts of parts of parts, each twice, would be endless work
            raise self.wrong(f"{shown} is in it twice")
        self.modules_read.add(id(module))
        for name, note in (self.entries(state, "_parameters") | self.entries(state, "_buffers")).items():
            yield f"{prefix}{name}", self.tensor(note, f"{prefix}{name}")
        for name, part in self.entries(state, "_modules").items():
            yield from self.state(part, f"{prefix}{name}.")

    def entries(self, state: dict[Any, Any], holder: str) -> dict[str, Any]:
        entries = state.get(holder)
        if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
            raise self.wrong(f"a module in it has no {holder}")
        return {name: entry for name, entry in entries.items() if entry is not None}

    def tensor(self, note: object, name: str) -> Tensor:
        """The tensor that a note tells of, if all of it lies within its storage."""
        shown = ascii(name)[1:-1][:100]
        if not isinstance(note, _Note) or not isinstance(note.storage, _Storage):
            raise self.wrong(f"{shown} in it is no tensor")
        dtype, key, length = note.storage
        if key in self.storages_read:  # each once: what is read is then no more than the file
            raise self.wrong(f"{shown} shares its numbers with another tensor, which is not read")
        self.storages_read.add(key)
        data = self.record(f"data/{key}")
        if length < 0 or len(data) != length * dtype.itemsize:
            raise self.wrong(f"damaged: {shown} needs {length} x {dtype.itemsize} bytes and has {len(data)}")
        offset, size, stride = note.offset, note.size, note.stride
        shaped = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 8
        if not shaped or not all(isinstance(number, int) and number >= 0 for number in (offset, *size, *stride)):
            raise self.wrong(f"damaged: {shown} has no proper shape")
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        count = math.prod(size)
        if count > length or (count and last >= length):
            raise self.wrong(f"damaged: {shown} reaches beyond its {length} numbers")
        if not count:
            return torch.empty(size, dtype=dtype)
        return torch.frombuffer(bytearray(data), dtype=dtype).as_strided(size, stride, offset).contiguous()
