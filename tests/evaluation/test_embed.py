"""Vectors in a parquet file: those of `extract`, whoever was killed and however many shared the work."""

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odd_files import encode, photograph
from test_features import Counted, Listed, in_another_process, small_encoder

from perceptual_mae.api import pretrain
from perceptual_mae.cli.main import main
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.evaluation.embed import Embedded, embed, skipped_list
from perceptual_mae.evaluation.features import extract
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.training.config import LoaderConfig

COLUMNS = ["path", "label", "label_id", "vector"]


@pytest.fixture(scope="module")
def source() -> Listed:
    return Listed()


@pytest.fixture
def encoder() -> Encoder:
    return small_encoder()


def made(encoder: Encoder, source: Listed, out: Path, **settings: Any) -> Embedded:
    written = embed(encoder, source, out, **({"images_per_part": 5, "batch_size": 2} | settings))
    assert written is not None
    return written


def vectors(out: Path) -> np.ndarray:
    column = pq.read_table(out)["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def same(ours: Path, theirs: Path) -> None:
    """Equal but for the last bits: images may have gone through the encoder in other company."""
    one, other = pq.read_table(ours), pq.read_table(theirs)
    assert one.schema.equals(other.schema, check_metadata=True)
    assert one.drop_columns("vector").equals(other.drop_columns("vector"))
    np.testing.assert_allclose(vectors(ours), vectors(theirs), atol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "mean", "both"])
def test_a_row_an_image_with_the_features_of_extract(
    encoder: Encoder, source: Listed, tmp_path: Path, pool: Any
) -> None:
    out = tmp_path / "folder" / "features.parquet"
    written = made(encoder, source, out, pool=pool)
    width = 48 if pool == "both" else 24
    assert written == Embedded(out, 21, width, 2, made=True)
    features = extract(encoder, source, cache=None)
    table = pq.read_table(out)
    assert table.column_names == COLUMNS
    assert table.schema.field("vector").type == pa.list_(pa.float32(), width)
    assert table["path"].to_pylist() == features.names
    assert table["label_id"].to_pylist() == features.labels.tolist()
    assert table["label"].to_pylist() == [source.classes[label] for label in features.labels.tolist()]
    # float16 has 11 bits.
    np.testing.assert_allclose(vectors(out), features.pooled(pool).numpy(), rtol=2**-11, atol=4e-6)
    lines = skipped_list(out).read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["image 4", "image 11"]
    assert all(line.split("\t")[1] for line in lines)
    assert sorted(path.name for path in out.parent.iterdir()) == ["features.parquet", "features.parquet.skipped.txt"]


def test_it_says_what_it_was_made_from(encoder: Encoder, source: Listed, tmp_path: Path) -> None:
    made(encoder, source, tmp_path / "out", block=-1)
    said = json.loads(pq.read_schema(tmp_path / "out").metadata[b"pmae"])
    expected = {"encoder": "vit 0", "data": "listed", "pool": "mean", "block": 1, "image_size": [16, 16], "skipped": 2}
    assert expected.items() <= said.items()
    assert np.allclose(said["mean"], (0.5, 0.4, 0.3))
    assert np.allclose(said["std"], (0.25, 0.2, 0.3))


def test_rows_come_in_groups(encoder: Encoder, source: Listed, tmp_path: Path) -> None:
    made(encoder, source, tmp_path / "out", batch_size=64)
    file = pq.ParquetFile(tmp_path / "out")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [4, 5, 4, 5, 3]


def test_images_without_labels(encoder: Encoder, tmp_path: Path) -> None:
    nameless = Listed(7, (3,), classes=(), labels=dict.fromkeys(range(7), -1))
    made(encoder, nameless, tmp_path / "out")
    table = pq.read_table(tmp_path / "out")
    assert table["label"].null_count == table["label_id"].null_count == len(table) == 6


