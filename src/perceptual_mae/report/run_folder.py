"""What lies in a run folder, read so that nothing broken or missing stops a report: it is noted instead."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perceptual_mae import plain_yaml
from perceptual_mae.errors import UsageError
from perceptual_mae.report.tracks import Damage, Track, read_records, tracks
from perceptual_mae.report.words import is_number

SKIPPED_SHOWN = 200


@dataclass(frozen=True)
class Picture:
    """What was drawn after `step` steps."""

    step: int
    path: Path


@dataclass(frozen=True)
class RunRecord:
    """A run as its files tell it.

    Attributes:
        config: `config.yaml`, nested.
        info: `run.json`; empty where there is none.
        tracks: what was logged, by key.
        pictures: by rising step.
        before_after: the demo's picture, where there is one.
        skipped: name and reason of the first skipped files.
        skipped_count: how many there are in all.
        notes: what was missing or could not be read, a sentence each.
    """

    path: Path
    config: Mapping[str, Any]
    info: Mapping[str, Any]
    tracks: Mapping[str, Track]
    pictures: list[Picture]
    before_after: Path | None
    skipped: list[tuple[str, str]]
    skipped_count: int
    notes: list[str] = field(default_factory=list)

    def section(self, name: str) -> Mapping[str, Any]:
        """A nested part of `run.json`; empty where it is missing or something else."""
        part = self.info.get(name)
        return part if isinstance(part, dict) else {}

    def expected(self) -> dict[str, float]:
        """By loss, the value of a model that has learnt nothing but the mean colour."""
        return {str(key): float(value) for key, value in self.section("expected").items() if is_number(value)}

    def latest(self, key: str) -> float | None:
        """The last logged value, finite or not; None where the key was never logged."""
        track = self.tracks.get(key)
        return track.latest[1] if track else None

    def last_step(self) -> int:
        """The last step that was logged; 0 before the first."""
        return int(max((track.latest[0] for track in self.tracks.values()), default=0))


def is_finetuning(path: Path) -> bool:
    """Whether a folder is that of a fine-tuning run: its settings name a task."""
    return "task" in read_mapping(path / "config.yaml", plain_yaml.load, [], "")


def read_run(path: Path, drawn: str = "reconstruction") -> RunRecord:
    """Read a run folder, its pictures being those of what was `drawn`: `figures/<drawn>-<step>.png`.

    Raises:
        UsageError: `path` is no run folder (it has no `config.yaml`).
    """
    config_file = path / "config.yaml"
    if not os.path.isfile(config_file):  # unlike `is_file`, False for a name that no file can have
        command = "finetune" if drawn == "predictions" else "pretrain"
        raise UsageError(
            f"{path} is not a run folder: it has no config.yaml; give the folder that `pmae {command} --out` wrote"
        )
    notes: list[str] = []
    config = read_mapping(config_file, plain_yaml.load, notes, "so the settings are not shown")
    info = read_mapping(path / "run.json", json.loads, notes, "so model, machine and state are not known")
    skipped, skipped_count = _skipped(path / "skipped.txt", notes)
    figures = path / "figures"
    pictures = [
        Picture(int(match[1]), file)
        for file in (figures.iterdir() if figures.is_dir() else ())
        if (match := re.fullmatch(rf"{drawn}-(\d{{1,15}})\.png", file.name))
    ]
    if not pictures:
        notes.append(f"There are no {drawn.removesuffix('s')} pictures yet.")
    before_after = figures / "before-after.png"
    return RunRecord(
        path=path,
        config=config,
        info=info,
        tracks=_metrics(path / "metrics.jsonl", notes),
        pictures=sorted(pictures, key=lambda picture: picture.step),
        before_after=before_after if before_after.is_file() else None,
        skipped=skipped,
        skipped_count=skipped_count,
        notes=notes,
    )


def read_mapping(file: Path, parse: Any, notes: list[str], consequence: str) -> Mapping[str, Any]:
    """Named values in a file; where there are none, a note says so, with the `consequence`, and it is empty."""
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        notes.append(f"There is no {file.name}, {consequence}.")
        return {}
    except (OSError, ValueError, RecursionError, plain_yaml.YamlError) as error:
        notes.append(f"{file.name} could not be read, {consequence} ({type(error).__name__}).")
        return {}
    if not isinstance(content, dict):
        notes.append(f"{file.name} does not hold named values, {consequence}.")
        return {}
    return content


def _metrics(file: Path, notes: list[str]) -> dict[str, Track]:
    damage = Damage()
    try:
        found = tracks(read_records(file, damage))
    except FileNotFoundError:
        found = {}
    except OSError as error:
        found = {}
        notes.append(f"{file.name} could not be read: {error.strerror}.")
    if damage.lines == 1 and damage.last_line_cut:
        notes.append(f"The last line of {file.name} is cut short (it was being written, or writing was interrupted).")
    elif damage.lines:
        lines = "1 line" if damage.lines == 1 else f"{damage.lines:,} lines"
        notes.append(f"{lines} of {file.name} could not be read and are left out.")
    if not found:
        notes.append("No training step has been logged yet, so there are no curves.")
    return found


def _skipped(file: Path, notes: list[str]) -> tuple[list[tuple[str, str]], int]:
    kept: list[tuple[str, str]] = []
    total = 0
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip():
                    continue
                total += 1
                if total <= SKIPPED_SHOWN:
                    name, _, reason = line.rstrip("\n").partition("\t")
                    kept.append((name[:500], reason[:500]))
    except FileNotFoundError:
        pass
    except OSError as error:
        notes.append(f"{file.name} could not be read: {error.strerror}.")
    return kept, total
