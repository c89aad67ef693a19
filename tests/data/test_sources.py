"""Every form of `--data`, and what is said of those that are none."""

import builtins
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from odd_files import encode, photograph

from perceptual_mae.data import BrokenImage, decode, open_source
from perceptual_mae.data.ade import open_ade
from perceptual_mae.data.coco import open_coco
from perceptual_mae.data.named import named_images
from perceptual_mae.data.open import _say_which
from perceptual_mae.data.photos import TILE, PhotoTiles, region
from perceptual_mae.data.splits import pick_files
from perceptual_mae.data.streaming import tar
from perceptual_mae.data.wds import expand_braces
from perceptual_mae.errors import PmaeError, UsageError

JPEG = encode(photograph((40, 30)), "JPEG")
PNG = encode(photograph((40, 30)), "PNG")


def write(root: Path, *names: str, data: bytes = JPEG) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def names_of(source):
    return [source[index].name for index in range(len(source))]


def labels_of(source):
    return [source[index].label for index in range(len(source))]


# -- folders -----------------------------------------------------------------------------------------------------------


def test_plain_folder(tmp_path):
    write(tmp_path, "b.JPG", "a.png", "deep/er/c.tiff", ".hidden.jpg", ".cache/d.jpg", "notes.txt")
    source = open_source(str(tmp_path))
    assert names_of(source) == ["a.png", "b.JPG", "deep/er/c.tiff"]
    assert source.classes == ()
    assert labels_of(source) == [-1, -1, -1]
    assert source[1].data == tmp_path / "b.JPG"
    assert open_source(str(tmp_path), "validation") is None


def test_sub_folders_are_labels(tmp_path):
    write(tmp_path, "cat/1.jpg", "cat/more/2.jpg", "ape/1.jpg", "empty/readme.txt")
    source = open_source(str(tmp_path))
    assert source.classes == ("ape", "cat")
    assert names_of(source) == ["ape/1.jpg", "cat/1.jpg", "cat/more/2.jpg"]
    assert labels_of(source) == [0, 1, 1]


@pytest.mark.parametrize(
    ("train", "validation"),
    [("train", "val"), ("training", "validation"), ("train2017", "val2017"), ("Train", "Test"), ("train", "valid")],
)
@pytest.mark.parametrize("above", ["", "images/"])
def test_split_folders(tmp_path, train, validation, above):
    write(tmp_path, f"{above}{train}/x/1.jpg", f"{above}{train}/y/2.jpg", f"{above}{validation}/x/3.jpg")
    write(tmp_path, f"annotations/{train}/1.png", f"annotations/{validation}/3.png")
    source = open_source(str(tmp_path), "train")
    assert names_of(source) == ["x/1.jpg", "y/2.jpg"]
    assert source.classes == ("x", "y")
    assert names_of(open_source(str(tmp_path), "validation")) == ["x/3.jpg"]


def test_train_may_be_a_class_or_the_only_split(tmp_path):
    write(tmp_path / "vehicles", "train/1.jpg", "bus/2.jpg")
    assert open_source(str(tmp_path / "vehicles")).classes == ("bus", "train")
    write(tmp_path / "only", "train/a/1.jpg", "train/b/2.jpg", "labels/1.txt")
    assert open_source(str(tmp_path / "only")).classes == ("a", "b")
    assert open_source(str(tmp_path / "only"), "validation") is None


@pytest.mark.parametrize(
    ("empty", "validation"), [("val", ["x/3.jpg"]), ("val/deep", ["x/3.jpg"]), ("validation", ["x/3.jpg"])]
)
def test_an_empty_folder_is_no_validation_split(tmp_path, empty, validation):
    write(tmp_path, "train/x/1.jpg", "train/y/2.jpg", "test/x/3.jpg")
    (tmp_path / empty).mkdir(parents=True)
    assert names_of(open_source(str(tmp_path), "validation")) == validation
    (tmp_path / "test").rename(tmp_path / "pictures")
    assert names_of(open_source(str(tmp_path))) == ["x/1.jpg", "y/2.jpg"]
    assert open_source(str(tmp_path), "validation") is None


