"""Features against a plain loop over images; a cache that is never wrong and loses little."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from odd_files import encode, photograph
from torch import Tensor, nn

from perceptual_mae.augment.crops import center_crop_resize, crop_box, crop_resize, draw_crops
from perceptual_mae.data import Item, Skip, decode, open_source
from perceptual_mae.data.views import PROBE_CROPS
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.evaluation import feature_cache
from perceptual_mae.evaluation.feature_cache import Growing, Line, default_cache, images_digest, weights_digest
from perceptual_mae.evaluation.features import Features, extract, part_of
from perceptual_mae.models.encoder import Encoder
from perceptual_mae.seeds import Stream, generator

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


@cache
def files() -> tuple[bytes, ...]:
    return tuple(encode(photograph((24 + 2 * number, 40)).rotate(7 * number), "PNG") for number in range(23))


@dataclass
class Listed:
    """Photographs of different sizes, with text in the places of `broken`; label: number modulo 3."""

    count: int = 23
    broken: tuple[int, ...] = (4, 11)
    name: str = "listed"
    classes: tuple[str, ...] = ("a", "b", "c")
    labels: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data = list(files()[: self.count])
        for index in self.broken:
            self.data[index] = b"text"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        return Item(self.data[index], f"image {index}", self.labels.get(index, index % 3))

    def fingerprint(self) -> str:
        return f"{self.name} {self.count}"

    @property
    def readable(self) -> list[int]:
        return [index for index in range(self.count) if index not in self.broken]


class Counted(nn.Module):
    """Counts images that go through an encoder, and stops it after a while."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.seen, self.limit = 0, 10**9
        encoder.register_forward_pre_hook(self.count)

    def count(self, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        if self.seen + len(arguments[0]) > self.limit:
            raise KeyboardInterrupt
        self.seen += len(arguments[0])


def small_encoder(seed: int = 0, size: int = 16, **settings: Any) -> Encoder:
    torch.manual_seed(seed)
    options = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0} | settings
    return Encoder(timm.models.VisionTransformer(img_size=size, **options), f"vit {seed}", (size, size), MEAN, STD)


@pytest.fixture(scope="module")
def source() -> Listed:
    return Listed()


@pytest.fixture
def encoder() -> Encoder:
    return small_encoder()


