"""Data arguments that lie: what `--data` names, parquet files and shards of any content."""

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hostile import bounded, damaged, fuzz, odd_text, outcome
from hypothesis import example, given
from hypothesis import strategies as st
from odd_files import encode, photograph

from perceptual_mae.data.decode import decode
from perceptual_mae.data.open import open_source
from perceptual_mae.data.types import BrokenImage
from perceptual_mae.data.wds import expand_braces
from perceptual_mae.errors import UsageError

PNG = encode(photograph((8, 6)), "PNG")


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`datasets` writes what it reads to a cache."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    yield
    datasets.config.HF_DATASETS_CACHE = before


def used(spec: str) -> None:
    """What training does with a data argument: labels, names, fingerprint, and every image."""
    for split in ("train", "validation"):
        source = open_source(spec, split)
        if source is None:
            continue
        source.fingerprint()
        for index in range(min(len(source), 5)):
            item = source[index]
            assert item.name.isprintable()
            assert item.label >= -1
            assert not source.classes or item.label < len(source.classes)
            outcome(lambda data=item.data: decode(data), BrokenImage)


# -- names -------------------------------------------------------------------------------------------------------------

PREFIXES = st.sampled_from(["", "wds:", "wds:a/", "hub:", "./", "~", "s3://"])
PREFIXED = st.builds(str.__add__, PREFIXES, odd_text).filter(lambda spec: not re.fullmatch(r"(wds:)?[./~*]*", spec))
"""Without what names the whole disk."""


@fuzz(120)
@given(spec=PREFIXED)
@example(spec="wds:{0..99999999999}.tar")
@example(spec="wds:{0..9}" + "{0..9}" * 30)
@example(spec="wds:" + "{a,b}" * 40 + ".tar")
@example(spec="wds:" + "{" * 2000 + "}" * 2000)
@example(spec="wds:" + "{a}" * 2000)
@example(spec="wds:{" + "9" * 5000 + ".." + "9" * 5001 + "}")
@example(spec="wds:{²..³}.tar")
@example(spec="wds:*\0*")
@example(spec="wds:a\0b")
@example(spec="wds:*\ud800")
@example(spec="wds:\ud800")
@example(spec="wds:" + "*/" * 500 + "x")
@example(spec="wds:~nosuchuser/*.tar")
@example(spec="hub:a/b:c:d")
@example(spec="hub:\0/\0")
@example(spec="hub:" + "a" * 300 + "/b")
@example(spec="hub:../../x")
@example(spec="x" * 300)
@example(spec="x/" * 3000)
@example(spec="\0")
@example(spec="\ud800")
def test_anything_that_data_may_name(spec: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.getbasetemp())
        outcome(lambda: used(spec), typed=spec.removeprefix("wds:"))


@given(
    first=st.integers(0, 30), more=st.integers(0, 30), width=st.integers(1, 4), tail=st.sampled_from(["", ".tar", "/x"])
)
def test_braces_count_as_a_shell_counts(first: int, more: int, width: int, tail: str) -> None:
    low, high = str(first).zfill(width), str(first + more).zfill(width)
    assert expand_braces(f"s{{{low}..{high}}}{tail}") == [
        f"s{number:0{width}d}{tail}" for number in range(first, first + more + 1)
    ]
    assert expand_braces(f"{{{low},b}}{{c,{high}}}") == [f"{low}c", f"{low}{high}", "bc", f"b{high}"]


def test_too_many_shards_are_refused_at_once() -> None:
    with bounded(), pytest.raises(UsageError, match="more than"):
        expand_braces("{0..999}" * 3)


# -- parquet -----------------------------------------------------------------------------------------------------------

IMAGES: tuple[pa.Array, ...] = (
    pa.array([PNG, PNG, b"", None]),
    pa.array([PNG, PNG, b"x", None], pa.large_binary()),
    pa.array(
        [{"bytes": PNG, "path": None}, {"bytes": None, "path": "/dev/zero"}, {"bytes": None, "path": "a\0b"}, None]
    ),
    pa.array([{"bytes": PNG, "path": 5}, {"bytes": None, "path": 7}, None, None]),
    pa.array([{"bytes": PNG}, {"bytes": None}, None, {"bytes": b""}]),
    pa.array([{"path": "/etc"}, {"path": "x"}, None, {"path": ""}]),
    pa.array([{"bytes": {"bytes": PNG}}] * 4),
    pa.array([[PNG], [PNG, PNG], [], None]),
    pa.array([b"abcd"] * 4, pa.binary(4)),
    pa.array([PNG] * 4).dictionary_encode(),
    pa.array(["a", "b", "/etc/passwd", None]),
    pa.array([None] * 4),
    pa.array([PNG] * 4, pa.binary_view()),
)
TEXTS = (["²", "1", "9", None], ["9" * 5000, "1", "2", "3"], ["a\nb", "\0", "", "a"], ["٣", "1", "-1", " 1"])
NUMBERS = ([None] * 4, [True, False, None, True], [1, 2, 3, None], [-5, 0, 1, 2], [10**9, 0, 0, 0])
LABELS: tuple[pa.Array | None, ...] = (
    None,
    *map(pa.array, TEXTS),
    *map(pa.array, NUMBERS),
    pa.array([2**63, 2**64 - 1, 0, None], pa.uint64()),
    pa.array(["a", "b", "a", None]).dictionary_encode(),
    pa.array([1.5, float("nan"), 0.0, None]),
    pa.array([["a"], ["b"], [], None]),
    pa.array([[1], [2, 3], [], None]),
    pa.array(["a", "b", "a", None], pa.string_view()),
)
COLUMNS = st.sampled_from(["image", "jpg", "img", "bytes", "x", "", "a\nb", "🖼", "image.bytes", "\x1b[31m"])
HINTS: tuple[bytes, ...] = (
    b"{",
    b"[]",
    b'{"info": {"features": {"image": {"_type": "Image"}}}}',
    b'{"info": {"features": {"image": {"_type": "Value", "dtype": "nonsense"}}}}',
    b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["only one"]}, "image": {"_type": "Image"}}}}',
    b'{"info": {"features": 3}}',
    b'{"info": ' + b"[" * 5000,
)