def test_an_empty_training_folder_is_said(tmp_path):
    write(tmp_path, "val/x/1.jpg")
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match="is empty"):
        open_source(str(tmp_path))


def test_a_link_that_may_not_be_entered_hides_no_split(tmp_path, refused):
    write(tmp_path, "train/x/1.jpg", "val/x/2.jpg")
    (tmp_path / "extra").symlink_to(tmp_path / "locked" / "inside")
    refused(os, "stat", tmp_path / "extra")
    assert names_of(open_source(str(tmp_path))) == ["x/1.jpg"]
    assert names_of(open_source(str(tmp_path), "validation")) == ["x/2.jpg"]


def test_links_are_followed_once(tmp_path):
    write(tmp_path / "elsewhere", "1.jpg")
    write(tmp_path / "data", "2.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "link")
    os.symlink(tmp_path / "data", tmp_path / "data" / "circle")
    os.symlink(tmp_path / "gone", tmp_path / "data" / "gone.jpg")
    assert names_of(open_source(str(tmp_path / "data"))) == ["2.jpg", "link/1.jpg"]


def test_names_that_are_no_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/a\xff\nb.jpg"
    Path(os.fsdecode(path)).write_bytes(JPEG)
    item = open_source(str(tmp_path))[0]
    assert item.name == r"a\udcff\nb.jpg"
    item.name.encode()
    assert decode(item.data).shape == (3, 30, 40)


def test_one_image_is_a_source(tmp_path):
    write(tmp_path, "a.png", "b.png")
    assert names_of(open_source(str(tmp_path / "b.png"))) == ["b.png"]


def test_npy_files_count_where_channels_are_many(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((6, 8, 8), np.uint8))
    assert names_of(open_source(str(tmp_path), channels=6)) == ["a.npy"]
    with pytest.raises(UsageError, match=r"1 \.npy"):
        open_source(str(tmp_path), channels=3)


def test_folder_fingerprint(tmp_path):
    first = open_source(str(write(tmp_path / "a", "1.jpg", "2.jpg"))).fingerprint()
    assert first == open_source(str(write(tmp_path / "b", "1.jpg", "2.jpg"))).fingerprint()
    assert first != open_source(str(write(tmp_path / "c", "1.jpg", "3.jpg"))).fingerprint()
    assert len(first) == 16


def test_odd_folder(odd_folder):
    folder, good, broken = odd_folder
    source = open_source(str(folder))
    assert len(source) == len(good) + len(broken)
    assert sorted(name.replace("\\n", "\n") for name in names_of(source)) == sorted(good + broken)
    refused = []
    for index in range(len(source)):
        try:
            decode(source[index].data)
        except BrokenImage:
            refused.append(source[index].name)
    assert sorted(refused) == sorted(broken)


# -- parquet -----------------------------------------------------------------------------------------------------------


def write_parquet(path: Path, images: list, labels: list | None = None, column: str = "image", features=None) -> Path:
    columns = {column: images} | ({} if labels is None else {"label": labels})
    table = pa.table(columns)
    if features is not None:
        from datasets import Features

        table = table.replace_schema_metadata(Features(features).arrow_schema.metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize("column", ["image", "img", "jpg", "bytes", "anything"])
@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_parquet_columns(tmp_path, column, kind):
    images = [JPEG, PNG] if kind == "bytes" else [{"bytes": JPEG, "path": "a"}, {"bytes": PNG, "path": None}]
    path = write_parquet(tmp_path / f"{column}-{kind}.parquet", images, column=column)
    source = open_source(str(path))
    assert [source[0].data, source[1].data] == [JPEG, PNG]
    assert labels_of(source) == [-1, -1]
    assert source.classes == ()
    assert open_source(str(path), "validation") is None


def test_parquet_class_names(tmp_path):
    from datasets import ClassLabel, Image

    features = {"image": Image(), "label": ClassLabel(names=["ape", "cat"])}
    images = [{"bytes": JPEG, "path": None}] * 3
    source = open_source(str(write_parquet(tmp_path / "a.parquet", images, [1, 0, 1], features=features)))
    assert source.classes == ("ape", "cat")
    assert labels_of(source) == [1, 0, 1]
    assert source[0].data == JPEG


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (["dog", "ape", None], ("ape", "dog"), [1, 0, -1]),
        (["10", "9", "10"], ("9", "10"), [1, 0, 1]),
        ([2, 0, None], ("0", "1", "2"), [2, 0, -1]),
        ([10**9, 5, 7], (), [-1, -1, -1]),
    ],
)
def test_parquet_labels(tmp_path, labels, classes, expected):
    source = open_source(str(write_parquet(tmp_path / "a.parquet", [JPEG] * 3, labels)))
    assert source.classes == classes
    assert labels_of(source) == expected


