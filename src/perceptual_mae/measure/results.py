"""`results.json` of an evaluation: what of an earlier one still holds, and what is measured now, part by part."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from perceptual_mae.errors import PmaeError
from perceptual_mae.evaluation.config import PARTS, POOLS
from perceptual_mae.files import write_json, write_text
from perceptual_mae.measure.parts import VERSION, Measurements, Part
from perceptual_mae.report.evaluation import markdown


@dataclass
class Results:
    """`results.json` as it grows.

    Attributes:
        folder: where it is, with `results.md` and pictures.
        content: of the file.
        let_go: parts that are of other images, weights or image size, or were measured another way: they and their
            pictures go when it is written.
        before: what the file held with them, which is then put beside it: numbers may have taken hours.
    """

    folder: Path
    content: dict[str, Any]
    let_go: Set[str] = frozenset()
    before: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> "Results":
        """Read what an earlier evaluation has left.

        Raises:
            PmaeError: the file is none of ours.
        """
        try:
            content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            content = {}
        except (OSError, ValueError) as error:
            raise PmaeError(f"{folder}/results.json cannot be read ({error}): name another --out") from error
        return cls(folder, content if isinstance(content, dict) else {})

    def begin(self, described: dict[str, Any], notes: list[str], measurements: Measurements) -> None:
        """What this evaluation is of; parts that were measured before stay if they are of the same encoder and images.

        Numbers of other images would else stand under the name of these. They are let go when there is something in
        their place: whoever is interrupted before that has lost nothing.
        """
        found = self.content.get("parts")
        old, parts = found if isinstance(found, dict) else {}, {}
        keys = _keys(measurements) if any(_depends(entry) is None for entry in old.values()) else {}
        for name, entry in old.items():
            depends = measurements.today(_depends(entry) or keys.get(str(_mapping(entry).get("key")), {}))
            right = depends.get("version") == VERSION and measurements.are_of(depends)
            if right and (whole := _restored(described, name, entry | {"key": _key(depends), "depends": depends})):
                parts[name] = whole
        self.let_go = old.keys() - parts.keys()
        self.before = self.content if old else {}
        self.content = described | {"notes": notes, "parts": parts}

    def has(self, part: Part) -> bool:
        """Whether a part has been measured, and nothing that it depends on has changed."""
        return self.content["parts"].get(part.name, {}).get("key") == _key(_everything(part))

    def replaces(self, part: Part) -> bool:
        """Whether a part of this name has been measured, of the same encoder and images, but another way."""
        return part.name in self.content["parts"] and not self.has(part)

    def add(self, part: Part, result: dict[str, Any], seconds: float) -> None:
        """Keep what was measured."""
        self._let_go(part)
        depends = _everything(part)
        self.content["parts"][part.name] = {
            "key": _key(depends),
            "protocol": part.protocol,
            "depends": depends,
            "seconds": round(seconds, 2),
            "result": padded(result, self.content["data"]["classes"]),
        }
        self.write()

    def leave_out(self, part: Part, reason: str) -> None:
        """Say why a part could not be measured."""
        self._let_go(part)
        self.content["parts"].pop(part.name, None)
        self.content["notes"].append(f"{part.name} is left out: {reason}")
        self.write()

    def write(self) -> None:
        """Everything so far; no picture stays of what is not in it."""
        if self.let_go and self.before:
            write_json(self.beside, self.before)
            self.before = {}
        for name in self.let_go:
            with suppress(OSError, ValueError):  # the name is from a file, which may be damaged
                (self.folder / picture_of(name)).unlink(missing_ok=True)
        write_json(self.folder / "results.json", self.content)
        write_text(self.folder / "results.md", markdown(self.content))

    @cached_property
    def beside(self) -> Path:
        """Where parts go that are let go: `results-before.json`, or with a number where that is there already."""
        names = itertools.chain(["results-before.json"], (f"results-before-{n}.json" for n in itertools.count(2)))
        return next(path for name in names if not (path := self.folder / name).exists())

    def _let_go(self, part: Part) -> None:
        """Let go what was measured another way, if anything was."""
        if self.replaces(part):
            self.let_go = self.let_go | {part.name}


def padded(result: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Scores with a place for every class: a classifier counts up to the last class that it has seen an image of."""
    if "confusion" not in result:
        return {name: padded(value, classes) if isinstance(value, dict) else value for name, value in result.items()}
    missing = max(0, len(classes) - len(result["confusion"]))
    return result | {
        "per_class": [*result["per_class"], *[None] * missing],
        "confusion": [*([*row, *[0] * missing] for row in result["confusion"]), *[[0] * len(classes)] * missing],
    }


def _depends(entry: Any) -> dict[str, Any] | None:
    """What a part that was measured before depends on; None where an earlier version has not written it down."""
    depends = _mapping(entry).get("depends")
    return depends if isinstance(depends, dict) else None


def _keys(measurements: Measurements) -> dict[str, dict[str, Any]]:
    """What parts of these settings depend on, by their keys: all parts, to find those of an earlier version."""
    config = replace(measurements.config, parts=PARTS, pools=POOLS)
    if "reconstruction" not in measurements.config.parts:  # what judges of reconstructions would have to be opened
        config = replace(config, fd=(), inception="none")
    found = map(_everything, replace(measurements, config=config))
    return {_key(depends): depends for depends in found}


def _restored(described: dict[str, Any], name: str, entry: dict[str, Any]) -> dict[str, Any] | None:
    """A part from a file as it is written today; None: the file is damaged, or was changed by hand."""
    try:
        entry = entry | {"result": padded(entry["result"], described["data"]["classes"])}
        markdown(described | {"notes": [], "parts": {name: entry}})
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
    return entry


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _everything(part: Part) -> dict[str, Any]:
    """All that a part depends on."""
    return {"version": VERSION, "part": part.name} | part.depends


def _key(depends: Mapping[str, Any]) -> str:
    """Under which a part is found that depends on this."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


def picture_of(part: str) -> str:
    """The file that a part's picture is in."""
    return "reconstructions.png" if part == "reconstruction" else f"confusion-{part.replace('/', '-')}.png"
