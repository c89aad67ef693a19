"""What any row should beat, and what labels of a million images reach: the same measurements without training."""

import json
from pathlib import Path
from typing import Any

from benchmarks.table2.cell import NETWORK, RESULTS, read_if_there
from perceptual_mae.evaluation.config import EvaluateConfig
from perceptual_mae.files import write_json
from perceptual_mae.measure.evaluation import evaluate
from perceptual_mae.report.evaluation import headline
from perceptual_mae.terminal import messages

ENCODERS = {
    "raw pixels, 16 x 16": "pixels:16",
    "random weights": "random:{model}/8",
    "EfficientNet-Lite0, labels of ImageNet, at 224 px": "{network}",
}


def floors_file(data: str, model: str) -> Path:
    """Where the floors of a table are kept."""
    return RESULTS / f"{data}-{model}" / "floors.json"


def read_floors(data: str, model: str) -> dict[str, Any]:
    """Floors by their name, each like a cell; none before they were measured."""
    return read_if_there(floors_file(data, model))


def measure_floors(data: str, model: str, size: int, folder: Path, workers: int | str, network: str = NETWORK) -> Path:
    """Measure what is not there yet.

    Args:
        data: data argument.
        model: size of the random encoder.
        size: side of the images that it sees, in pixels.
        folder: for the evaluations.
        workers: as of `pmae evaluate`.
        network: a network that has learnt from labels; empty: none.
    """
    name = Path(data).name
    found = read_floors(name, model)
    for number, (title, pattern) in enumerate(ENCODERS.items()):
        spec = pattern.format(model=model, network=network)
        if title in found or not spec:
            continue
        settings = EvaluateConfig(
            encoder=spec,
            data=data,
            out=str(folder / f"{name}-{model}" / "floors" / str(number)),
            parts=("knn", "linear"),
            image_size=size if spec.startswith("random:") else None,
            workers=workers,  # type: ignore[arg-type]
        )
        results = evaluate(settings, messages()) / "results.json"
        found[title] = {"measured": headline(json.loads(results.read_text(encoding="utf-8")))}
        write_json(floors_file(name, model), found)
    return floors_file(name, model)