def test_parquet_folder_with_splits(tmp_path):
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [JPEG] * 2)
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [PNG] * 3)
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", [PNG])
    write(tmp_path, "preview.png")
    source = open_source(str(tmp_path))
    assert [source[index].data for index in range(5)] == [JPEG] * 2 + [PNG] * 3
    assert names_of(source)[4] == "row 4"
    assert len(open_source(str(tmp_path), "validation")) == 1
    again = pickle.loads(pickle.dumps(source))
    assert again[3] == source[3]
    assert again.fingerprint() == source.fingerprint() != open_source(str(tmp_path), "validation").fingerprint()


def test_images_beside_a_table_are_a_folder_of_images(tmp_path):
    pq.write_table(pa.table({"file": ["1.jpg"], "score": [0.5]}), tmp_path / "scores.parquet")
    write(tmp_path, "1.jpg")
    assert names_of(open_source(str(tmp_path))) == ["1.jpg"]


@pytest.mark.parametrize(
    ("names", "train", "validation"),
    [
        (["train-0", "val-0", "test-0"], [0], [1]),
        (["0", "val-0"], [0], [1]),
        (["0", "1"], [0, 1], []),
        (["val-0", "val-1"], [0, 1], []),  # the only images there are
        (["val-0", "test-0"], [0, 1], []),
        (["train/0", "train/val-0", "val-0"], [0, 1], [2]),
    ],
)
def test_no_file_is_in_both_splits(names, train, validation):
    assert pick_files(Path(), names, "train") == [Path(names[index]) for index in train]
    assert pick_files(Path(), names, "validation") == ([Path(names[index]) for index in validation] or None)


@pytest.mark.parametrize("folder", ["set [v2]", "[!a]", "a*b?", "set{1}", "{a,b} c"])
def test_names_are_no_patterns(tmp_path, folder):
    table = write_parquet(tmp_path / "tables" / folder / "x.parquet", [JPEG, PNG])
    write_parquet(tmp_path / "tables" / "set v" / "x.parquet", [PNG])  # which a pattern would find
    write_shard(tmp_path / "shards" / folder / "x[1].tar", [{"jpg": JPEG}, {"jpg": JPEG}])
    shards = tmp_path / "shards" / folder
    for spec in (table, table.parent, f"wds:{shards}", f"wds:{shards}/x[1].tar"):
        assert len(open_source(str(spec))) == 2


