"""What a `--data` argument means."""

import difflib
import logging
import os
from functools import cache
from pathlib import Path

from perceptual_mae.data import vision
from perceptual_mae.data.channels import ORDINARY
from perceptual_mae.data.folder import SUFFIXES, open_folder
from perceptual_mae.data.streaming.address import is_url, shown_spec
from perceptual_mae.data.streaming.settings import StreamSettings
from perceptual_mae.data.types import Source
from perceptual_mae.errors import UsageError, refused_by_system
from perceptual_mae.paths import user_path

_log = logging.getLogger(__name__)
_FORMS = (
    "a folder of images, a parquet file or folder, wds:SHARDS, stream:SHARDS, hub:USER/NAME, photos, or a torchvision "
    "name"
)


def open_source(
    spec: str, split: str = "train", *, channels: int = 3, stream: StreamSettings | None = None
) -> Source | None:
    """Open what the user named, one split of it (`train` or `validation`); None where it has no validation split.

    | `spec` | what it is |
    | --- | --- |
    | `photos` | the built-in photographs |
    | `cifar10`, `stl10`, ... | a torchvision data set (`vision.NAMES`) |
    | `wds:...` | WebDataset shards |
    | `stream:...`, any URL, `wds:URL` | WebDataset shards or parquet files, read shard by shard: see `streaming` |
    | `hub:USER/NAME[:CONFIG]` | a data set of the Hugging Face hub |
    | a path | a folder of images, a parquet file, or a folder with parquet files in it |

    `stream` says how shards are fetched. A folder that is called like a built-in name is reached as `./photos`; a
    warning says so. With
    `channels` other than 1, 3 and 4 a folder's `.npy` files are images as well.

    Raises:
        UsageError: it is none of these, or holds no image.
        PmaeError: it cannot be loaded.
    """
    if split not in {"train", "validation"}:
        raise UsageError(f"there is no split {split!r}: give train or validation")
    if (spec == "photos" or spec in vision.NAMES) and user_path(spec).is_dir():
        _say_which(spec)
    if spec == "photos":
        from perceptual_mae.data.photos import PhotoTiles

        return PhotoTiles(split)
    if spec in vision.NAMES:
        return vision.open_vision(spec, split)
    if spec.startswith("stream:") or is_url(spec.removeprefix("wds:")):
        from perceptual_mae.data.streaming.source import open_stream

        return open_stream(spec, split, stream or StreamSettings())
    if spec.startswith("wds:"):
        from perceptual_mae.data.wds import open_shards

        return open_shards(spec, split)
    if spec.startswith("hub:"):
        from perceptual_mae.data.hub import open_hub

        return open_hub(spec, split)
    with refused_by_system(f"--data {spec}"):
        return _open_path(spec, split, channels)


@cache  # once
def _say_which(spec: str) -> None:
    _log.warning("--data %s is the built-in set; the folder of this name is --data ./%s", spec, spec)


def open_validation_or_all(spec: str, *, channels: int = 3, stream: StreamSettings | None = None) -> Source:
    """The validation images of a data argument, or all images where it is not split: what pictures are drawn of.

    Raises:
        UsageError, PmaeError: as `open_source`, and where there are no images.
    """
    found = open_source(spec, "validation", channels=channels, stream=stream)
    found = found or open_source(spec, "train", channels=channels, stream=stream)
    if found is None:
        raise UsageError(f"--data {shown_spec(spec)}: there are no images")
    return found


def _open_path(spec: str, split: str, channels: int) -> Source | None:
    from perceptual_mae.data import parquet

    if not spec:
        raise UsageError(f"--data is empty: give {_FORMS}")
    path = user_path(spec)
    suffixes = SUFFIXES if channels in ORDINARY else SUFFIXES | {".npy"}
    if path.is_dir():
        if parquet.is_parquet_folder(path, suffixes):
            return parquet.open_parquet(spec, path, split)
        return open_folder(spec, path, split, suffixes)
    if not path.is_file():
        raise UsageError(_unknown(spec, path))
    if path.suffix.lower() in parquet.SUFFIXES:
        return parquet.open_parquet(spec, path, split)
    if path.suffix.lower() in suffixes:
        return open_folder(spec, path, split, suffixes)
    if path.suffix.lower() == ".tar":
        raise UsageError(f"{spec} is an archive: for WebDataset shards give wds:{spec}, else unpack it")
    raise UsageError(f"{spec} is neither an image nor a parquet file: give {_FORMS}")


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # there is none, or it may not be read
        return []


def _unknown(spec: str, path: Path) -> str:
    """What to say of a name that is nothing: the nearest thing it could have meant."""
    names = ["photos", *vision.NAMES]
    is_path = spec.startswith((".", "/", "~"))
    near = [] if is_path else difflib.get_close_matches(spec.lower(), names, n=1, cutoff=0.7)
    if not near:
        beside = difflib.get_close_matches(path.name, _listed(path.parent), n=1)
        near = [f"./{found}" if found in names else found for found in (str(path.parent / name) for name in beside)]
    if not near and spec.count("/") == 1 and not is_path:
        near = [f"hub:{spec}"]
    meant = f", did you mean {near[0]}?" if near else ""
    return f"--data {spec}: there is no such file or folder{meant or f': give {_FORMS}'}"
