"""Pickled modules are read as `torch.save` wrote them, and nothing that a pickle says is ever done."""

import copyreg
import os
import pickle
import random
import re
import subprocess
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from perceptual_mae.dvae_file import CLASSES as DVAE
from perceptual_mae.errors import PmaeError
from perceptual_mae.foreign_pickle import read_module

CLASSES = {
    f"{kind.__module__}.{kind.__name__}"
    for kind in (nn.Sequential, nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Identity)
}


def archive(path: Path, program: bytes, records: dict[str, bytes] | None = None) -> Path:
    """A zip as `torch.save` writes it, with any program in it."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {"data.pkl": program, **(records or {})}.items():
            file.writestr(f"archive/{name}", data)
    return path


def refusal(path: Path) -> str:
    """The one line that is said of a file."""
    with pytest.raises(PmaeError) as caught:
        read_module(path, CLASSES)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith("; nothing of it was executed")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 250
    return message.removeprefix(str(path))


# -- what is read ------------------------------------------------------------------------------------------------------


def test_the_reference_file(golden: Path) -> None:
    read = read_module(golden / "dvae_encoder_small.pkl", DVAE)
    reference = load_file(golden / "dvae_reference.safetensors")
    expected = {k.removeprefix("encoder."): t for k, t in reference.items() if k.startswith("encoder.")}
    assert read.keys() == expected.keys()
    for name, tensor in read.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name].float())


def whole(tmp_path: Path) -> tuple[Path, nn.Module]:
    """A file with parameters and buffers of several types, strides and depths."""
    torch.manual_seed(0)
    module = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 4, 3, bias=False),
            norm=nn.BatchNorm2d(4),
            relu=nn.ReLU(),
            deep=nn.Sequential(nn.Linear(5, 2).half(), nn.Linear(2, 3).double(), nn.Linear(2, 2).bfloat16()),
        )
    )
    module.conv.weight.data = module.conv.weight.data.permute(1, 0, 3, 2)
    module.norm.running_mean.add_(torch.rand(4))
    torch.save(module, tmp_path / "module.pkl")
    return tmp_path / "module.pkl", module


def test_whatever_torch_saves_of_a_module(tmp_path: Path) -> None:
    path, module = whole(tmp_path)
    read, expected = read_module(path, CLASSES), module.state_dict()
    assert list(read) == list(expected)
    for name, tensor in read.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])


@settings(max_examples=30, deadline=None)
@given(size=st.lists(st.integers(0, 4), max_size=4), offset=st.integers(0, 3), data=st.data())
def test_any_view(tmp_path_factory: pytest.TempPathFactory, size: list[int], offset: int, data: Any) -> None:
    count = torch.Size(size).numel()
    order = data.draw(st.permutations(range(len(size))))
    module = nn.Identity()
    module.register_buffer("view", torch.arange(offset + count + 2)[offset : offset + count].view(size).permute(order))
    path = tmp_path_factory.getbasetemp() / "view.pkl"
    torch.save(module, path)
    assert torch.equal(read_module(path, CLASSES)["view"], module.view)


# -- pickles that want something done ----------------------------------------------------------------------------------


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def load_another(marker: Path) -> Call:
    inner = marker.with_name("inner.pkl")
    torch.save(Call(os.system, f"touch {marker}"), inner)
    return Call(torch.load, inner.as_posix())


PAYLOADS: dict[str, Callable[[Path], Call]] = {
    "system": lambda marker: Call(os.system, f"touch {marker}"),
    "eval": lambda marker: Call(eval, f"open({str(marker)!r}, 'w').close()"),
    "exec": lambda marker: Call(exec, f"open({str(marker)!r}, 'w').close()"),
    "call": lambda marker: Call(subprocess.call, ["touch", str(marker)]),
    "load": load_another,
}
"""By the name that is refused, pickles that leave a marker when they are obeyed."""


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_function_is_called(tmp_path: Path, name: str, protocol: int) -> None:
    marker = tmp_path / "executed"
    call = PAYLOADS[name](marker)
    nested = {"_parameters": OrderedDict(w=[("deep", call)])}
    alone, within = pickle.dumps(call, protocol), pickle.dumps(nested, protocol)
    for program in (alone, within):
        assert f".{name}, which is refused" in refusal(archive(tmp_path / "hostile.pkl", program))
        (tmp_path / "raw.pkl").write_bytes(program)
        refusal(tmp_path / "raw.pkl")
    module = nn.Sequential(nn.Linear(2, 2))
    module[0].__dict__["extra"] = call
    torch.save(module, tmp_path / "module.pkl", pickle_protocol=max(protocol, 2))
    assert f".{name}, which is refused" in refusal(tmp_path / "module.pkl")
    assert not marker.exists()

    if name != "load":  # which reads a file that this PyTorch refuses by itself
        pickle.loads(alone)
        assert marker.exists(), "the pickle was no danger, so this test shows nothing"


def global_on_stack(module: str, name: str) -> bytes:
    """The name as protocol 4 has it, in which dots lead into what the name stands for."""
    words = [b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)]
    return b"\x80\x04" + b"".join(words) + b"\x93."


RAW = {
    "INST": b"(S'touch %b'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch %b'\no.",
    "dotted name": global_on_stack("collections", "OrderedDict.__init__"),
    "dotted function": global_on_stack("torch._utils", "_rebuild_parameter.__globals__"),
    "other Encoder": b"cdall_e.encoder\nEncoder\n.",
    "control characters": b"cos\x1b[31m\nsys\x07tem\n.",
    "long name": b"c" + 5000 * b"a" + b"\nb\n.",
}


@pytest.mark.parametrize("name", RAW)
def test_no_other_name_is_known(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "executed"
    program = RAW[name].replace(b"%b", str(marker).encode())
    assert "which is refused" in refusal(archive(tmp_path / "hostile.pkl", program))
    assert not marker.exists()


def test_extension_codes_are_refused(tmp_path: Path) -> None:
    copyreg.add_extension("posix", "system", 240)
    try:
        marker = tmp_path / "executed"
        program = pickle.dumps(Call(os.system, f"touch {marker}"), 2)
        pickle.loads(program)  # now Python knows the function by its code and asks no unpickler for its name
        marker.unlink()
        assert "extension codes" in refusal(archive(tmp_path / "hostile.pkl", program))
        assert not marker.exists()
    finally:
        copyreg.remove_extension("posix", "system", 240)


STATES = {
    "attributes": b"}(X\x03\x00\x00\x00fooK\x01u",
    "slots": b"N}(X\x03\x00\x00\x00fooK\x01u\x86",
    "class": b"N}(X\x09\x00\x00\x00__class__ccollections\nOrderedDict\nu\x86",
    "setstate": b"N}(X\x0c\x00\x00\x00__setstate__ccollections\nOrderedDict\nu\x86",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "name",
    [
        b"torch.nn.modules.linear\nIdentity\n",
        b"torch\nFloatStorage\n",
        b"torch\ndevice\n",
        b"__builtin__\nset\n",
        b"collections\nOrderedDict\n",
        b"collections\nOrderedDict\n)R",  # an instance
        b"torch._utils\n_rebuild_tensor_v2\n",
        b"torch._utils\n_rebuild_parameter\n",
    ],
)
def test_what_names_stand_for_cannot_be_changed(tmp_path: Path, name: bytes, state: str) -> None:
    program = b"\x80\x02c" + name + STATES[state] + b"b."
    assert "damaged, or no pickled module" in refusal(archive(tmp_path / "hostile.pkl", program))


def test_an_endless_memory_is_refused(tmp_path: Path) -> None:
    program = b"\x80\x02Nr" + (2**32 - 1).to_bytes(4, "little") + b"."
    assert "remembers more objects than it has" in refusal(archive(tmp_path / "bomb.pkl", program))


# -- modules that are not what they should be --------------------------------------------------------------------------


def test_a_module_twice_or_within_itself(tmp_path: Path) -> None:
    laughs: nn.Module = nn.ReLU()
    for _ in range(60):
        laughs = nn.Sequential(laughs, laughs)
    itself = nn.Sequential(nn.ReLU())
    itself._modules["me"] = itself
    for module in (laughs, itself):
        torch.save(module, tmp_path / "module.pkl")
        assert "is in it twice" in refusal(tmp_path / "module.pkl")


def test_a_class_that_is_not_expected(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2), nn.GELU()), tmp_path / "module.pkl")
    assert "holds torch.nn.modules.activation.GELU, which is refused" in refusal(tmp_path / "module.pkl")


@pytest.mark.parametrize("value", [{"w": torch.ones(2)}, [1, 2], None, torch.ones(2)])
def test_no_module(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "module.pkl")
    assert "what is in it is no module" in refusal(tmp_path / "module.pkl")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"_parameters": {"w": 3}}, "0.w in it is no tensor"),
        ({"_parameters": [1]}, "has no _parameters"),
        ({"_parameters": {3: None}}, "has no _parameters"),
        ({"_buffers": None}, "has no _buffers"),
        ({"_modules": {"part": torch.ones(2)}}, "its part '?0.part'? is no module"),
    ],
)
def test_parts_of_another_type(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    module = nn.Sequential(nn.Identity())
    module[0].__dict__.update(change)
    torch.save(module, tmp_path / "module.pkl")
    assert complaint.replace("'?", "") in refusal(tmp_path / "module.pkl")


def test_tensors_that_share_a_storage(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    torch.save(module, tmp_path / "module.pkl")
    assert "1.weight shares its numbers" in refusal(tmp_path / "module.pkl")


# -- tensors that claim what they do not have --------------------------------------------------------------------------


class Numbers:
    """Pickles as a storage."""


class Writer(pickle.Pickler):
    """Pickles a storage as a file with six float32 numbers claims it."""

    claim: tuple[Any, ...] = ("storage", torch.FloatStorage, "0", "cpu", 6)

    def persistent_id(self, thing: object) -> Any:
        return self.claim if isinstance(thing, Numbers) else None


def claiming(path: Path, *view: Any, storage: object = None, claim: tuple[Any, ...] = Writer.claim) -> Path:
    """A module with one tensor, whose (offset, size, stride) and storage are what the pickle says they are."""
    module = nn.Identity()
    storage = Numbers() if storage is None else storage
    module._buffers["b"] = Call(torch._utils._rebuild_tensor_v2, storage, *view, False, {})  # type: ignore[assignment]
    with path.with_suffix(".program").open("wb") as file:
        writer = Writer(file, 2)
        writer.claim = claim
        writer.dump(module)
    program = path.with_suffix(".program").read_bytes()
    return archive(path, program, {"data/0": torch.arange(6.0).numpy().tobytes(), "byteorder": b"little"})


def test_a_view_that_fits(tmp_path: Path) -> None:
    read: dict[str, Tensor] = read_module(claiming(tmp_path / "view.pkl", 1, (2, 2), (2, 1)), CLASSES)
    assert read["b"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "view",
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (0, (2, 3), (4, 1)),
        (6, (1,), (1,)),
        (0, (10**12,), (0,)),
        (0, (10**6, 10**6), (0, 0)),
        (0, (2,), (10**30,)),
    ],
)
def test_views_that_reach_too_far(tmp_path: Path, view: tuple[Any, ...]) -> None:
    assert "b reaches beyond its 6 numbers" in refusal(claiming(tmp_path / "view.pkl", *view))


@pytest.mark.parametrize(
    "view",
    [
        (-1, (2,), (1,)),
        (3, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2, 2), (1,)),
        (0, (2.0,), (1,)),
        (0, "ab", "cd"),
        (None, (2,), (1,)),
        (0, (1,) * 9, (1,) * 9),
    ],
)
def test_views_that_are_none(tmp_path: Path, view: tuple[Any, ...]) -> None:
    assert "b has no proper shape" in refusal(claiming(tmp_path / "view.pkl", *view))


@pytest.mark.parametrize(
    ("claim", "complaint"),
    [
        (("storage", torch.FloatStorage, "0", "cpu", 10**12), "needs 1000000000000 x 4 bytes and has 24"),
        (("storage", torch.FloatStorage, "0", "cpu", -1), "needs -1 x 4 bytes"),
        (("storage", torch.DoubleStorage, "0", "cpu", 6), "needs 6 x 8 bytes"),
        (("storage", torch.FloatStorage, "1", "cpu", 6), "lacks 'data/1'"),
        (("storage", torch.FloatStorage, "../data.pkl", "cpu", 6), "lacks"),
        (("storage", OrderedDict, "0", "cpu", 6), "no storage"),
        (("storage", torch.FloatStorage, "0", "cpu", 6.0), "no storage"),
        (("module", torch.FloatStorage, "0", "cpu", 6), "no storage"),
    ],
)
def test_storages_that_are_not_there(tmp_path: Path, claim: tuple[Any, ...], complaint: str) -> None:
    assert complaint in refusal(claiming(tmp_path / "storage.pkl", 0, (2,), (1,), claim=claim))


def test_a_tensor_of_no_storage(tmp_path: Path) -> None:
    assert "b in it is no tensor" in refusal(claiming(tmp_path / "storage.pkl", 0, (2,), (1,), storage="text"))


# -- files that are not what they should be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no zip archive"),
        (b"A plain text.\n", "no zip archive"),
        (b"PK", "damaged"),
        (b"PK\x03\x04" + 300 * b"x", "damaged"),
        (pickle.dumps({"w": 1}, 2), "not in the zip format"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "other.pkl").write_bytes(content)
    assert complaint in refusal(tmp_path / "other.pkl")


def test_the_format_before_the_zip(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    assert "not in the zip format that torch.save has had since PyTorch 1.6" in refusal(tmp_path / "old.pkl")


def test_zips_of_something_else(tmp_path: Path) -> None:
    for number, names in enumerate((["readme.txt"], ["data.pkl"], ["a/b/data.pkl"], ["a/data.pkl", "b/data.pkl"])):
        with zipfile.ZipFile(tmp_path / f"{number}.pkl", "w") as file:
            for name in names:
                file.writestr(name, b"N.")
        assert "no data.pkl in it" in refusal(tmp_path / f"{number}.pkl")


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pkl", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"N" * 10**6 + b".")
    assert "'data.pkl' is compressed or too long" in refusal(tmp_path / "bomb.pkl")
    path, _ = whole(tmp_path)
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(tmp_path / "packed.pkl", "w", zipfile.ZIP_LZMA) as packed:
        for name in file.namelist():
            packed.writestr(name, file.read(name), zipfile.ZIP_LZMA if name.endswith("data/0") else None)
        packed.writestr("module/padding", random.Random(0).randbytes(10_000))
    assert "is compressed or too long" in refusal(tmp_path / "packed.pkl")


def test_overlapping_files_are_refused(tmp_path: Path) -> None:
    """A storage that lies within another one: many such would be many times the file."""
    numbers = torch.arange(10_000, dtype=torch.float32).numpy().tobytes()
    inner = zipfile.ZipInfo("archive/data/1")
    inner.CRC, inner.compress_size, inner.file_size = zlib.crc32(numbers), len(numbers), len(numbers)
    outer = inner.FileHeader() + numbers
    module = nn.Linear(1, 10_000)
    module.weight.data = torch.zeros(len(outer) // 4)
    torch.save(module, tmp_path / "module.pkl")
    with zipfile.ZipFile(tmp_path / "module.pkl") as file:
        program = file.read("module/data.pkl")
    with zipfile.ZipFile(tmp_path / "bomb.pkl", "w") as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/data/0", outer)
        inner.header_offset = file.filelist[-1].header_offset + len(file.filelist[-1].FileHeader())
        file.filelist.append(inner)
    with zipfile.ZipFile(tmp_path / "bomb.pkl") as file:
        assert file.getinfo("archive/data/1").file_size == len(numbers)
    # By Python itself since 3.12.2, which calls it damaged.
    assert re.search("compressed or too long|Overlap", refusal(tmp_path / "bomb.pkl"))


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    path, _ = whole(tmp_path)
    with zipfile.ZipFile(path) as file:
        records = {info.filename.split("/", 1)[1]: file.read(info) for info in file.infolist()}
    program = records.pop("data.pkl")
    archive(tmp_path / "same.pkl", program, records)
    assert read_module(tmp_path / "same.pkl", CLASSES)
    archive(tmp_path / "big.pkl", program, records | {"byteorder": b"big"})
    assert "big-endian" in refusal(tmp_path / "big.pkl")


def test_a_file_that_was_cut_short_or_changed(tmp_path: Path) -> None:
    path, module = whole(tmp_path)
    content, generator = path.read_bytes(), random.Random(0)
    damaged = tmp_path / "damaged.pkl"
    for length in (3, 100, len(content) // 2, len(content) - 30):
        damaged.write_bytes(content[:length])
        assert "damaged" in refusal(damaged)
    for _ in range(150):
        place = generator.randrange(len(content))
        flipped = bytes([content[place] ^ 1 << generator.randrange(8)])
        damaged.write_bytes(content[:place] + flipped + content[place + 1 :])
        try:
            read = read_module(damaged, CLASSES)
        except PmaeError:
            continue
        # Between the parts of a zip are bytes that mean nothing.
        assert all(torch.equal(read[name], tensor) for name, tensor in module.state_dict().items())
