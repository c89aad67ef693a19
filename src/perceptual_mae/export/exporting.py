"""An encoder for other tools: written, opened again with the tool's own library, compared, and then put in place."""

import importlib.metadata
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from perceptual_mae import __version__
from perceptual_mae.encoders.fit import Side
from perceptual_mae.errors import UsageError, nearest
from perceptual_mae.export import hub, weights_file
from perceptual_mae.export.card import CARD, Card, check_licence
from perceptual_mae.export.check import Check, demand
from perceptual_mae.export.folder import check_free, default_place, put_record, replacing
from perceptual_mae.export.libraries import require
from perceptual_mae.export.source import Source, open_source
from perceptual_mae.export.story import pictures as pictures_of
from perceptual_mae.export.story import read_record
from perceptual_mae.export.targets import TARGETS
from perceptual_mae.files import write_atomically
from perceptual_mae.paths import user_path

FILE = "encoder.safetensors"
"""Where the `safetensors` target is written when nobody says where."""


@dataclass(frozen=True)
class Exported:
    """An export.

    Attributes:
        path: of the folder, or of the file that `safetensors` is.
        matched: which of the encoder's weights were found, in words.
        checks: how what was written compares with our encoder; all of them passed.
        notes: what is not there, and why, a sentence each.
        address: on the Hugging Face hub; None: it was not uploaded.
    """

    path: Path
    matched: str
    checks: Sequence[Check]
    notes: Sequence[str] = ()
    address: str | None = None


@dataclass(frozen=True)
class _Order:
    """What was asked for, after all of it was found to make sense."""

    target: str
    source: Source
    path: Path
    place: str
    licence: str | None
    pictures: bool


def export_encoder(
    encoder: str | Path,
    to: str,
    out: Path | str | None = None,
    image_size: Side | None = None,
    licence: str | None = None,
    repo: str | None = None,
    private: bool = False,
    pictures: bool | None = None,
) -> Exported:
    """Write an encoder in the format of another tool.

    Args:
        encoder: an encoder argument, see `load_encoder`.
        to: `timm`, `safetensors`, `transformers`, `onnx`, `torch-export` or `hub`.
        out: folder to write, of `safetensors` the file; default: `export/` in the encoder's run folder, or here. An
            earlier export is replaced, anything else refused.
        image_size: side of the images in pixels, or `(height, width)`; default: the encoder's own.
        licence: for the model card, as the hub calls it; None: the card says that none is stated.
        repo: `USER/NAME`, where `hub` uploads to.
        private: make that repository one that others do not see.
        pictures: copy the run's pictures beside the card; default: yes, but for `hub`: they show the user's images.

    Returns:
        what was written and how it compares with ours.

    Raises:
        UsageError: no such encoder or target, an encoder that the target has no place for, or an `out` that is taken.
        PmaeError: a library is missing, what was written is not the same, or it cannot be written or uploaded.
    """
    if to not in TARGETS:
        raise UsageError(f"--to {to}: there are {', '.join(TARGETS)}{nearest(to, TARGETS)}")
    target, on_hub = TARGETS[to], to == "hub"
    if not on_hub and (repo is not None or private):
        raise UsageError(f"{'--repo' if repo is not None else '--private'} is for --to hub")
    repository = hub.check_repository(repo) if on_hub else None
    licence = check_licence(licence)
    if out is not None and not target.is_file:
        check_free(user_path(out))
    require(to, target.needs, target.extra)
    api = hub.open_hub() if on_hub else None

    source = open_source(str(encoder), image_size)
    target.refuse(source)
    path = (
        user_path(out) if out is not None else default_place(source.spec, source.folder, FILE if target.is_file else to)
    )
    if target.is_file:
        return _write_file(source, path)
    own = path.name if out is not None else "/".join(path.parts[-3:])
    show = not on_hub if pictures is None else pictures
    exported = _write_folder(_Order(to, source, path, repository or own, licence, show))
    if repository is None:
        return exported
    address, with_card = hub.upload(api, repository, path, private)
    notes = [*exported.notes] if with_card else [*exported.notes, f"{CARD} of the repository was left as it is."]
    return Exported(path, source.matched, exported.checks, notes, address)


def _write_file(source: Source, file: Path) -> Exported:
    if file.is_dir():
        raise UsageError(f"--out {file}: this is a folder; name a file, such as {file / FILE}")
    if file.exists() and not weights_file.is_ours(file):
        raise UsageError(f"--out {file}: this file was not written by an export; name another")
    checks: list[Check] = []

    def write(temporary: Path) -> None:
        weights_file.write(source, temporary)
        checks.extend(demand(weights_file.check(source, temporary)))

    write_atomically(file, write)
    return Exported(file, source.matched, checks)


def _write_folder(order: _Order) -> Exported:
    target, source, record = TARGETS[order.target], order.source, read_record(order.source)
    notes = target.notes(source)
    found = pictures_of(record) if record is not None else {}
    if found and not order.pictures and order.target == "hub":
        notes.append("The run's pictures are left out, which show images of yours; --pictures true adds them.")
    with replacing(order.path) as folder:
        target.write(source, folder)
        checks = demand(target.check(source, folder))
        shown = []
        if order.pictures:
            for name, (file, words) in found.items():
                shutil.copyfile(file, folder / name)
                shown.append((name, words))
        about = notes if order.target != "hub" else []
        card = Card(order.target, source, record, order.place, order.licence, checks, shown, about)
        (folder / CARD).write_text(str(card), encoding="utf-8")
        put_record(folder, _facts(order, checks))
    return Exported(order.path, source.matched, checks, notes)


def _facts(order: _Order, checks: Sequence[Check]) -> dict[str, object]:
    """For `export.json`."""
    encoder = order.source.encoder
    return {
        "perceptual_mae": __version__,
        "target": order.target,
        "encoder": encoder.name,
        "image_size": list(encoder.image_size),
        "libraries": {name: _version(name) for name in ("torch", "timm", *TARGETS[order.target].needs)},
        "checks": [asdict(check) for check in checks],
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # one that was not installed by pip
        return "unknown"