def test_names_of_tables_that_are_no_text(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    pq.write_table(pa.table({"image": [JPEG, PNG]}), tmp_path / "x.parquet")
    odd.mkdir()
    (tmp_path / "x.parquet").rename(odd / "x.parquet")
    assert len(open_source(str(odd))) == 2
    assert len(open_source(f"stream:{odd}")) == 2
    pq.write_table(pa.table({"score": [0.5]}), tmp_path / "x.parquet")
    (tmp_path / "x.parquet").replace(odd / "x.parquet")
    write(tmp_path, "1.jpg")
    assert names_of(open_source(str(tmp_path))) == ["1.jpg"]


def test_missing_images_are_broken_and_files_are_followed(tmp_path):
    write(tmp_path, "real.jpg")
    images = [{"bytes": None, "path": str(tmp_path / "real.jpg")}, {"bytes": None, "path": None}]
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})})
    pq.write_table(pa.table({"image": images}, schema=schema), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"))
    assert decode(source[0].data).shape == (3, 30, 40)
    with pytest.raises(BrokenImage, match="empty"):
        decode(source[1].data)


def test_wrong_parquet(tmp_path):
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(UsageError, match=r"text\.parquet is not a parquet file"):
        open_source(str(tmp_path / "text.parquet"))
    whole = write_parquet(tmp_path / "b" / "cut.parquet", [JPEG] * 3)
    whole.write_bytes(whole.read_bytes()[:-50])
    for spec in (whole, whole.parent):
        with pytest.raises(UsageError, match=r"cut\.parquet is cut short"):
            open_source(str(spec))
    pq.write_table(pa.table({"x": [1], "y": ["a"]}), tmp_path / "numbers.parquet")
    with pytest.raises(UsageError, match=r"no column of images \(columns: x, y\)"):
        open_source(str(tmp_path / "numbers.parquet"))


@pytest.mark.parametrize(
    ("name", "counts", "classes"), [("tiny-imagenet-40", (20000, 2000), 40), ("imagenette-96", (9469, 3925), 10)]
)
def test_shared_parquet(shared, name, counts, classes):
    folder = shared(name)
    for split, count in zip(("train", "validation"), counts, strict=True):
        source = open_source(str(folder), split)
        assert len(source) == count
        assert len(source.classes) == classes
        table = pq.read_table(folder / f"{split}.parquet")
        for row in (0, count // 3, count - 1):
            assert source[row].data == table["image"][row]["bytes"].as_py()
            assert source[row].label == table["label"][row].as_py()


@pytest.mark.parametrize(("name", "counts"), [("coco-tiny", (50, 50)), ("camvid-small", (200, 60))])
def test_shared_folders(shared, name, counts):
    folder = str(shared(name))
    assert (len(open_source(folder)), len(open_source(folder, "validation"))) == counts


# -- WebDataset shards -------------------------------------------------------------------------------------------------


def write_shard(path: Path, samples: list[dict[str, bytes]], first: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, sample in enumerate(samples, first):
            for suffix, data in sample.items():
                info = tarfile.TarInfo(f"{key:06d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("form", ["{folder}", "{folder}/*.tar", "{folder}/train-{{00..01}}.tar"])
def test_shards(tmp_path, form):
    for shard in range(2):
        samples = [{"jpg": JPEG, "cls": str(label).encode()} for label in (3, shard)]
        write_shard(tmp_path / f"train-{shard:02d}.tar", samples, 2 * shard)
    if form != "{folder}/train-{{00..01}}.tar":
        write_shard(tmp_path / "val-00.tar", [{"jpg": JPEG, "cls": b"1"}])
    spec = "wds:" + form.format(folder=tmp_path)
    source = open_source(spec)
    assert len(source) == 4
    assert labels_of(source) == [3, 0, 3, 1]
    assert source[3].data == JPEG
    validation = open_source(spec, "validation")
    assert validation is None if "train" in form else len(validation) == 1


def test_shards_without_labels(tmp_path):
    write_shard(tmp_path / "a.tar", [{"png": PNG}, {"png": PNG}])
    source = open_source(f"wds:{tmp_path}/a.tar")
    assert source.classes == ()
    assert decode(source[1].data).shape == (3, 30, 40)


MIXED = {
    "formats from the first on": [{"jpg": JPEG, "cls": b"0"}, {"png": PNG, "cls": b"1"}] * 4,
    "a later format": [{"jpg": JPEG, "cls": b"0"}] * 9 + [{"png": PNG, "cls": b"1"}],
    "some labels": [{"jpg": JPEG}, {"jpg": JPEG, "cls": b"1"}] * 4,
    "later labels": [{"jpg": JPEG}] * 9 + [{"jpg": JPEG, "cls": b"1"}],
    "other files": [
        {"jpg": JPEG, "cls": b"1"},
        {"JPG": JPEG, "json": b"{}", "txt": b"a"},
        {"seg.png": PNG, "webp": JPEG},
    ],
}


@pytest.mark.parametrize("samples", MIXED.values(), ids=MIXED)
def test_shards_whose_samples_differ(tmp_path, samples):
    write_shard(tmp_path / "a.tar", samples[:6])
    write_shard(tmp_path / "b.tar", samples[6:], 6)
    source = open_source(f"wds:{tmp_path}")
    images = [
        next(data for name, data in sample.items() if data in {JPEG, PNG} and name[:3] != "seg") for sample in samples
    ]
    assert [source[index].data for index in range(len(source))] == images
    assert labels_of(source) == [int(sample.get("cls", b"-1")) for sample in samples]
    assert pickle.loads(pickle.dumps(source))[len(samples) - 1] == source[len(samples) - 1]
    assert source.fingerprint() == open_source(str(write_parquet(tmp_path / "same.parquet", images))).fingerprint()


def test_shards_whose_samples_are_alike_stay_as_they_are_cached(tmp_path, monkeypatch):
    import datasets

    usual, given = datasets.load_dataset, []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: given.append(k.get("features")) or usual(*a, **k))
    write_shard(tmp_path / "a.tar", [{"jpg": JPEG, "seg.png": PNG, "cls": b"1", "json": b"{}"}] * 7)
    assert open_source(f"wds:{tmp_path}")[6].data == JPEG
    assert given == [None]
    monkeypatch.setattr(tar, "_members", None)  # the headers are not read again
    assert len(open_source(f"wds:{tmp_path}")) == 7


def test_wrong_shards(tmp_path):
    write_shard(tmp_path / "b-0.tar", [{"png": PNG}])
    with pytest.raises(UsageError, match=r"there is no file .*/b-1\.tar"):
        open_source(f"wds:{tmp_path}/b-{{0..1}}.tar")
    with pytest.raises(UsageError, match=r"names no \.tar file"):
        open_source(f"wds:{tmp_path}/c*.tar")
    (tmp_path / "broken.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(PmaeError, match=r"broken\.tar could not be loaded") as error:
        open_source(f"wds:{tmp_path}/broken.tar")
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=f"give wds:{tmp_path}/b-0.tar"):
        open_source(str(tmp_path / "b-0.tar"))
    with pytest.raises(UsageError, match=f"give wds:{tmp_path}"):
        open_source(str(tmp_path))


def test_braces():
    assert expand_braces("a{08..11}.tar") == ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]
    assert expand_braces("{x,y}{0..1}") == ["x0", "x1", "y0", "y1"]


# -- the hub -----------------------------------------------------------------------------------------------------------


def test_hub(monkeypatch):
    import datasets

    made = {
        split: datasets.Dataset.from_dict(
            {"img": [{"bytes": JPEG, "path": None}] * count, "fine_label": [0] * count},
            features=datasets.Features(img=datasets.Image(), fine_label=datasets.ClassLabel(names=["a", "b"])),
        )
        for split, count in (("train", 3), ("test", 2))
    }
    asked = []
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config: list(made))
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, *, split, name: asked.append((path, name)) or made[split]
    )
    source = open_source("hub:someone/cats:small")
    assert asked == [("someone/cats", "small")]
    assert len(source) == 3
    assert source[2].data == JPEG
    assert source.classes == ("a", "b")
    assert len(open_source("hub:someone/cats", "validation")) == 2


def test_hub_unreachable():
    with pytest.raises(PmaeError, match="hub:someone/nothing-there could not be found") as error:
        open_source("hub:someone/nothing-there")
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="give hub:USER/NAME"):
        open_source("hub:")


