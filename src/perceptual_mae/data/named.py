"""Images that somebody names, one by one or in folders, and names for what is made of them."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perceptual_mae.data.channels import ORDINARY
from perceptual_mae.data.folder import SUFFIXES, find_files
from perceptual_mae.errors import UsageError
from perceptual_mae.paths import user_path


@dataclass(frozen=True)
class NamedImage:
    """A file, and its path with `/` below the folder that all images are named from."""

    path: Path
    name: str


def named_images(arguments: Sequence[Path | str], channels: int = 3, outside: Path | None = None) -> list[NamedImage]:
    """The images of some files and folders, each once, in the order of their names.

    They are named by their paths below the folder where there is one argument, else below the folder that all have in
    common: no two have the same name, and none leads out of where it is joined to.

    Args:
        arguments: files, which are taken whatever they are called, and folders, of which all images are.
        channels: of the images; with other numbers than 1, 3 and 4 `.npy` files in folders are images, too.
        outside: a folder whose images are not taken, such as that of the results.

    Raises:
        UsageError: there is no such file or folder, or no image.
    """
    given = [Path(os.path.abspath(user_path(one))) for one in arguments]
    missing = [str(one) for one, path in zip(arguments, given, strict=True) if not path.exists()]
    if missing:
        raise UsageError(f"IMAGES {', '.join(missing[:5])}: there is no such file or folder")
    suffixes = SUFFIXES if channels in ORDINARY else SUFFIXES | {".npy"}
    paths = {path if path.is_file() else path / name: None for path in given for name in _inside(path, suffixes)}
    left_out = None if outside is None else Path(os.path.abspath(outside))
    kept = [path for path in paths if left_out is None or not path.is_relative_to(left_out)]
    if not kept:
        raise UsageError(
            f"IMAGES {', '.join(map(str, arguments[:5]))}: there is no image ({' '.join(sorted(suffixes))})"
        )
    lone_folder = len(given) == 1 and given[0].is_dir()
    base = given[0] if lone_folder else Path(os.path.commonpath([path.parent for path in kept]))
    return sorted((NamedImage(p, p.relative_to(base).as_posix()) for p in kept), key=lambda image: image.name)


def output_names(names: Sequence[str], suffix: str = ".png") -> list[str]:
    """A name for what is made of each image: its own with another suffix, `a/x.jpg` to `a/x.png`.

    Images that differ in nothing but their suffix keep it, `a/x.jpg.png`; where even that is the name of another one,
    all images do.
    """
    stems = [os.path.splitext(name)[0] for name in names]
    shared = Counter(stems)
    chosen = [name if shared[stem] > 1 else stem for name, stem in zip(names, stems, strict=True)]
    return [one + suffix for one in (chosen if len(set(chosen)) == len(chosen) else names)]


def _inside(path: Path, suffixes: frozenset[str]) -> list[str]:
    return [""] if path.is_file() else list(find_files(path, suffixes))