@fuzz(35)
@given(
    image=st.sampled_from(IMAGES),
    label=st.sampled_from(LABELS),
    names=st.tuples(COLUMNS, st.sampled_from(["label", "cls", "y", "labels"])),
    hint=st.none() | st.none() | st.none() | st.sampled_from(HINTS),
)
def test_parquet_of_any_columns(
    image: pa.Array,
    label: pa.Array | None,
    names: tuple[str, str],
    hint: bytes | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    file = tmp_path_factory.mktemp("parquet") / "images.parquet"
    if write(file, image, label, names, hint):
        outcome(lambda: used(str(file)))


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: str(image.type)[:40])
def test_parquet_with_images_of_any_type(image: pa.Array, tmp_path: Path) -> None:
    if write(tmp_path / "x.parquet", image):
        outcome(lambda: used(str(tmp_path)))


@pytest.mark.parametrize("label", LABELS[1:], ids=range(1, len(LABELS)))
def test_parquet_with_labels_of_any_type(label: pa.Array, tmp_path: Path) -> None:
    if write(tmp_path / "x.parquet", IMAGES[0], label):
        outcome(lambda: used(str(tmp_path)))


def write(
    file: Path,
    image: pa.Array,
    label: pa.Array | None = None,
    names: tuple[str, str] = ("image", "label"),
    hint: bytes | None = None,
) -> bool:
    """Write a table of images; False where not even Arrow writes such a file."""
    columns = {names[0]: image} | ({} if label is None else {names[1]: label})
    table = pa.table(columns)
    try:
        pyarrow.parquet.write_table(table.replace_schema_metadata({b"huggingface": hint} if hint else None), file)
    except pa.ArrowException:
        return False
    return True


def parquet_file() -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"image": [PNG] * 3, "label": ["a", "b", "a"]}), file)
    return file.getvalue()


PARQUET = parquet_file()


@fuzz(35)
@given(data=damaged(PARQUET) | st.binary(max_size=30).map(lambda middle: b"PAR1" + middle + b"PAR1"))
def test_damaged_parquet(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("parquet") / "images.parquet"
    file.write_bytes(data)
    outcome(lambda: used(str(file)))
    outcome(lambda: used(str(file.parent)))


# -- shards ------------------------------------------------------------------------------------------------------------


def tar(members: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


GOOD_SHARD = tar([("0.png", PNG), ("0.cls", b"1"), ("1.png", PNG), ("1.cls", b"0")])
MEMBER_NAMES = ("0.png", "0.cls", "1.png", "1.jpg", "0.json", "0.npy", "0.txt", "../x.png", "/etc/x.png", ".png")
MEMBER_DATA = (PNG, b"", b"1", b"x", b"{", b"[" * 5000, b"\x80\x04N.", b"\x93NUMPY\x01\0", b"9" * 5000)
MEMBERS = st.lists(
    st.tuples(st.sampled_from(MEMBER_NAMES) | odd_text.filter(str.isprintable), st.sampled_from(MEMBER_DATA)),
    max_size=5,
)


@fuzz(35)
@given(data=MEMBERS.map(tar) | MEMBERS.map(tar) | damaged(GOOD_SHARD))
@example(data=GOOD_SHARD)
@example(data=tar([("0.png", PNG), ("0.cls", b"9" * 5000)]))
@example(data=tar([("0.png", PNG), ("0.cls", "²".encode()), ("1.png", PNG), ("1.cls", b"1")]))
@example(data=tar([("0.pkl", b"cos\nsystem\n(S'touch /tmp/owned'\ntR."), ("0.png", PNG)]))
def test_shards_of_anything(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("shards") / "000.tar"
    file.write_bytes(data)
    outcome(lambda: used(f"wds:{file}"))
    assert not Path("/tmp/owned").exists()