@torch.no_grad()
def plainly(encoder: Encoder, images: list[Tensor]) -> Tensor:
    """One image after the other, from the formula: normalise, encode, [CLS] and the mean of the rest."""
    vectors = []
    for image in images:
        pixels = (image.double() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        tokens = encoder.network.forward_features(pixels[None].float())[0]
        vectors.append(torch.cat([tokens[0], tokens[1:].sum(dim=0) / (len(tokens) - 1)]))
    return torch.stack(vectors)


def within_float16(found: np.ndarray, expected: Tensor) -> None:
    """float16 has 11 bits: half a unit in the last place, and what sums in another order give."""
    assert found.dtype == np.float16
    torch.testing.assert_close(torch.from_numpy(found.astype(np.float32)), expected, rtol=2**-11, atol=4e-6)


def same(ours: Features, theirs: Features) -> None:
    assert ours.vectors.shape == theirs.vectors.shape
    assert np.abs(ours.vectors.astype(np.float32) - theirs.vectors.astype(np.float32)).max() < 1e-3
    assert torch.equal(ours.labels, theirs.labels)
    assert ours.names == theirs.names
    assert ours.broken == theirs.broken


# -- what they are -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
def test_features_equal_a_plain_loop(encoder: Encoder, source: Listed, tmp_path: Path, cached: bool) -> None:
    features = extract(encoder, source, batch_size=5, cache=tmp_path if cached else None)
    images = [center_crop_resize(decode(source.data[index]), (16, 16)) for index in source.readable]
    expected = plainly(encoder, images)
    within_float16(features.vectors, expected)
    assert isinstance(features.vectors, np.memmap) == cached
    assert features.labels.tolist() == [index % 3 for index in source.readable]
    assert features.labels.dtype == torch.int64
    assert features.names == [f"image {index}" for index in source.readable]
    assert [skip.name for skip in features.broken] == ["image 4", "image 11"]
    assert features.skipped == 2
    for pool, part in (("cls", expected[:, :24]), ("mean", expected[:, 24:]), ("both", expected)):
        pooled = features.pooled(pool)
        assert pooled.dtype == torch.float32
        torch.testing.assert_close(pooled, part, rtol=2**-11, atol=4e-6)
        assert part_of(pool, 48) == slice(0 if pool != "mean" else 24, 24 if pool == "cls" else 48)


def test_features_of_a_block(encoder: Encoder, source: Listed) -> None:
    seen: list[Tensor] = []
    encoder.network.blocks[0].register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    features = extract(encoder, source, block=0, cache=None, batch_size=100)
    within_float16(features.vectors, torch.cat([seen[0][:, 0], seen[0][:, 1:].mean(dim=1)], dim=1))
    assert len(features.vectors) == 21
    assert np.array_equal(extract(encoder, source, block=-2, cache=None, batch_size=100).vectors, features.vectors)
    with pytest.raises(UsageError, match="--block 2: vit 0 has blocks 0 to 1"):
        extract(encoder, source, block=2, cache=None)


@pytest.mark.parametrize("views", [0, 3])
@pytest.mark.parametrize("how", [{"batch_size": 1}, {"batch_size": 64}, {"batch_size": 7, "workers": 1}])
def test_batches_and_workers_change_nothing(encoder: Encoder, source: Listed, views: int, how: dict[str, int]) -> None:
    same(
        extract(encoder, source, cache=None, views=views, **how),
        extract(encoder, source, cache=None, views=views, batch_size=4),
    )


def test_views_are_the_drawn_crops(encoder: Encoder, source: Listed) -> None:
    features = extract(encoder, source, cache=None, views=3, seed=5)
    images = []
    for index in source.readable:
        image = decode(source.data[index])
        for draw in draw_crops(3, generator(5, Stream.VIEWS, index), PROBE_CROPS, (16, 16)):
            cut = crop_resize(image, crop_box(tuple(image.shape[1:]), draw), (16, 16))
            images.append(cut.flip(-1) if draw.flip else cut)
    within_float16(features.vectors, plainly(encoder, images))
    assert features.vectors.shape == (63, 48)
    assert features.labels.tolist() == [index % 3 for index in source.readable for _ in range(3)]
    assert features.names[:4] == ["image 0"] * 3 + ["image 1"]
    other = extract(encoder, source, cache=None, views=3, seed=6)
    assert np.abs(other.vectors - features.vectors).max() > 0.01


def test_a_network_of_maps(source: Listed) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=0)
    encoder = Encoder(network, "maps", (64, 64), MEAN, STD)
    features = extract(encoder, source, cache=None)
    assert features.vectors.shape == (21, 2 * encoder.embed_dim)
    assert torch.equal(features.pooled("cls"), features.pooled("mean"))


def test_nothing_that_float16_cannot_hold(encoder: Encoder, source: Listed, tmp_path: Path) -> None:
    encoder.network.norm.weight.data.mul_(1e5)
    with pytest.raises(PmaeError, match=r"vit 0 gives features of up to \S+e\+05, more than float16 can hold"):
        extract(encoder, source, cache=tmp_path)
    encoder.network.norm.weight.data[3] = torch.nan
    with pytest.raises(PmaeError, match=r"vit 0 gives features of image 0 that are not finite"):
        extract(encoder, source, cache=tmp_path)


@pytest.mark.parametrize("cached", [False, True])
def test_nothing_readable(encoder: Encoder, tmp_path: Path, cached: bool) -> None:
    broken = Listed(3, (0, 1, 2))
    for _ in range(2):  # what is in the cache changes nothing
        with pytest.raises(PmaeError, match=r"no image in listed could be read \(3 tried\); the first, image 0: "):
            extract(encoder, broken, cache=tmp_path if cached else None)


def test_progress(encoder: Encoder, source: Listed) -> None:
    told: list[tuple[int, int]] = []
    extract(encoder, source, cache=None, batch_size=10, progress=lambda *numbers: told.append(numbers))
    assert told == [(10, 23), (20, 23), (23, 23)]


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_a_second_time_costs_nothing(encoder: Encoder, source: Listed, tmp_path: Path) -> None:
    counted = Counted(encoder)
    first = extract(encoder, source, cache=tmp_path)
    assert counted.seen == 21
    renamed = Counted(again := small_encoder())
    again.name = "elsewhere"
    second = extract(again, source, cache=tmp_path, batch_size=3)
    assert renamed.seen == 0
    assert np.array_equal(first.vectors, second.vectors)
    same(first, second)
    assert not list(tmp_path.glob("*.part"))
    (vectors,) = tmp_path.rglob("*.npy")
    assert np.array_equal(np.load(vectors), first.vectors)  # anybody can read it


