"""Every form of `--data`, and what is said of those that are none."""

import builtins
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from source_reading import JPEG, labels_of, names_of, write, write_parquet, write_shard

from perceptual_mae.data import BrokenImage, decode, open_source
from perceptual_mae.data.ade import open_ade
from perceptual_mae.data.coco import open_coco
from perceptual_mae.data.named import named_images
from perceptual_mae.data.open import _say_which
from perceptual_mae.data.photos import TILE, PhotoTiles, region
from perceptual_mae.errors import PmaeError, UsageError

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
    with pytest.raises(UsageError, match=r"/train is empty"):
        open_source(str(tmp_path))


def test_a_validation_folder_of_files_that_cannot_be_read_is_said(tmp_path):
    write(tmp_path, "train/x/1.jpg", "train/y/2.jpg", "val/x/3.heic", "test/x/4.jpg")
    with pytest.raises(UsageError, match=r"/val holds no image \(files there: 1 \.heic\)"):
        open_source(str(tmp_path), "validation")


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
