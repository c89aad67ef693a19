"""A comparison of methods on a person's images: train each, measure all the same way, write one report.

What is there already is not repeated: a finished run is left alone, one that was cut off goes on, and so does an
evaluation.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from perceptual_mae import __version__
from perceptual_mae.credentials import public, without_credentials
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.evaluation.config import EvaluateConfig
from perceptual_mae.files import write_json, write_text
from perceptual_mae.measure.config import FLOORS, CompareConfig
from perceptual_mae.measure.evaluation import evaluate, folder_of, measured_in
from perceptual_mae.measure.pictures import draw_side_by_side
from perceptual_mae.methods import METHODS
from perceptual_mae.paths import folder_name, user_path
from perceptual_mae.pretraining.config import PretrainConfig
from perceptual_mae.pretraining.folder import RunFolder
from perceptual_mae.report.comparison import write_comparison
from perceptual_mae.report.evaluation import headline
from perceptual_mae.report.names import told_apart
from perceptual_mae.settings import to_dict
from perceptual_mae.training.signals import STOPPING, Interrupted, StopRequest

Row = dict[str, Any]


def compare(config: CompareConfig, console: Console | None = None, command: str = "") -> Path:
    """Train, measure and report.

    Args:
        config: what to compare.
        console: where it is shown how far it is; None: nowhere.
        command: the line that repeats it, for the report.

    Returns:
        the folder, with `report.html`, `results.json` and `results.md`.

    Raises:
        UsageError: settings that cannot be right.
        PmaeError: nothing could be trained; or it was interrupted, and the same command goes on.
    """
    config.check()
    folder = user_path(config.out)
    config = replace(config, out=os.path.expanduser(config.out))  # also for those that train its runs
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder}: this is a file; name a folder")
    content = _Content(folder, config, command)
    for name in config.methods:
        for number in range(config.seeds):
            settings = config.run(name, number)
            failure = train(settings, folder, console)
            content.trained(name, settings, failure)
            if failure is None:
                content.measured(name, _evaluated(config, settings.out, settings.out + "/evaluation", console))
    others = {name: spec.format(**vars(config.pretrain)) for name, spec in FLOORS.items()} if config.floors else {}
    for name, spec in others.items():
        content.other(name, name, "floor", spec)
        content.measured(name, _evaluated(config, spec, f"{folder}/encoders/{folder_name(name)}", console))
    for spec in config.encoders:
        out = encoder_folder(folder / "encoders", spec)
        found = _evaluated(config, spec, str(out), console, at_its_size=True)
        row = f"--encoders {spec}"  # its name may be that of another row
        content.other(row, found["encoder"]["name"], "published", spec)
        content.measured(row, found)
    if not content.runs:
        content.finish({})
        raise PmaeError(f"--out {folder}: no method could be trained; {content.failures[0]}")
    content.finish(draw_side_by_side(folder, content.runs, config.evaluate.device))
    return folder


def train(settings: PretrainConfig, folder: Path, console: Console | None) -> str | None:
    """Train one run in a process of its own, unless that is done: what one run does to memory, no other run sees.

    Returns:
        why it failed; None where it did not.

    Raises:
        Interrupted: it was asked to stop, and has saved everything.
        UsageError: it did not take its settings; it has said which.
    """
    if _is_done(settings):
        return None
    file = folder / "settings" / f"{Path(settings.out).name}.yaml"
    told, shared = to_dict(settings), public(to_dict(settings))
    write_text(file, yaml.safe_dump(shared, sort_keys=False, allow_unicode=True))
    if told != shared:
        file.chmod(0o600)  # before the password is in it: nobody else reads that
        file.write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", "perceptual_mae.cli.main", "pretrain", "--config", str(file)]
    try:
        with StopRequest() as stop:
            errors = None if console else subprocess.DEVNULL
            code = _ended(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors), stop)
    finally:
        write_text(file, yaml.safe_dump(shared, sort_keys=False, allow_unicode=True))
    number = stop.signal or (code - 128 if code > 128 else max(0, -code))
    if number in STOPPING:
        raise Interrupted(f"interrupted; everything is saved in {folder}: the same command continues", number)
    if number:
        return f"the process was killed (signal {number}), most often for lack of memory: lower --batch-size"
    if code == UsageError.exit_code:
        raise UsageError(f"{settings.out} could not be trained with these settings: see the line above")
    if code:
        return str(_facts(settings.out).get("message") or f"it ended with exit code {code}")
    return None


def _ended(process: subprocess.Popen[bytes], stop: StopRequest) -> int:
    """The exit code of a process that saves and ends when it is told to, as it is when this one is."""
    told = False
    while True:
        try:
            return process.wait(timeout=0.5)
        except KeyboardInterrupt:
            return process.wait()  # a second Ctrl-C: it reached that one, too, which ends at once
        except subprocess.TimeoutExpired:
            # Ctrl-C reaches both, `kill` and a container's end this one alone. SIGTERM is no second Ctrl-C.
            if stop.signal and not told:
                process.terminate()
                told = True


def _is_done(settings: PretrainConfig) -> bool:
    """Whether a run has been trained to its end with exactly these settings."""
    try:
        known = RunFolder.read(settings.out).config
        return known == RunFolder.parse(public(to_dict(settings))) and _facts(settings.out).get("state") == "finished"
    except PmaeError:
        return False


def _facts(run: str) -> Mapping[str, Any]:
    try:
        return RunFolder.read(run).facts()
    except PmaeError:
        return {}


def _evaluated(
    config: CompareConfig, spec: str, out: str, console: Console | None, at_its_size: bool = False
) -> dict[str, Any]:
    """What an evaluation of an encoder found: the content of its `results.json`.

    Every row is measured on the images that the methods are trained on, whatever size its own encoder may read.
    """
    size = None if at_its_size else config.pretrain.image_size
    settings: EvaluateConfig = replace(
        config.evaluate, encoder=spec, data=config.pretrain.data, out=out, image_size=config.evaluate.image_size or size
    )
    limit = config.pretrain.loader.max_pixels
    folder = evaluate(settings, console, val_data=config.pretrain.val_data, max_pixels=limit)
    found: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return found


def encoder_folder(parent: Path, spec: str) -> Path:
    """The folder in `parent` for what is measured of an encoder: where that is already, under whatever name."""
    floors = {parent / folder_name(name) for name in FLOORS}  # one of them may be the same encoder in another size
    there = sorted(file.parent for file in parent.glob("*/results.json") if file.parent not in floors)
    before = (folder for folder in there if measured_in(folder) == without_credentials(spec))
    return next(before, folder_of(parent, spec))


def rows_told_apart(rows: Iterable[Row]) -> list[Row]:
    """The rows, encoders last, no two under one name; methods and floors keep theirs."""
    rows = list(rows)
    others = [row for row in rows if row["kind"] != "published"]
    encoders = [row for row in rows if row["kind"] == "published"]
    taken = [row["name"] for row in others]
    names = told_apart([row["name"] for row in encoders], [row["spec"] for row in encoders], taken)
    return [*others, *(row | {"name": name} for row, name in zip(encoders, names, strict=True))]


class _Content:
    """`results.json` as it grows; the report is written anew with it."""

    def __init__(self, folder: Path, config: CompareConfig, command: str) -> None:
        self.folder, self.config = folder, config
        self.rows: dict[str, Row] = {}
        self.runs: dict[str, Path] = {}
        self.failures: list[str] = []
        pretrain = config.pretrain
        self.content: dict[str, Any] = {
            "version": __version__,
            "state": "running",
            "data": {"spec": without_credentials(pretrain.data)} | _validation(pretrain),
            "setup": {
                "model": pretrain.model,
                "image_size": list(pretrain.size),
                "patch_size": pretrain.patch_size,
                "epochs": pretrain.epochs,
                "batch_size": pretrain.batch_size,
                "mask_ratio": pretrain.mask_ratio,
                "seeds": [pretrain.seed + number for number in range(config.seeds)],
            },
            "command": command,
            "protocols": {},
            "notes": [],
            "pictures": {},
        }

    def trained(self, name: str, settings: PretrainConfig, failure: str | None) -> None:
        """Note a run, and what it took."""
        run, rows = Path(settings.out), METHODS[settings.method].rows
        architecture = settings.architecture or str(next(iter(rows)))
        entry = self.rows.setdefault(
            name,
            {
                "name": name,
                "kind": "method",
                "method": settings.method,
                "architecture": architecture,
                "runs": [],
                "metrics": {},
                "cost": {},
                "failed": None,
            },
        )
        entry["runs"].append(str(run.relative_to(self.folder)))
        facts = _facts(settings.out)
        if failure is not None:
            entry["failed"] = f"{run.name}: {failure}"
            self.failures.append(entry["failed"])
        else:
            self.runs.setdefault(name, run)
            entry["cost"] = _cost(run, facts)
            self.content["setup"] |= {key: facts[key] for key in ("device", "precision", "steps") if key in facts}
            self.content["data"]["train_images"] = facts.get("data", {}).get("images")

    def other(self, key: str, name: str, kind: str, spec: str) -> None:
        """Note an encoder that was not trained here."""
        spec = without_credentials(spec)
        self.rows[key] = {"name": name, "kind": kind, "spec": spec, "metrics": {}, "cost": {}}

    def measured(self, key: str, found: Mapping[str, Any]) -> None:
        """Add what an evaluation found to a row: one more value of each number."""
        row, data = self.rows[key], found["data"]
        for measure, value in headline(found).items():
            row["metrics"].setdefault(measure, []).append(value)
        row["cost"].setdefault("encoder_parameters", found["encoder"]["parameters"])
        for part, entry in found["parts"].items():
            keys = [part] if part == "reconstruction" else [f"{part}/top1", f"{part}/top5"]
            self.content["protocols"] |= dict.fromkeys(keys, entry["protocol"])
        if row["kind"] == "method":
            self.content["data"] |= {"validation_images": data["test_images"], "classes": data["classes"]}
            self.content["notes"] += [note for note in found["notes"] if note not in self.content["notes"]]
        self._write()

    def finish(self, pictures: Mapping[str, str]) -> None:
        """Everything is there."""
        self.content |= {"state": "finished", "pictures": dict(pictures)}
        self._write()

    def _write(self) -> None:
        write_json(self.folder / "results.json", self.content | {"rows": rows_told_apart(self.rows.values())})
        write_comparison(self.folder)


def _validation(pretrain: PretrainConfig) -> dict[str, str]:
    """The images that were named to test on, if any were."""
    return {} if pretrain.val_data is None else {"val_data": without_credentials(pretrain.val_data)}


def _cost(run: Path, facts: Mapping[str, Any]) -> dict[str, float]:
    """Time, size and memory of a run; what is not known is missing."""
    model = facts.get("model", {})
    cost = {key: model[key] for key in ("parameters", "encoder_parameters", "discriminator_parameters") if key in model}
    records = RunFolder.read(run).records()
    if records and records[-1].get("epoch"):
        cost["seconds_per_epoch"] = records[-1]["seconds"] / records[-1]["epoch"]
    if facts.get("peak_memory_gib") is not None:
        cost["peak_memory_gib"] = facts["peak_memory_gib"]
    return cost
