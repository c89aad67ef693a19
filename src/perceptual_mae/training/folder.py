"""The folder of a training run: its configuration, its metrics, what it skipped, and who may write to it."""

import fcntl
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, Self, TextIO, TypeVar
from weakref import WeakSet

import yaml

from perceptual_mae.credentials import public
from perceptual_mae.errors import PmaeError, UsageError, printable, system_words
from perceptual_mae.files import append_text, locked_by_another, write_json, write_text
from perceptual_mae.paths import user_path
from perceptual_mae.settings import differences, to_dict
from perceptual_mae.training.checkpoint import clear_temporary
from perceptual_mae.training.config import TrainingSettings

Record = dict[str, Any]

_log = logging.getLogger(__name__)

Config = TypeVar("Config", bound=TrainingSettings)


class TrainingFolder(Generic[Config]):
    """A run on disk.

    Open one with `claim` to train in it, with `read` to look at it. What a run's settings are, a subclass says.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path, self.config = path, config
        self.checkpoints = path / "checkpoints"
        self.figures = path / "figures"
        self.metrics = path / "metrics.jsonl"
        self._skipped: set[str] = set()
        self._lock: TextIO | None = None

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> Config:
        """The settings that a `config.yaml` holds.

        Raises:
            UsageError: they are of another kind of run, or name something that there is not.
        """
        raise NotImplementedError

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Open a run to look at.

        Raises:
            UsageError: `path` is no run folder.
        """
        path = user_path(path)
        try:
            settings = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{path} is no run folder: it has no config.yaml") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"{path}/config.yaml cannot be read: {str(error).splitlines()[0]}") from None
        if not isinstance(settings, dict):
            raise UsageError(f"{path}/config.yaml holds no settings")
        try:
            return cls(path, cls.parse(settings))
        except UsageError as error:
            raise UsageError(f"{path}/config.yaml: {error}") from None

    @classmethod
    def claim(cls, config: Config, write: bool = True) -> Self:
        """Open or make the folder of a run to train in; nobody else can until it is closed or the process dies.

        Args:
            config: the run; a folder that is already there must belong to the same training.
            write: False for processes beside the main one, which only read.

        Raises:
            UsageError: the folder belongs to another configuration, or is something else.
            PmaeError: another process is training in it, or it cannot be written.
        """
        path = user_path(config.out)
        run = cls(path, config)
        try:
            if path.exists() and not path.is_dir():
                raise UsageError(f"--out {path}: this is a file; name a folder")
            if _has_begun(path):
                # Compared as it is written down: a signature is another every day, and the training is the same.
                _refuse_other(path, cls.read(path).config, cls.parse(public(to_dict(config))))
            elif path.is_dir() and any(path.iterdir()) and not (path / ".lock").exists():
                raise UsageError(f"--out {path}: the folder is not empty and holds no run; name another")
            if write:
                path.mkdir(parents=True, exist_ok=True)
                run._take_lock()
                run.checkpoints.mkdir(exist_ok=True)
                clear_temporary(run.checkpoints)
                run.figures.mkdir(exist_ok=True)
                settings = public(to_dict(config))
                write_text(path / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
            run._read_skipped(write)
        except OSError as error:
            run.close()
            raise PmaeError(f"--out {path}: {error.strerror or error}") from None
        return run

    def close(self) -> None:
        """Let others train in the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # -- metrics -------------------------------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """The lines of `metrics.jsonl`; a last line that was cut off by a kill is left out."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        parsed = (_parse(line) for line in lines)
        return [record for record in parsed if record is not None]

    def rewind(self, step: int) -> None:
        """Forget metrics of steps after `step`: they will come again."""
        if not self.metrics.exists():
            return  # a run that has not begun yet, and may still be begun otherwise
        kept = [record for record in self.records() if record["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))

    def append(self, record: Record) -> None:
        """Add a line to `metrics.jsonl`.

        Raises:
            WriteError: it cannot be written.
        """
        append_text(self.metrics, json.dumps(record) + "\n")

    def skip(self, skipped: Iterable[tuple[str, str]]) -> int:
        """Note images that could not be read in `skipped.txt`, each once.

        Returns:
            how many the run has skipped so far.
        """
        lines = {f"{printable(name)}\t{printable(reason)}" for name, reason in skipped} - self._skipped
        if lines:
            append_text(self.path / "skipped.txt", "".join(f"{line}\n" for line in sorted(lines)))
            self._skipped |= lines
        return len(self._skipped)

    def _read_skipped(self, write: bool) -> None:
        """Remember what was skipped before, but for a last line that was cut off by a kill: it will come again."""
        file = self.path / "skipped.txt"
        if not file.exists():
            return
        text = file.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if write and whole != text:
            write_text(file, whole)
        self._skipped = set(whole.splitlines())

    # -- what the run is -----------------------------------------------------------------------------------------------

    def describe(self, **facts: Any) -> None:
        """Merge facts into `run.json`."""
        write_json(self.path / "run.json", self.facts() | public(facts))

    def facts(self) -> dict[str, Any]:
        """What `run.json` says; empty where there is none."""
        try:
            facts = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def _take_lock(self) -> None:
        lock = (self.path / ".lock").open("w")
        try:
            # The kernel lets go of it when the last process that has it open dies, however it dies.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if locked_by_another(error):
                lock.close()
                raise PmaeError(f"--out {self.path}: another process is training in this folder") from None
            # Some network file systems have no locks. To refuse to train there would help nobody.
            _log.warning(
                "--out %s: this file system cannot lock files (%s): a second run in this folder would not be noticed, "
                "start none",
                self.path,
                system_words(error),
            )
        self._lock = lock
        _locked.add(self)


_locked: "WeakSet[TrainingFolder[Any]]" = WeakSet()
"""Folders that this process has locked."""


def _let_go() -> None:
    for folder in list(_locked):
        folder.close()


# Data workers must not hold locks: they outlast a killed run by seconds, in which it could not be continued.
os.register_at_fork(after_in_child=_let_go)


def _has_begun(path: Path) -> bool:
    """Whether a run has come to a step: one that ended in a wrong flag before may be begun anew with the right one."""
    checkpoints = path / "checkpoints"
    begun = (path / "metrics.jsonl").exists() or (checkpoints.is_dir() and any(checkpoints.iterdir()))
    return (path / "config.yaml").exists() and begun


def _refuse_other(path: Path, old: TrainingSettings, new: TrainingSettings) -> None:
    changed = differences(old, new)
    if changed:
        raise UsageError(
            f"--out {path} belongs to another configuration ({'; '.join(changed)}): "
            "repeat its settings or name another folder"
        )


def _parse(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