def test_parts_in_which_nothing_can_be_read(encoder: Encoder, tmp_path: Path) -> None:
    written = made(encoder, Listed(9, (0, 1, 2, 3, 4)), tmp_path / "out")
    assert (written.images, written.skipped) == (4, 5)
    for _ in range(2):
        with pytest.raises(PmaeError, match=r"no image in listed could be read \(3 tried\)"):
            made(encoder, Listed(3, (0, 1, 2)), tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_was_killed_is_continued(encoder: Encoder, source: Listed, tmp_path: Path, workers: int) -> None:
    made(encoder, source, tmp_path / "whole")
    counted = Counted(encoder)
    counted.limit = 12
    with pytest.raises(KeyboardInterrupt):
        made(encoder, source, tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()
    parts = sorted((tmp_path / "out.parts").glob("part-*"))
    kept = sum(pq.read_metadata(part).num_rows for part in parts)
    assert [part.name for part in parts] == ["part-00000.parquet", "part-00001.parquet"]
    counted.seen, counted.limit = 0, 10**9
    told: list[tuple[int, int]] = []
    written = made(
        encoder, source, tmp_path / "out", batch_size=3, progress=lambda *numbers: told.append(numbers)
    )  # another batch size is the same output
    assert counted.seen == 21 - kept
    assert (told[0], told[-1]) == ((13, 23), (23, 23))
    assert written.made
    same(tmp_path / "out", tmp_path / "whole")
    assert not (tmp_path / "out.parts").exists()


def test_a_finished_output_costs_nothing(encoder: Encoder, source: Listed, tmp_path: Path) -> None:
    written = made(encoder, source, tmp_path / "out")
    before = (tmp_path / "out").stat().st_mtime_ns
    (tmp_path / "out.parts").mkdir()  # a kill between the last two steps
    counted = Counted(encoder)
    encoder.name = "elsewhere"
    again = made(encoder, source, tmp_path / "out")
    assert counted.seen == 0
    assert again == Embedded(written.path, 21, 24, 2, made=False)
    assert (tmp_path / "out").stat().st_mtime_ns == before
    assert not (tmp_path / "out.parts").exists()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pool": "cls"}, "pool mean, now cls"),
        ({"block": 0}, "block None, now 0"),
        ({"encoder": 1}, "another encoder"),
        ({"images": 20}, "other images"),
    ],
)
def test_another_output_is_refused(
    encoder: Encoder, source: Listed, tmp_path: Path, whole: bool, change: dict[str, Any], said: str
) -> None:
    if not whole:
        Counted(encoder).limit = 12
    with contextlib.suppress(KeyboardInterrupt):
        made(encoder, source, tmp_path / "out")
    settings = {"pool": "mean"} | change
    other, images = small_encoder(settings.pop("encoder", 0)), Listed(settings.pop("images", 23))
    place = "holds other vectors" if whole else "parts of other vectors are in .*out.parts"
    with pytest.raises(UsageError, match=rf"^--out .*out:? {place}.*\({re.escape(said)}\): delete"):
        made(other, images, tmp_path / "out", **settings)


def test_something_else_is_not_overwritten(encoder: Encoder, source: Listed, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("dear diary")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "table")
    for name in ("text", "table", "."):
        with pytest.raises(UsageError, match=r"there is something else of this name; name another file"):
            made(encoder, source, tmp_path / name)
    assert (tmp_path / "text").read_text() == "dear diary"
    with pytest.raises(PmaeError, match=r"^--out .*: not a directory"):
        made(encoder, source, tmp_path / "text" / "out")


@pytest.mark.parametrize("place", [2, 1 / 2, 1])
def test_a_damaged_part_is_made_again(encoder: Encoder, source: Listed, tmp_path: Path, place: float) -> None:
    made(encoder, source, tmp_path / "whole")
    Counted(encoder).limit = 12
    with pytest.raises(KeyboardInterrupt):
        made(encoder, source, tmp_path / "out")
    part = tmp_path / "out.parts" / "part-00001.parquet"
    content = part.read_bytes()
    # In the vectors, in the footer, or the end missing.
    at = {2: content.index(np.float32(vectors(part)[2, 3]).tobytes()), 1 / 2: len(content) - 20}.get(place)
    part.write_bytes(content[:-9] if at is None else content[:at] + b"\xff" + content[at + 1 :])
    encoder = small_encoder()
    if place == 2:
        with pytest.raises(PmaeError, match=r"part-00001.parquet was damaged and is deleted: run the same command"):
            made(encoder, source, tmp_path / "out")
    made(encoder, source, tmp_path / "out")
    same(tmp_path / "out", tmp_path / "whole")


def test_no_value_that_is_not_finite(encoder: Encoder, source: Listed, tmp_path: Path) -> None:
    encoder.network.norm.weight.data[3] = np.inf
    with pytest.raises(PmaeError, match=r"vit 0 gives features of image 0 that are not finite"):
        made(encoder, source, tmp_path / "out")


# -- several processes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [2, 7])
def test_processes_share_the_parts(encoder: Encoder, source: Listed, tmp_path: Path, processes: int) -> None:
    made(encoder, source, tmp_path / "whole")
    counted = Counted(encoder)
    settings: dict[str, Any] = {"images_per_part": 5, "batch_size": 2, "world_size": processes}
    children = [
        in_another_process(lambda rank=rank: embed(encoder, source, tmp_path / "out", rank=rank, **settings))
        for rank in range(1, processes)
    ]
    written = embed(encoder, source, tmp_path / "out", rank=0, patience=20, **settings)
    for child in children:
        os.waitpid(child, 0)
    assert written == Embedded(tmp_path / "out", 21, 24, 2, made=True)
    same(tmp_path / "out", tmp_path / "whole")
    assert counted.seen == {2: 4 + 4 + 3, 7: 4}[processes]  # parts 0, 2, 4; part 0
    assert not (tmp_path / "out.parts").exists()
    # Late ones find it done.
    assert embed(encoder, source, tmp_path / "out", rank=1, **settings) is None
    assert not (tmp_path / "out.parts").exists()


def test_a_process_that_saw_no_output_just_before_there_was_one(
    encoder: Encoder, source: Listed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(encoder, source, tmp_path / "out")
    there = [False, True, True]
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: exists(path) and (path.name != "out" or there.pop(0)))
    counted = Counted(encoder)
    assert embed(encoder, source, tmp_path / "out", rank=1, world_size=2, images_per_part=5) is None
    assert counted.seen == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.skipped.txt"]


