"""Where an export is written: a folder that is whole or not there, and that never takes the place of something else."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perceptual_mae.errors import UsageError, printable
from perceptual_mae.files import flush_to_disk, readable_as_usual, writing
from perceptual_mae.paths import folder_name, user_path

RECORD = "export.json"
"""Says what was exported, how it was checked, and which files belong to it."""


def default_place(spec: str, folder: Path | None, name: str) -> Path:
    """Where an export goes when nobody says: into the run that the encoder comes from, or below `export/`.

    Args:
        spec: the encoder, as it was typed.
        folder: of its run, if it comes from one.
        name: of the target.
    """
    if folder is not None:
        return folder / "export" / name
    return Path("export") / folder_name(spec) / name


def check_free(folder: Path) -> None:
    """Whether an export may be written here.

    Raises:
        UsageError: something is there that no export wrote.
    """
    folder = user_path(folder)
    above = next((path for path in folder.parents if path.exists()), None)
    if above is not None and not above.is_dir():
        raise UsageError(f"--out {folder}: {above} is a file; name another folder")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"--out {folder}: this is a file; name a folder")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    if strangers := sorted(found - _written(folder)):
        raise UsageError(
            f"--out {folder}: it holds {printable(strangers[0])}, which no export wrote; name another folder"
        )


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` when nothing went wrong; else nothing of it stays.

    Raises:
        UsageError: something else is there already.
        WriteError: the disk is full, read-only or broken; an earlier export is as it was.
    """
    check_free(folder)
    temporary, old = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    with writing(folder):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    readable_as_usual(path)
                flush_to_disk(path)
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
            temporary.rename(folder)
            flush_to_disk(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)


def put_record(folder: Path, facts: dict[str, Any]) -> None:
    """Write `export.json`, the last of the files."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    text = json.dumps({**facts, "files": [*files, RECORD]}, indent=2, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def _written(folder: Path) -> set[str]:
    """Files that an earlier export wrote; none where there was none."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    files = record.get("files") if isinstance(record, dict) and "perceptual_mae" in record else None
    return set(map(str, files)) if isinstance(files, list) else set()