# -- torchvision -------------------------------------------------------------------------------------------------------


class Fake:
    """What the table expects of a torchvision data set."""

    def __init__(self, root, download, **split):
        self.root, self.split = root, split


def test_torchvision_arrays(monkeypatch, tmp_path):
    import torchvision.datasets

    class Cifar(Fake):
        data = np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3)
        targets = (0, 1, 2, 1, 0)
        classes = ("a", "b", "c")

    class Mnist(Fake):
        data = torch.arange(5 * 16, dtype=torch.uint8).view(5, 4, 4)
        targets = torch.tensor([0, 1, 2, 1, 0])

    monkeypatch.setenv("PMAE_DATA", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Cifar)
    monkeypatch.setattr(torchvision.datasets, "MNIST", Mnist)
    source = open_source("cifar10", "validation")
    assert torch.equal(source[2].data, torch.from_numpy(Cifar.data[2]).permute(2, 0, 1))
    assert (source[3].label, source.classes, len(source)) == (1, ("a", "b", "c"), 5)
    grey = open_source("mnist")
    assert torch.equal(grey[1].data, Mnist.data[1][None])
    assert decode(grey[1].data).shape == (3, 4, 4)
    assert grey.classes == ("0", "1", "2")


def test_torchvision_files(monkeypatch, tmp_path):
    import torchvision.datasets

    class Flowers(Fake):
        def __init__(self, root, download, **split):
            self._image_files = [root / "jpg" / "1.jpg", root / "jpg" / "2.jpg"]
            self._labels = [4, 0]

    write(tmp_path, "jpg/1.jpg", "jpg/2.jpg")
    monkeypatch.setenv("PMAE_DATA", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "Flowers102", Flowers)
    source = open_source("flowers102")
    assert decode(source[1].data).shape == (3, 30, 40)
    assert (source[0].name, source[0].label) == ("jpg/1.jpg", 4)


