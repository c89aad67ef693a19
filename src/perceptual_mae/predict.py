"""`pmae predict`, as a function: what a fine-tuned network says of images, as files that other tools read.

| task | what is written into the folder |
| --- | --- |
| classification | `predictions.csv`: path, class and probability of the likeliest class, then of the next four |
| detection | `predictions.json`: COCO's results, for `COCO("images.json").loadRes("predictions.json")` of pycocotools; `images.json`: COCO's images (`id`, `file_name`, `height`, `width`) and categories, that these refer to |
| segmentation | `masks/NAME.png` as ADE20K has them: 1 for the first class, 0 for none |

Beside these `overlays/NAME.png` shows it, `skipped.txt` lists images that could not be read, and `predict.json` says
what it was made with. Images are named by their paths below the folder that was given; where several were, below the
folder that all of them have in common.
"""  # noqa: E501 (a table)

import csv
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from perceptual_mae import __version__
from perceptual_mae.data import MAX_PIXELS, BrokenImage, Skip, cores, decode
from perceptual_mae.data.folder import printable
from perceptual_mae.data.named import NamedImage, named_images, output_names
from perceptual_mae.errors import PmaeError, UsageError, refused_by_system
from perceptual_mae.files import write_atomically, write_json, write_text
from perceptual_mae.models.task_network import Prediction
from perceptual_mae.paths import user_path
from perceptual_mae.report.overlay import SCORE, likely, overlay, resized
from perceptual_mae.training.device import choose_device
from perceptual_mae.training.memory import is_out_of_memory
from perceptual_mae.transfer.saved import load_finetuned
from perceptual_mae.transfer.task import Learnt

T = TypeVar("T")
R = TypeVar("R")

MARK = "predict.json"
"""The file that tells a folder of predictions from any other."""
GUESSES = 5
"""Classes that are named for each image."""
TOGETHER = {"classification": 16, "detection": 2, "segmentation": 8}
"""Images that a network sees at once: a hundred masks of a large photograph take a gigabyte."""
SHOWN = (256, 1600)
"""Overlays of images with smaller or larger sides than these, in pixels, are enlarged or reduced."""

Progress = Callable[[int, int], None]
"""Called with the number of images that are done, and of all."""


@dataclass(frozen=True)
class Predicted:
    """What was written.

    Attributes:
        path: the file or folder with the predictions.
        images: that were predicted.
        skipped: images that could not be read, listed in `skipped.txt`.
    """

    path: Path
    images: int
    skipped: int


@dataclass(frozen=True)
class _Said:
    """An image, its names, and what the network says of it."""

    name: str
    output: str
    image: Tensor
    prediction: Prediction


def predict(
    run: Path | str,
    images: Sequence[Path | str],
    out: Path | str,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    score: float = SCORE,
    overlays: bool = True,
    progress: Progress | None = None,
) -> Predicted:
    """Write what a fine-tuned network says of images; see above.

    Args:
        run: a run of `pmae finetune`, of which the best network is taken, or its `model.safetensors`.
        images: files and folders.
        out: folder to write; what an earlier call wrote there is replaced.
        device: auto, cpu or cuda.
        batch_size: images that the network sees at once; None: suited to the task.
        score: detected objects with less are not drawn; `predictions.json` has all of them.
        overlays: whether to draw.
        progress: told how far it is.

    Raises:
        UsageError: no such run or images, or a folder that holds something else.
        PmaeError: no image can be read, the memory or the disk is full.
    """
    out = user_path(out)
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: must be at least 1")
    if not 0 <= score <= 1:
        raise UsageError(f"--score {score}: must lie between 0 and 1")
    _refuse_other(out)
    learnt = load_finetuned(run, choose_device(device))
    found = named_images(images, channels := len(learnt.description["mean"]), outside=out)
    job = _Job(learnt, found, out, channels, batch_size or TOGETHER[learnt.task], score, overlays, progress)
    with refused_by_system(f"--out {out}"):
        return job.write()