def test_a_process_that_never_comes(encoder: Encoder, source: Listed, tmp_path: Path) -> None:
    with pytest.raises(PmaeError, match=r"2 parts of other processes are missing, and none came for 0 s"):
        made(encoder, source, tmp_path / "out", world_size=2, patience=0.2)
    written = made(encoder, source, tmp_path / "out")  # alone
    assert written.images == 21


def test_two_of_the_same_place_are_refused(encoder: Encoder, source: Listed, tmp_path: Path) -> None:
    made(encoder, source, tmp_path / "whole")
    (begun, begins), (told, tells) = os.pipe(), os.pipe()

    def first() -> None:
        def hold(done: int, _: int) -> None:
            if done == 2:
                os.write(begins, b"!")
                os.read(told, 1)

        embed(encoder, source, tmp_path / "out", images_per_part=5, batch_size=2, progress=hold)

    child = in_another_process(first)
    os.read(begun, 1)
    try:
        with pytest.raises(PmaeError, match=r"--out .*out: another process is writing it"):
            made(encoder, source, tmp_path / "out")
    finally:
        os.write(tells, b"!")
        os.waitpid(child, 0)
    for descriptor in (begun, begins, told, tells):
        os.close(descriptor)
    same(tmp_path / "out", tmp_path / "whole")


# -- the command -------------------------------------------------------------------------------------------------------


def command(data: Path, out: Path, *flags: str) -> list[str]:
    return f"embed random:micro/8 --image-size 32 --device cpu --data {data} --out {out}".split() + list(flags)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images of two classes in two splits, two of them broken."""
    for split, count in (("train", 5), ("val", 3)):
        for number in range(count):
            path = tmp_path / "data" / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(photograph((40 + number, 40)), "JPEG") if number != 2 else b"text")
    return tmp_path / "data"


def test_the_command(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.parquet"
    words = f"{out}: 6 vectors of 96 numbers{{}}; 2 broken images left out, see {out}.skipped.txt\n"
    assert main(command(folder, out)) == 0
    assert capfd.readouterr().out == words.format("")
    table = pq.read_table(out)
    assert table["path"].to_pylist()[:2] == ["train/a/0.jpg", "train/a/4.jpg"]
    assert table["label"].to_pylist() == ["a", "a", "b", "b", "a", "b"]
    assert main(command(folder, out)) == 0
    assert capfd.readouterr().out == words.format(", there already")
    assert main(command(folder, out, "--split", "train")) == 2
    assert re.fullmatch(
        r".*\npmae: --out .* holds other vectors \(other images\).*\n", capfd.readouterr().err, re.DOTALL
    )
    one = tmp_path / "one.parquet"
    assert main(command(folder, one, "--split", "validation", "--pool", "both", "--block", "0")) == 0
    assert pq.read_table(one)["path"].to_pylist() == ["a/0.jpg", "b/1.jpg"]


def test_a_run_reads_no_larger_images_than_it_was_trained_on(
    folder: Path, tmp_path: Path, make_config: Callable[..., PretrainConfig]
) -> None:
    """Those of 40 x 40 and 41 x 40 pixels are small enough."""
    run = pretrain(make_config(max_steps=1, loader=LoaderConfig(max_pixels=41 * 40)))
    out = tmp_path / "out.parquet"
    assert main(["embed", str(run), *command(folder, out)[2:]]) == 0
    assert pq.read_table(out)["path"].to_pylist() == [
        "train/a/0.jpg",
        "train/b/1.jpg",
        "validation/a/0.jpg",
        "validation/b/1.jpg",
    ]
    assert "44 x 40 pixels, more than the limit of 1640" in skipped_list(out).read_text()


def test_the_command_under_torchrun(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "__kwdefaults__", (embed.__kwdefaults__ or {}) | {"images_per_part": 2})
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    child = in_another_process(lambda: os._exit(main(command(folder, tmp_path / "out.parquet"))))
    monkeypatch.setenv("RANK", "0")
    assert main(command(folder, tmp_path / "out.parquet")) == 0
    assert os.waitpid(child, 0)[1] == 0
    assert capfd.readouterr().out.startswith(f"{tmp_path}/out.parquet: 6 vectors of 96 numbers; 2 broken")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(command(folder, tmp_path / "whole.parquet")) == 0
    same(tmp_path / "out.parquet", tmp_path / "whole.parquet")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--batch-size 0", "--batch-size 0: must be at least 1"),
        ("--workers -1", "--workers -1: must be auto, 0 or more"),
        ("--block 6", "--block 6: .* has blocks 0 to 5"),
        ("--split test", "--split test: give one of train, validation, all"),
        ("--data nothing", "--data nothing: there is no such file"),
    ],
)
def test_mistakes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, said: str) -> None:
    assert main(command(folder, tmp_path / "out.parquet", *flags.split())) == 2
    assert re.match(f"pmae: {said}", capsys.readouterr().err.splitlines()[-1])
    assert not list(tmp_path.glob("out*"))