CHANGES: dict[str, Callable[[Encoder, Listed], Any]] = {
    "weights": lambda encoder, source: (small_encoder(seed=1), source, {}),
    "size": lambda encoder, source: (small_encoder(size=24), source, {}),
    "heads": lambda encoder, source: (small_encoder(num_heads=4), source, {}),
    "block": lambda encoder, source: (encoder, source, {"block": 1}),
    "views": lambda encoder, source: (encoder, source, {"views": 1}),
    "seed": lambda encoder, source: (encoder, source, {"views": 1, "seed": 1}),
    "pixels": lambda encoder, source: (encoder, source, {"max_pixels": 10_000}),
    "images": lambda encoder, source: (encoder, Listed(22), {}),
    "another": lambda encoder, source: (encoder, replace(source, name="another"), {}),
    "repaired": lambda encoder, source: (encoder, replace(source, broken=(4,)), {}),
    "labels": lambda encoder, source: (encoder, replace(source, labels={7: 2}), {}),
}


def test_anything_else_is_computed_anew(source: Listed, tmp_path: Path) -> None:
    extract(small_encoder(), source, cache=tmp_path)
    for count, (name, change) in enumerate(CHANGES.items(), start=2):
        other, others, options = change(small_encoder(), source)
        counted = Counted(other)
        found = extract(other, others, cache=tmp_path, **options)
        assert counted.seen == len(found.vectors) == len(others.readable), name
        assert len(list(tmp_path.rglob("*.npy"))) == count, name
    assert extract(small_encoder(), replace(source, labels={7: 2}), cache=tmp_path).labels[6] == 2


def test_mean_and_std_count(encoder: Encoder) -> None:
    other = Encoder(encoder.network, "x", (16, 16), (0.5, 0.4, 0.31), STD)
    assert weights_digest(other) != weights_digest(encoder)


def test_files_that_were_replaced_are_seen(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encode(photograph((20 + number, 20)), "PNG"))

    def digest() -> str:
        found = open_source(str(tmp_path))
        assert found is not None
        return images_digest(found)

    before = digest()
    assert digest() == before
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes((tmp_path / "2.png").read_bytes())
    assert digest() != before
    (tmp_path / "1.png").write_bytes(content)
    os.utime(tmp_path / "1.png", ns=(1, 1))
    assert digest() != before


def test_contents_that_were_replaced_are_seen() -> None:
    one, other = Listed(), Listed()
    other.data[1] = one.data[1][:-1] + b"!"
    assert len(other.data[1]) == len(one.data[1])
    assert images_digest(one) != images_digest(other)


def test_digests_are_those_of_another_process(encoder: Encoder) -> None:
    code = "from test_features import *; print(weights_digest(small_encoder()), images_digest(Listed()))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
        env=environment,
    )
    assert done.stdout.split() == [weights_digest(encoder), images_digest(Listed())]


@pytest.mark.parametrize("views", [0, 2])
def test_an_interrupted_extraction_continues(encoder: Encoder, source: Listed, tmp_path: Path, views: int) -> None:
    expected = extract(encoder, source, cache=None, batch_size=4, views=views)
    counted = Counted(encoder)
    counted.limit = 11
    with pytest.raises(KeyboardInterrupt):
        extract(encoder, source, cache=tmp_path, batch_size=4, views=views)
    done = counted.seen
    assert 7 <= done <= 11
    counted.limit = 10**9
    told: list[int] = []
    found = extract(
        encoder, source, cache=tmp_path, batch_size=3, views=views, progress=lambda now, _: told.append(now)
    )
    assert counted.seen == max(1, views) * 21  # each once
    assert told[0] > done // max(1, views)
    same(found, expected)


@pytest.mark.parametrize("name", ["vectors.npy", "images.jsonl"])
@pytest.mark.parametrize("damage", ["cut off", "changed", "more", "gone"])
def test_a_kill_leaves_nothing_that_is_trusted(
    encoder: Encoder, source: Listed, tmp_path: Path, name: str, damage: str
) -> None:
    counted = Counted(encoder)
    counted.limit = 15
    with pytest.raises(KeyboardInterrupt):
        extract(encoder, source, cache=tmp_path, batch_size=4)
    hurt(next(tmp_path.rglob(name)), damage)
    counted.limit, before = 10**9, counted.seen
    found = extract(encoder, source, cache=tmp_path, batch_size=4)
    again = counted.seen - 21
    assert again == {"cut off": 4, "more": 0, "gone": before}.get(damage, again)
    same(found, extract(small_encoder(), source, cache=None))