@dataclass
class _Job:
    """Predictions in the making; the arguments are those of `predict`."""

    learnt: Learnt
    found: list[NamedImage]
    out: Path
    channels: int
    batch_size: int
    score: float
    overlays: bool
    progress: Progress | None

    def __post_init__(self) -> None:
        self.skipped: list[Skip] = []
        self.count = 0
        self.threads = min(self.batch_size, cores())

    def write(self) -> Predicted:
        """All files. Raises PmaeError if no image could be read."""
        learnt = self.learnt
        self._describe("running")
        for name in ("predictions.csv", "predictions.json", "images.json", "skipped.txt"):
            (self.out / name).unlink(missing_ok=True)
        for name in ("masks", "overlays"):
            if (self.out / name).is_dir():
                shutil.rmtree(self.out / name)
        writers = {"classification": _write_classes, "detection": _write_objects, "segmentation": _write_masks}
        # Reading, drawing and writing need no interpreter, and take longer than a GPU needs to predict.
        with ThreadPoolExecutor(self.threads) as threads:
            path = writers[learnt.task](self.out, learnt, self._drawn(threads))
        if self.skipped:
            lines = (f"{printable(skip.name)}\t{skip.reason}\n" for skip in self.skipped)
            write_text(self.out / "skipped.txt", "".join(lines))
        if not self.count:
            first = self.skipped[0]
            raise PmaeError(
                f"none of the {len(self.found)} images can be read; the first, {first.name}: {first.reason}"
            )
        self._describe("finished")
        return Predicted(path, self.count, len(self.skipped))

    def _describe(self, state: str) -> None:
        facts = {"version": __version__, "task": self.learnt.task, "classes": list(self.learnt.classes)}
        numbers = {"images": self.count, "skipped": len(self.skipped), "state": state}
        write_json(self.out / MARK, facts | numbers)

    def _drawn(self, threads: ThreadPoolExecutor) -> Iterator[_Said]:
        """What is said of each image, drawn on the way."""
        said = self._said(threads)
        return _made_early(threads, self._draw, said, self.threads) if self.overlays else said

    def _draw(self, said: _Said) -> _Said:
        image, prediction = _for_screens(said.image, likely(said.prediction, self.score), self.learnt.task)
        picture = overlay(image, prediction, self.learnt.classes, self.score)
        _write_png(self.out / "overlays" / said.output, picture)
        return said

    def _said(self, threads: ThreadPoolExecutor) -> Iterator[_Said]:
        """What the network says of each image that can be read, in their order."""
        done, outputs = 0, output_names([one.name for one in self.found])
        read = zip(self.found, outputs, _made_early(threads, self._read, self.found, self.threads), strict=True)
        while together := list(islice(read, self.batch_size)):
            images = [image for _, _, image in together if isinstance(image, Tensor)]
            predictions = iter(self._predict(images) if images else [])
            for one, output, image in together:
                if isinstance(image, Tensor):
                    self.count += 1
                    yield _Said(one.name, output, image, next(predictions))
                else:
                    self.skipped.append(image)
            done += len(together)
            if self.progress is not None:
                self.progress(done, len(self.found))

    def _read(self, one: NamedImage) -> Tensor | Skip:
        try:
            return decode(one.path, self.channels, self.learnt.description.get("max_pixels", MAX_PIXELS))
        except BrokenImage as broken:
            return Skip(one.name, str(broken))

    def _predict(self, images: list[Tensor]) -> list[Prediction]:
        try:
            with torch.inference_mode():
                return self.learnt.network.predict(images)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise PmaeError("the memory is full: a smaller --batch-size needs less") from None
            raise


def _made_early(threads: ThreadPoolExecutor, make: Callable[[T], R], items: Iterable[T], early: int) -> Iterator[R]:
    """What `make` makes of each item, in their order, by threads; at most `early` of them before they are asked for."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(threads.submit(make, item))
        if len(waiting) > early:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


# -- a writer for each task -------------------------------------------------------------------------------------------


def _write_classes(out: Path, learnt: Learnt, results: Iterator[_Said]) -> Path:
    guesses = min(GUESSES, len(learnt.classes))
    more = [f"{word}_{place}" for place in range(2, guesses + 1) for word in ("class", "probability")]

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", "class", "probability", *more])
            for said in results:
                values, labels = said.prediction["probabilities"].topk(guesses)
                pairs = zip(labels.tolist(), values.tolist(), strict=True)
                cells = [cell for label, value in pairs for cell in (learnt.classes[label], f"{value:.6f}")]
                table.writerow([printable(said.name), *cells])

    return write_atomically(out / "predictions.csv", write)


def _write_objects(out: Path, learnt: Learnt, results: Iterator[_Said]) -> Path:
    from perceptual_mae.transfer.detection import coco_results

    numbers = learnt.description["category_ids"]
    images: list[dict[str, str | int]] = []

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:  # object by object: all at once may not fit into memory
            between = "[\n"
            for said in results:
                height, width = said.image.shape[1:]
                number = len(images) + 1
                images.append({"id": number, "file_name": printable(said.name), "height": height, "width": width})
                for one in coco_results([said.prediction], [number], numbers):
                    file.write(between + json.dumps(one, allow_nan=False))
                    between = ",\n"
            file.write("[]\n" if between == "[\n" else "\n]\n")

    path = write_atomically(out / "predictions.json", write)
    categories = [{"id": number, "name": name} for number, name in zip(numbers, learnt.classes, strict=True)]
    write_json(out / "images.json", {"info": {}, "images": images, "annotations": [], "categories": categories})
    return path


def _write_masks(out: Path, _: Learnt, results: Iterator[_Said]) -> Path:
    from perceptual_mae.transfer.masks import write_mask

    for said in results:
        write_mask(out / "masks" / said.output, said.prediction["labels"])
    return out / "masks"


# -- pictures and the folder ------------------------------------------------------------------------------------------


def _for_screens(image: Tensor, prediction: Prediction, task: str) -> tuple[Tensor, Prediction]:
    """An image of a size at which it is looked at: words in a very small one could not be read."""
    shorter, longer = sorted(image.shape[1:])
    factor = min(1.0, SHOWN[1] / longer)
    if task != "segmentation" and factor == 1.0:
        factor = max(1.0, min(SHOWN[0] / shorter, SHOWN[1] / longer))
    if factor == 1.0:
        return image, prediction
    height, width = (max(1, round(side * factor)) for side in image.shape[1:])
    return resized(image, prediction, (height, width))


def _write_png(path: Path, picture: Tensor) -> None:
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    write_atomically(path, lambda temporary: image.save(temporary, "PNG", compress_level=4))


def _refuse_other(out: Path) -> None:
    """Raises UsageError if `out` holds something that `predict` did not write."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: this is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise UsageError(f"--out {out}: the folder is not empty and holds no predictions; name another")
