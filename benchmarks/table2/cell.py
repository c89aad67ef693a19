"""One cell of the table: a method, trained and measured once. What it found is a small JSON file in the repository."""

import dataclasses
import json
import statistics
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perceptual_mae import __version__
from perceptual_mae.errors import UsageError
from perceptual_mae.evaluation.config import EvaluateConfig
from perceptual_mae.files import write_json
from perceptual_mae.finetune import finetune
from perceptual_mae.measure.comparison import compare
from perceptual_mae.measure.config import CompareConfig
from perceptual_mae.methods import METHODS, parts_of
from perceptual_mae.pretraining.config import LogConfig, OptimizerConfig, PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.settings import from_dict, to_dict
from perceptual_mae.terminal import messages
from perceptual_mae.transfer.config import ClassificationConfig, FinetuneLogConfig, MixConfig
from perceptual_mae.transfer.folder import FinetuneFolder

SHARED = Path(__file__).parents[3] / "shared"
RESULTS = Path(__file__).parents[1] / "results" / "table2"
WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
NETWORK = f"timm:tf_efficientnet_lite0:{WEIGHTS}" if WEIGHTS.is_file() else ""
"""What Fréchet distances are measured in, and what methods with a fixed network look through; empty: nothing."""
SHARE = 0.1
"""Of the labels, for fine-tuning."""


@dataclass(frozen=True)
class Cell:
    """What is trained.

    Attributes:
        data: folder with train.parquet and validation.parquet, or another data argument.
        method: a row of Table 2, with +ARCHITECTURE where a method has two.
        model: size.
        size: side of the images in pixels.
        epochs: passes over the images.
        seed: of everything random.
        knob: what differs from the start, such as `discriminator.lr=1e-4`; empty: nothing.
    """

    data: str
    method: str
    model: str = "micro"
    size: int = 64
    epochs: int = 15
    seed: int = 0
    knob: str = ""

    @property
    def images(self) -> str:
        """The name of the data set."""
        return Path(self.data).name

    @property
    def table(self) -> str:
        """The table that it belongs to."""
        return f"{self.images}-{self.model}"

    @property
    def name(self) -> str:
        """Of its folder and its file."""
        knob = self.knob.replace("=", "_").replace("&", "+").replace('"', "")  # every file system has these letters
        return "-".join(filter(None, [self.method, knob, f"{self.epochs}ep", f"seed{self.seed}"]))

    @property
    def file(self) -> Path:
        """Where its numbers are kept."""
        return RESULTS / self.table / ("knobs" if self.knob else "rows") / f"{self.name}.json"

    def found(self) -> dict[str, Any]:
        """The content of its file; empty before it was filled.

        Raises:
            UsageError: the file is of images of another size: all of a table have the same.
        """
        content = read_if_there(self.file)
        size = content.get("cell", {}).get("size", self.size)
        if size != self.size:
            raise UsageError(f"--image-size {self.size}: {self.file} is of images of {size} pixels, like its table")
        return content

    def folder(self, runs: Path) -> Path:
        """Of its comparison, in the folder of all of them: with weights, logs and pictures."""
        return runs / self.table / self.name

    def settings(self, network: str, precision: str, workers: int | str) -> PretrainConfig:
        """The training, the same for all rows but for what the knob turns.

        Args:
            network: what methods with a fixed network look through.
            precision, workers: of the machine.
        """
        method, architecture = parts_of(self.method)
        config = PretrainConfig(
            data=self.data,
            method=method,
            architecture=architecture,
            loss_network=network if METHODS[method].loss_network else None,
            model=self.model,  # type: ignore[arg-type]
            image_size=self.size,
            patch_size=8,
            epochs=self.epochs,
            batch_size=256,
            lr=1.5e-3,
            seed=self.seed,
            precision=precision,  # type: ignore[arg-type]
            workers=workers,  # type: ignore[arg-type]
            optimizer=OptimizerConfig(warmup_epochs=1),
            log=LogConfig(pictures=4, tensorboard=False),
        )
        if not self.knob:
            return config
        plain = to_dict(config)
        for turned in self.knob.split("&"):
            name, _, value = turned.partition("=")
            *path, last = name.split(".")
            reduce(dict.__getitem__, path, plain)[last] = json.loads(value)
        return from_dict(PretrainConfig, plain)