@pytest.mark.parametrize("name", ["vectors.npy", "images.jsonl"])
@pytest.mark.parametrize("damage", ["cut off", "changed", "gone"])
def test_a_damaged_entry_is_computed_again(
    encoder: Encoder, source: Listed, tmp_path: Path, name: str, damage: str
) -> None:
    before = extract(encoder, source, cache=tmp_path, batch_size=8)
    held = before.vectors.copy()
    hurt(next(tmp_path.rglob(name)), damage)
    counted = Counted(encoder)
    found = extract(encoder, source, cache=tmp_path, batch_size=8)
    assert counted.seen == 21
    assert np.array_equal(found.vectors, held)
    assert found.names == before.names
    assert Counted(encoder).seen == 0
    same(extract(encoder, source, cache=tmp_path), found)
    assert counted.seen == 21


def hurt(path: Path, damage: str) -> None:
    """What disks and kills do to a file."""
    content = path.read_bytes()
    middle = len(content) * 2 // 3
    path.unlink()  # another file, as a reader may have the old one open
    if damage == "cut off":
        path.write_bytes(content[:-7])
    elif damage == "changed":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
    elif damage == "more":
        path.write_bytes(content + b"0000")


def test_a_header_that_lies_is_not_trusted(encoder: Encoder, source: Listed, tmp_path: Path) -> None:
    extract(encoder, source, cache=tmp_path)
    (path,) = tmp_path.rglob("vectors.npy")
    path.write_bytes(path.read_bytes().replace(b"(21, 48)", b"(42, 24)"))
    counted = Counted(encoder)
    assert extract(encoder, source, cache=tmp_path).vectors.shape == (21, 48)
    assert counted.seen == 21


def test_a_journal_without_its_last_line_is_not_trusted(encoder: Encoder, tmp_path: Path) -> None:
    source = Listed(5, (4,))
    extract(encoder, source, cache=tmp_path, batch_size=1)
    (path,) = tmp_path.rglob("images.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))  # that of the broken image
    assert extract(encoder, source, cache=tmp_path).skipped == 1


def test_images_that_become_readable_are_no_longer_left_out(encoder: Encoder, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encode(photograph((20 + number, 20)), "PNG"))
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[:40])
    images = open_source(str(tmp_path))
    assert images is not None
    features = extract(encoder, images, cache=tmp_path / ".cache")
    assert features.names == ["0.png", "2.png"]
    assert isinstance(features.broken[0], Skip)
    (tmp_path / "1.png").write_bytes(content)
    assert extract(encoder, images, cache=tmp_path / ".cache").names == ["0.png", "1.png", "2.png"]


def in_another_process(action: Callable[[], object]) -> int:
    """Start `action` in a copy of this process; returns its number."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return child


@pytest.mark.parametrize("end", ["finish", "die"])
def test_two_processes_take_turns(tmp_path: Path, end: str) -> None:
    (begun, begins), (told, tells), (turn, comes) = os.pipe(), os.pipe(), os.pipe()

    def write() -> None:
        with Growing(tmp_path, "entry", 3) as entry:
            os.write(begins, b"!")
            os.read(told, 1)
            entry.resume()
            entry.append(np.ones((2, 3), np.float16), Line(2, [0, 1], ["a", "b"], []))
            if end == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            entry.finish()

    def wait() -> None:
        with Growing(tmp_path, "entry", 3):
            os.write(comes, b"!")

    writer = in_another_process(write)
    os.read(begun, 1)
    waiting = in_another_process(wait)
    too_early = select.select([turn], [], [], 0.3)[0]
    os.write(tells, b"!")
    for process in (writer, waiting):
        os.waitpid(process, 0)
    assert not too_early
    assert os.read(turn, 1) == b"!"
    for descriptor in (begun, begins, told, tells, turn, comes):
        os.close(descriptor)

    stored = feature_cache.load(tmp_path, "entry", 3, 2)
    with Growing(tmp_path, "entry", 3) as entry:
        if end == "finish":
            assert stored is not None
            assert stored[0].tolist() == [[1, 1, 1], [1, 1, 1]]
            assert stored[1] == [Line(2, [0, 1], ["a", "b"], [])]
        else:
            assert stored is None
            assert entry.resume() == 2


def test_a_cache_that_cannot_be_written(encoder: Encoder, source: Listed, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PmaeError, match=r"cache of features .*file: .*; make room, or name another folder"):
        extract(encoder, source, cache=tmp_path / "file")


def test_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/perceptual-mae/features")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache/perceptual-mae/features"


def test_lines_are_json(encoder: Encoder, source: Listed, tmp_path: Path) -> None:
    extract(encoder, source, cache=tmp_path, batch_size=10)
    (path,) = tmp_path.rglob("images.jsonl")
    lines = [json.loads(line[9:]) for line in path.read_text().splitlines()]
    assert [line["images"] for line in lines] == [10, 10, 3]
    assert lines[0]["skipped"][0]["name"] == "image 4"
