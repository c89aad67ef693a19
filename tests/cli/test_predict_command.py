"""`pmae predict`: what it writes for each task, how it names things, and what it refuses."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from perceptual_mae import load_encoder
from perceptual_mae import predict as predict_module
from perceptual_mae.cli.main import main
from perceptual_mae.data.decode import decode
from perceptual_mae.data.named import named_images, output_names
from perceptual_mae.data.palette import class_colours
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.models.classifier import Classifier
from perceptual_mae.predict import predict
from perceptual_mae.report.overlay import overlay
from perceptual_mae.transfer.saved import load_finetuned, save_finetuned
from perceptual_mae.transfer.task import Learnt

ANIMALS = ("cat", "dog", "owl", "newt", "elk", "=ant")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that has learnt nothing, but has opinions."""
    torch.manual_seed(0)
    network = Classifier.of(load_encoder("random:micro/8", 32), len(ANIMALS)).eval()
    torch.nn.init.normal_(network.encoder.head.weight, std=0.3)
    torch.nn.init.normal_(network.encoder.fc_norm.bias)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    return save_finetuned(Learnt("classification", network, ANIMALS, network.describe()), path, {"top1": 0.2})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Photographs of three sizes in a folder and one below, one of them twice but for its suffix; and a broken one."""
    root = tmp_path / "pictures"
    (root / "below").mkdir(parents=True)
    photograph = Image.fromarray(data.astronaut())
    photograph.crop((0, 0, 60, 40)).save(root / "a.jpg")
    photograph.crop((100, 0, 160, 90)).save(root / "b.png")
    photograph.crop((200, 0, 250, 50)).save(root / "below" / "a.png")
    photograph.crop((200, 0, 250, 50)).convert("L").save(root / "below" / "a.bmp")
    (root / "below" / "broken.jpg").write_bytes(b"no picture")
    (root / "notes.txt").write_text("no picture either")
    return root


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def table(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class StandIn(torch.nn.Module):
    """A network that says what a function of the image says."""

    def __init__(self, say: Callable[[Tensor], dict[str, Tensor]]) -> None:
        super().__init__()
        self.say, self.shown = say, list[int]()

    def predict(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        self.shown.append(len(images))
        return [self.say(image) for image in images]


@pytest.fixture
def learn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StandIn]:
    """`learn(task, say, ...)`: runs are of this task, and say that."""

    def make(task: str, say: Callable[[Tensor], dict[str, Tensor]], **description: Any) -> StandIn:
        network = StandIn(say)
        learnt = Learnt(task, network, ANIMALS, {"mean": [0.5] * 3} | description)  # type: ignore[arg-type]
        monkeypatch.setattr(predict_module, "load_finetuned", lambda path, device: learnt)
        return network

    return make


# -- classification ---------------------------------------------------------------------------------------------------


def test_classes_come_as_a_table_of_what_the_network_says(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(model), str(pictures), "--out", str(out), "--batch-size", "3"]) == 0
    captured = capsys.readouterr()
    said = f"{out}/predictions.csv: 4 images, drawn in {out}/overlays; 1 broken left out, see {out}/skipped.txt\n"
    assert (captured.out, captured.err) == (said, "")
    rows = table(out)
    assert [row["path"] for row in rows] == ["a.jpg", "b.png", "below/a.bmp", "below/a.png"]
    assert list(rows[0]) == ["path", "class", "probability"] + [
        f"{word}_{place}" for place in (2, 3, 4, 5) for word in ("class", "probability")
    ]
    network = load_finetuned(model).network
    for row in rows:
        (own,) = network.predict([decode(pictures / row["path"])])
        order = own["probabilities"].argsort(descending=True).tolist()
        assert [row["class"], *(row[f"class_{place}"] for place in (2, 3, 4, 5))] == [ANIMALS[k] for k in order[:5]]
        assert float(row["probability"]) == pytest.approx(float(own["probabilities"].max()), abs=1e-5)
    assert (out / "skipped.txt").read_text().startswith("below/broken.jpg\tnot an image")
    assert files(out / "overlays") == ["a.png", "b.png", "below/a.bmp.png", "below/a.png.png"]
    with Image.open(out / "overlays" / "b.png") as opened:
        assert opened.size == (256, 384)  # enlarged: a word could not be read in 60 pixels
    facts = json.loads((out / "predict.json").read_text())
    assert (facts["task"], facts["images"], facts["skipped"]) == ("classification", 4, 1)
    assert facts["classes"] == list(ANIMALS)


def test_overlays_can_be_left_out_and_an_earlier_call_is_replaced(model: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = predict(model, [pictures], out)
    assert (first.path, first.images, first.skipped) == (out / "predictions.csv", 4, 1)
    (out / "mine.txt").write_text("kept")
    done = predict(model, [pictures / "a.jpg"], out, overlays=False)
    assert (done.images, done.skipped) == (1, 0)
    assert files(out) == ["mine.txt", "predict.json", "predictions.csv"]
    assert [row["path"] for row in table(out)] == ["a.jpg"]


def test_images_are_read_as_large_as_the_network_was_trained_on(
    learn: Callable[..., StandIn], pictures: Path, tmp_path: Path
) -> None:
    learn("segmentation", lambda image: {"labels": image[0] // 64}, max_pixels=60 * 40)
    done = predict("run", [pictures], tmp_path / "out")
    assert (done.images, done.skipped) == (1, 4)
    assert "b.png\t" in (tmp_path / "out" / "skipped.txt").read_text(encoding="utf-8")


def test_the_results_are_no_images(model: Path, pictures: Path) -> None:
    out = pictures / "out"
    predict(model, [pictures], out)
    assert predict(model, [pictures], out).images == 4
    with pytest.raises(UsageError, match="there is no image"):
        predict(model, [out / "overlays"], out)
    assert files(out / "overlays")


# -- detection --------------------------------------------------------------------------------------------------------


def objects(image: Tensor) -> dict[str, Tensor]:
    """Two objects, in the upper left and the lower right of an image."""
    height, width = image.shape[1:]
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 5:20, 5:15] = masks[1, height - 10 :, width - 8 :] = True
    boxes = torch.tensor([[5.0, 5.0, 15.0, 20.0], [width - 8.0, height - 10.0, width, height]])
    return {"boxes": boxes, "labels": torch.tensor([1, 3]), "scores": torch.tensor([0.9, 0.3]), "masks": masks}


def test_objects_come_in_the_format_that_pycocotools_reads(
    learn: Callable[..., StandIn], pictures: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO

    learn("detection", objects, category_ids=[7, 8, 90, 91, 92, 93])
    out = tmp_path / "out"
    done = predict("run", [pictures], out, batch_size=2)
    assert done.path == out / "predictions.json"
    results = COCO(str(out / "images.json")).loadRes(str(out / "predictions.json"))
    names = {image["file_name"]: image for image in results.dataset["images"]}
    assert list(names) == ["a.jpg", "b.png", "below/a.bmp", "below/a.png"]
    assert (names["b.png"]["width"], names["b.png"]["height"]) == (60, 90)
    found = results.loadAnns(results.getAnnIds(imgIds=[names["b.png"]["id"]]))
    assert [one["category_id"] for one in found] == [7, 90]
    assert [one["score"] for one in found] == pytest.approx([0.9, 0.3])  # those that are not drawn as well
    assert found[1]["bbox"] == [52.0, 80.0, 8.0, 10.0]
    assert results.annToMask(found[0]).sum() == 150
    assert {one["name"] for one in results.loadCats([7, 90])} == {"cat", "owl"}


def test_objects_are_drawn_from_a_score_on(learn: Callable[..., StandIn], pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    learn("detection", objects, category_ids=[1, 2, 3, 4, 5, 6])
    shown = {}
    for score in (0.2, 0.5):
        predict("run", [pictures / "b.png"], tmp_path / str(score), score=score)
        shown[score] = decode(tmp_path / str(score) / "overlays" / "b.png")
    half = shown[0.5].shape[1] // 2
    assert torch.equal(shown[0.2][:, :half], shown[0.5][:, :half])
    assert not torch.equal(shown[0.2][:, half:], shown[0.5][:, half:])


def test_no_object_at_all_is_an_empty_list(learn: Callable[..., StandIn], pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    learn("detection", lambda image: {k: v[:0] for k, v in objects(image).items()}, category_ids=[1, 2, 3, 4, 5, 6])
    predict("run", [pictures], tmp_path / "out")
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []


# -- segmentation -----------------------------------------------------------------------------------------------------


def test_masks_hold_the_number_of_a_class_and_show_its_colour(
    learn: Callable[..., StandIn], pictures: Path, tmp_path: Path
) -> None:
    network = learn("segmentation", lambda image: {"labels": image[0] // 64})
    out = tmp_path / "out"
    assert predict("run", [pictures], out, batch_size=3).path == out / "masks"
    assert network.shown == [3, 1]
    assert files(out / "masks") == files(out / "overlays") == ["a.png", "b.png", "below/a.bmp.png", "below/a.png.png"]
    image = decode(pictures / "b.png")
    with Image.open(out / "masks" / "b.png") as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), image[0].numpy() // 64 + 1)
        colours = np.asarray(mask.convert("RGB"))
    assert np.array_equal(colours, class_colours(6)[image[0].numpy() // 64])
    drawn = overlay(image, {"labels": image[0] // 64}, ANIMALS)
    assert torch.equal(decode(out / "overlays" / "b.png"), drawn)  # to the pixel: nothing has to be read in it


# -- names ------------------------------------------------------------------------------------------------------------


def test_images_are_named_below_the_folder_that_they_have_in_common(tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("one/x.jpg", "one/deep/y.PNG", "two/x.jpg", "two/x.txt", "z.tif", ".hidden/h.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path / "two")

    def names(*arguments: str) -> list[str]:
        return [image.name for image in named_images(arguments)]

    assert names("../one") == ["deep/y.PNG", "x.jpg"]
    assert names("x.jpg") == ["x.jpg"]
    assert names("x.txt") == ["x.txt"]  # who names a file means it
    assert names("../one/x.jpg", "x.jpg") == ["one/x.jpg", "two/x.jpg"]
    assert names("../one", ".") == ["one/deep/y.PNG", "one/x.jpg", "two/x.jpg"]
    assert names("..", "x.jpg", "../two/../one/x.jpg") == ["one/deep/y.PNG", "one/x.jpg", "two/x.jpg", "z.tif"]
    assert names("../one/deep/y.PNG", "../z.tif") == ["one/deep/y.PNG", "z.tif"]
    for image in named_images(["..", "."]):
        assert image.path.is_file()
        assert ".." not in Path(image.name).parts
        assert not Path(image.name).is_absolute()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/x.jpg", "b/x.jpg", "x.jpg"], ["a/x.png", "b/x.png", "x.png"]),
        (["a/x.jpg", "a/x.png", "a/y.jpg"], ["a/x.jpg.png", "a/x.png.png", "a/y.png"]),
        (["x.jpg", "x.jpg.bmp", "x.png"], ["x.jpg.png", "x.jpg.bmp.png", "x.png.png"]),
        (["a.b/c", "a.b/d.e.jpg"], ["a.b/c.png", "a.b/d.e.png"]),
    ],
)
def test_no_two_results_have_one_name(names: list[str], expected: list[str]) -> None:
    assert output_names(names) == expected
    assert len(set(expected)) == len(names)


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("MODEL PICTURES", "--out is missing; see `pmae predict --help`"),
        ("MODEL", "IMAGES is missing; see `pmae predict --help`"),
        (
            "MODEL PICTURES/none.jpg PICTURES/nor --out OUT",
            "IMAGES PICTURES/none.jpg, PICTURES/nor: there is no such file",
        ),
        (
            "MODEL PICTURES --out PICTURES",
            "--out PICTURES: the folder is not empty and holds no predictions; name another",
        ),
        ("MODEL PICTURES --out PICTURES/a.jpg", "--out PICTURES/a.jpg: this is a file; name a folder"),
        ("MODEL PICTURES --out OUT --batch-size 0", "--batch-size 0: must be at least 1"),
        ("MODEL PICTURES --out OUT --score 1.5", "--score 1.5: must lie between 0 and 1"),
        ("MODEL PICTURES --out OUT --overlays perhaps", "--overlays perhaps: give true or false"),
        ("MODEL PICTURES --out OUT --scroe 0.1", "unknown flag --scroe; did you mean --score?"),
        ("PICTURES PICTURES --out OUT", "PICTURES is no run of `pmae finetune` and no file that one wrote"),
        ("MODEL EMPTY --out OUT", "IMAGES EMPTY: there is no image"),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(
    arguments: str, message: str, model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"MODEL": model, "PICTURES": pictures, "OUT": tmp_path / "out", "EMPTY": tmp_path / "empty"}
    for word, path in places.items():
        arguments, message = arguments.replace(word, str(path)), message.replace(word, str(path))
    before = files(tmp_path)
    assert main(["predict", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"pmae: {message}")
    assert files(tmp_path) == before


def test_images_of_which_none_can_be_read_are_an_error(model: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(PmaeError, match=r"none of the 1 images can be read; the first, broken\.jpg: not an image"):
        predict(model, [pictures / "below" / "broken.jpg"], tmp_path / "out")
    assert predict(model, [pictures / "a.jpg"], tmp_path / "out").images == 1  # the folder can be used again


def test_a_full_memory_says_which_flag_to_lower(learn: Callable[..., StandIn], pictures: Path, tmp_path: Path) -> None:
    def full(image: Tensor) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    learn("segmentation", full)
    with pytest.raises(PmaeError, match="--batch-size"):
        predict("run", [pictures], tmp_path / "out")


def test_a_disk_that_refuses_is_one_line(model: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PmaeError, match="not a directory"):
        predict(model, [pictures], tmp_path / "file" / "out")


def test_images_are_read_early_but_few(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next images are read while a batch is predicted; all at once would not fit into memory."""
    (tmp_path / "many").mkdir()
    for number in range(40):
        shade = Image.fromarray(np.full((32, 32, 3), 6 * number, np.uint8))
        shade.save(tmp_path / "many" / f"{number:02}.png")
    monkeypatch.setattr(predict_module, "cores", lambda: 3)
    read, most = [0], [0]

    def count(path: Path, *limits: int) -> Tensor:
        read[0] += 1
        return decode(path, *limits)

    def progress(done: int, total: int) -> None:
        most[0] = max(most[0], read[0] - done)

    monkeypatch.setattr(predict_module, "decode", count)
    results = [tmp_path / "one", tmp_path / "several"]
    predict(model, [tmp_path / "many"], results[0], batch_size=4, progress=progress)
    assert 1 <= most[0] <= 4
    monkeypatch.setattr(predict_module, "cores", lambda: 1)
    predict(model, [tmp_path / "many"], results[1], batch_size=4)
    first, second = ((out / "predictions.csv").read_text() for out in results)
    assert first == second
    assert [row.split(",")[0] for row in first.splitlines()[1:]] == [f"{number:02}.png" for number in range(40)]