def test_torchvision_names_are_torchvisions():
    import inspect

    import torchvision.datasets

    from perceptual_mae.data.vision import NAMES

    for name, known in NAMES.items():
        cls = getattr(torchvision.datasets, known.cls)
        parameters = inspect.signature(cls.__init__).parameters
        for arguments in (known.train, known.validation):
            assert set(arguments) <= set(parameters), name
        source = inspect.getsource(inspect.getmodule(cls))
        assert f"self.{known.images}" in source, name
        assert f"self.{known.labels}" in source, name


def test_torchvision_mnist_for_real(monkeypatch, tmp_path):
    """torchvision's own reader, on files of its own format."""
    from torchvision.datasets import MNIST

    monkeypatch.setenv("PMAE_DATA", str(tmp_path))
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    for prefix, count in (("train", 7), ("t10k", 3)):
        header = b"".join(n.to_bytes(4, "big") for n in (0x803, count, 28, 28))
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images[:count].tobytes())
        header = b"".join(n.to_bytes(4, "big") for n in (0x801, count))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + bytes(range(count)))
    assert MNIST(tmp_path).train
    source = open_source("mnist")
    assert len(source) == 7
    assert torch.equal(source[3].data[0], torch.from_numpy(images[3]))
    assert source.classes[3] == "3 - three"
    assert len(open_source("mnist", "validation")) == 3


def test_torchvision_that_cannot_be_had(monkeypatch, tmp_path):
    import torchvision.datasets

    def fail(*arguments, **options):
        raise OSError("no route to host\nand more")

    monkeypatch.setenv("PMAE_DATA", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "SVHN", fail)
    with pytest.raises(PmaeError, match=r"svhn could not be downloaded .*no route to host\).*PMAE_DATA") as error:
        open_source("svhn")
    assert "\n" not in str(error.value)


# -- the built-in photographs ------------------------------------------------------------------------------------------


def test_photos_are_tiles_of_photographs():
    source = open_source("photos")
    assert len(source) > 3000
    assert len(source.classes) >= 16
    for index in range(0, len(source), 97):
        item = source[index]
        assert item.data.shape[1:] == (TILE, TILE)
        assert item.name.startswith(source.classes[item.label])
    shares = np.bincount(labels_of(source)) / len(source)
    assert shares.max() < 0.15  # no photograph is most of the data
    assert source[0].data.untyped_storage().data_ptr() == source[1].data.untyped_storage().data_ptr()


