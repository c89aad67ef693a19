"""A fine-tuning run to look at: its predictions while it trains, and its report."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perceptual_mae.data.labelled import LabelledSource, Sample
from perceptual_mae.data.types import BrokenImage
from perceptual_mae.files import if_possible, write_json, write_text
from perceptual_mae.models.task_network import Prediction, TaskNetwork
from perceptual_mae.report import finetuned_story as words
from perceptual_mae.report import story
from perceptual_mae.report.confusion import confusion_figure
from perceptual_mae.report.embed import embed
from perceptual_mae.report.figures import Show, save, unseen
from perceptual_mae.report.film import Frame, film
from perceptual_mae.report.overlay import SCORE, likely
from perceptual_mae.report.page import drawing, write_page
from perceptual_mae.report.panels import panels
from perceptual_mae.report.predictions import prediction_grid
from perceptual_mae.report.results import RESULTS, confusion_of, read_results, results_of
from perceptual_mae.report.run_folder import RunRecord, read_run
from perceptual_mae.seeds import Stream, permutation
from perceptual_mae.settings import to_dict
from perceptual_mae.transfer.config import CONFIGS

if TYPE_CHECKING:
    from perceptual_mae.transfer.folder import FinetuneFolder
    from perceptual_mae.transfer.loop import Evaluated
    from perceptual_mae.transfer.task import Task

CONFUSION = "confusion.png"
"""File among the figures: of the best network so far."""
_TOGETHER = 4
"""Images that a network is shown at once."""


class Pictures:
    """Draws what the network says of the same validation images at every evaluation, and keeps the best numbers.

    An observer of `transfer.loop`.

    Args:
        count: images; 0: none are drawn.
        seed: of their choice.
        show: who else is told of a picture.
    """

    def __init__(self, count: int, seed: int, show: Show = unseen) -> None:
        self.count, self.seed, self.show = count, seed, show

    def __call__(self, evaluated: "Evaluated", task: "Task", run: "FinetuneFolder") -> None:
        """Draw `figures/predictions-<step>.png`; of the best network so far `results.json` and the confusion, too."""
        samples = some_samples(task.validation, self.count, self.seed)
        if samples:
            predictions = predicted(evaluated.network, samples)
            figure = prediction_grid(samples, predictions, task.train.classes)
            with if_possible():
                self.show(save(figure, run.figures / f"predictions-{evaluated.step:08d}.png"), evaluated.step)
        if evaluated.best:
            write_json(run.path / RESULTS, results_of(evaluated, task))
            confusion = confusion_of(task)
            if confusion is not None:
                figure = confusion_figure(confusion, task.train.classes)
                with if_possible():
                    save(figure, run.figures / CONFUSION)


def some_samples(source: LabelledSource, count: int, seed: int) -> list[Sample]:
    """A choice of `count` samples that depends on the seed alone, in the source's order; others for broken ones."""
    found: dict[int, Sample] = {}
    for index in permutation(len(source), seed, Stream.PICTURES).tolist():
        if len(found) == count:
            break
        try:
            found[index] = source.read(index)
        except BrokenImage:
            continue
    return [found[index] for index in sorted(found)]


def predicted(network: TaskNetwork, samples: list[Sample]) -> list[Prediction]:
    """What a network says of each; of detected objects those that are drawn: the masks of all would fill the memory."""
    images = [sample.image for sample in samples]
    pieces = (images[start : start + _TOGETHER] for start in range(0, len(images), _TOGETHER))
    return [likely(prediction, SCORE) for piece in pieces for prediction in network.predict(piece)]


def write_finetuned_report(run: Path) -> Path:
    """Write `RUN/report.html` from what lies in the folder of a fine-tuning run, and return its path.

    As the report of a pre-training run it is one file, at any stage of the run, and says what is missing or broken.

    Raises:
        UsageError: `run` is no run folder.
    """
    page = render(read_run(Path(run), "predictions"))
    return write_text(Path(run) / "report.html", page)


def render(run: RunRecord) -> str:
    """The page of a run that has been read."""
    notes = list(run.notes)
    results = read_results(run.path, notes)
    best = words.best(run, results)
    state, state_words = story.status(run)
    curves = words.curves(run)
    confusion = run.path / "figures" / CONFUSION
    defaults = _defaults(run.config)
    values = {
        "name": run.path.resolve().name,
        "task": words.task(run),
        "state": state,
        "state_words": state_words,
        "meaning": words.meaning(run, best, results),
        "summary": words.summary(run),
        "facts": words.facts(run, best, results),
        "film": _film(run, best, notes),
        "apart": words.apart(run),
        "pictured": words.PICTURED.get(words.task(run), ""),
        "headline": None if best is None else (story.accuracy(best.value), best.name),
        "numbers": words.number_lines(best, results),
        "classes": words.class_lines(results),
        "class_heads": [words.measure(one) for one in results.measures],
        "classes_left_out": max(0, len(results.classes) - words.MOST),
        "class_notes": results.notes,
        "class_note": words.class_note(results),
        "confusion": embed(confusion) if confusion.is_file() else None,
        "drawings": [drawing(panel, index) for index, panel in enumerate(panels(curves, shares=words.shares(curves)))],
        "model_rows": words.model_rows(run),
        "data_rows": story.data_rows(run),
        "machine_rows": story.machine_rows(run),
        "run_notes": words.run_notes(run),
        "use": words.use(run),
        "settings": story.settings(run.config, defaults),
        "marked": defaults is not None,
        "command": words.command(run),
        "skipped": run.skipped,
        "skipped_count": run.skipped_count,
        "notes": notes,
    }
    return write_page("finetuned.html.j2", ["report.css", "finetuned.css"], values)


def _defaults(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The default settings of a run's task, with its own encoder and data: these have none."""
    task = config.get("task")
    if not isinstance(task, str) or task not in CONFIGS:
        return None
    return to_dict(CONFIGS[task](encoder="", data=""))


def _film(run: RunRecord, best: words.Best | None, notes: list[str]) -> list[Frame]:
    """Each picture with the metric at its step."""
    track = None if best is None else run.tracks.get(f"validation/{best.metric}")

    def caption(step: int) -> str:
        value = None if track is None else track.at(step)
        return "" if best is None or value is None else f" · {best.name} {story.accuracy(value)}"

    return film(run.pictures, caption, notes)