def fill(
    cell: Cell, folder: Path, *, precision: str, workers: int | str, finetuned: bool, network: str = NETWORK
) -> dict[str, Any]:
    """Train and measure a cell, unless its file is there; what was cut off goes on.

    Args:
        cell: what.
        folder: for runs; they may be deleted when the file is there.
        precision, workers: as of `pmae pretrain`.
        finetuned: whether it is also fine-tuned on a tenth of the labels.
        network: what Fréchet distances are measured in, and what methods with a fixed network look through.

    Returns:
        the content of its file.
    """
    if there := cell.found():
        return there
    settings = cell.settings(network, precision, workers)
    out = cell.folder(folder)
    evaluation = EvaluateConfig(encoder="", fd=(network,) if network else (), workers=0)
    config = CompareConfig(
        pretrain=settings,
        evaluate=evaluation,
        methods=(cell.method,),
        loss_networks=(network,) if network else (),
        floors=False,
        out=str(out),
    )
    (row,) = json.loads((compare(config, messages()) / "results.json").read_text(encoding="utf-8"))["rows"]
    if row["failed"]:
        found: dict[str, Any] = {"failed": row["failed"]}
    else:
        run = out / row["runs"][0]
        found = {"measured": {name: round(values[0], 5) for name, values in row["metrics"].items()}}
        if finetuned:
            found["measured"]["finetune/top1"] = round(tenth_of_labels(run, cell, folder), 5)
        found |= {"cost": row["cost"], "course": course(run), "machine": machine(run)}
    found = {"cell": dataclasses.asdict(cell) | {"data": cell.images}, **found}
    found |= {"settings": differing(settings), "version": __version__, "day": f"{datetime.now(UTC):%Y-%m-%d}"}
    write_json(cell.file, found)
    return found


def read(file: Path) -> dict[str, Any]:
    """The content of a file, such as a cell's."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def read_if_there(file: Path) -> dict[str, Any]:
    """The content of a file beside the cells; empty before it was made."""
    return read(file) if file.is_file() else {}


def differing(settings: PretrainConfig) -> dict[str, Any]:
    """Settings that are not the default, without places on a disk."""
    default = to_dict(PretrainConfig(data=""))
    own = {name: value for name, value in to_dict(settings).items() if value != default[name]}
    return {name: value for name, value in own.items() if name not in ("data", "out", "loss_network", "workers")}


def course(run: Path) -> list[dict[str, float]]:
    """How the run went: some twenty of its validations, and what was logged with them."""
    kept = ("step", "epoch", "loss/total", "validation/mse", "validation/l1", "d_accuracy", "ada_p")
    records = [record for record in RunFolder.read(run).records() if "validation/mse" in record]
    every = max(1, len(records) // 20)
    return [{name: round(record[name], 5) for name in kept if name in record} for record in records[::-every][::-1]]


def machine(run: Path) -> dict[str, Any]:
    """What it was trained on."""
    facts = RunFolder.read(run).facts()
    records = RunFolder.read(run).records()
    found = {name: facts[name] for name in ("device", "precision", "torch") if name in facts}
    rates = [record["images_per_second"] for record in records]
    return found | {"seconds": records[-1]["seconds"], "images_per_second": statistics.median(rates)}


# -- a tenth of the labels ---------------------------------------------------------------------------------------------


def tenth_of_labels(run: Path, cell: Cell, folder: Path) -> float:
    """Validation top-1 after fine-tuning on a tenth of the labels, the same tenth for all."""
    # Few epochs of a small network: as much augmentation as MAE's hundred epochs would leave it undecided.
    mix = MixConfig(auto_augment=None, mixup=0.0, cutmix=0.0, erasing=0.0)
    config = ClassificationConfig(
        encoder=str(run),
        data=str(few_labels(Path(cell.data), folder / "data")),
        out=str(run.parents[1] / "finetuned"),
        image_size=cell.size,
        epochs=30,
        batch_size=128,
        lr=1e-3,
        layer_decay=0.75,
        drop_path=0.0,
        seed=cell.seed,
        workers=0,
        mix=mix,
        log=FinetuneLogConfig(evaluate_every=30.0, pictures=0, tensorboard=False),
    )
    records = FinetuneFolder.read(finetune(config, messages())).records()
    return float(records[-1]["validation/top1"])


def few_labels(data: Path, folder: Path) -> Path:
    """A folder with the first tenth of each class of `train.parquet`, and the whole of `validation.parquet`."""
    few = folder / f"{data.name}-tenth"
    if not (few / "validation.parquet").exists():
        few.mkdir(parents=True, exist_ok=True)
        table = pq.read_table(data / "train.parquet")
        labels = table.column("label").to_pylist()
        many = {label: labels.count(label) for label in set(labels)}
        seen: dict[int, int] = {}
        kept = []
        for label in labels:
            seen[label] = seen.get(label, 0) + 1
            kept.append(seen[label] <= many[label] * SHARE)
        pq.write_table(table.filter(pa.array(kept)), few / "train.parquet")
        (few / "validation.parquet").symlink_to((data / "validation.parquet").resolve())
    return few