def test_no_validation_pixel_is_trained_on():
    train, validation = PhotoTiles("train"), PhotoTiles("validation")
    assert train.fingerprint() != validation.fingerprint()
    assert set(labels_of(train)) == set(labels_of(validation)) == set(range(len(train.classes)))
    for name, photo in train._photos.items():
        seen = np.zeros((2, *photo.shape[1:]), bool)
        for which, source in enumerate((train, validation)):
            for label, top, left in source._tiles:
                if source.classes[label] == name:
                    seen[which, top : top + TILE, left : left + TILE] = True
        assert seen.any(axis=(1, 2)).all()
        assert not (seen[0] & seen[1]).any(), name


def test_regions_are_disjoint_and_hold_tiles():
    for height, width in [(300, 451), (512, 512), (660, 550), (192, 96)]:
        (a, b, c, d), (e, f, g, h) = region(height, width, "train"), region(height, width, "validation")
        assert a + c <= e or b + d <= f
        assert min(c, d, g, h) >= TILE


# -- anything else -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("cifar11", "did you mean cifar10?"),
        ("photo", "did you mean photos?"),
        ("someone/cats", "did you mean hub:someone/cats?"),
        ("/no/such/place/at/all", "there is no such file or folder: give a folder of images"),
        ("", "--data is empty"),
    ],
)
def test_unknown(spec, said):
    with pytest.raises(UsageError) as error:
        open_source(spec)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_beside_a_folder(tmp_path):
    (tmp_path / "photographs").mkdir()
    with pytest.raises(UsageError, match=r"did you mean .*/photographs\?"):
        open_source(str(tmp_path / "photografs"))


@pytest.mark.parametrize(
    "opened", [open_source, open_ade, lambda path: open_coco(path, "train"), lambda path: named_images([path])]
)
def test_what_is_in_a_locked_folder_is_one_line(tmp_path, refused, opened):
    write(tmp_path, "locked/a/1.jpg")
    for call in ("stat", "lstat"):
        refused(os, call, tmp_path / "locked" / "a")
    with pytest.raises(UsageError, match=r"locked/a: permission denied; change the permissions of the folders"):
        opened(str(tmp_path / "locked" / "a"))


def test_what_may_not_be_read_is_one_line(tmp_path, refused):
    table = write_parquet(tmp_path / "a.parquet", [JPEG])
    write_shard(tmp_path / "a.tar", [{"jpg": JPEG}])
    for file in (table, tmp_path / "a.tar"):
        refused(builtins, "open", file)
        with pytest.raises(PmaeError, match=rf"{file.name} cannot be read: permission denied$"):
            open_source(f"wds:{file}" if file.suffix == ".tar" else str(file))
    refused(os, "listdir", tmp_path)
    with pytest.raises(UsageError, match="there is no such file or folder: give a folder"):
        open_source(str(tmp_path / "a.parqet"))
    (tmp_path / "folder").mkdir()
    refused(os, "stat", tmp_path / "folder" / "images" / "training")
    with pytest.raises(PmaeError, match=r"^--data .*folder: permission denied$"):
        open_ade(str(tmp_path / "folder"))


def test_folders_without_images(tmp_path):
    with pytest.raises(UsageError, match="is empty"):
        open_source(str(tmp_path))
    write(tmp_path, "a.heic", "b.heic", "c.txt")
    with pytest.raises(UsageError, match=r"files there: 2 \.heic, 1 \.txt"):
        open_source(str(tmp_path))
    with pytest.raises(UsageError, match="neither an image nor a parquet file"):
        open_source(str(tmp_path / "c.txt"))


def test_unknown_split():
    with pytest.raises(UsageError, match="no split 'test'"):
        open_source("photos", "test")


def test_a_folder_with_a_built_in_name_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    _say_which.cache_clear()
    for _ in range(2):
        open_source("photos")
    (record,) = caplog.records
    assert record.getMessage() == "--data photos is the built-in set; the folder of this name is --data ./photos"
    with pytest.raises(UsageError) as error:
        open_source("./photoss")
    assert "did you mean ./photos?" in str(error.value)
