"""Settings as frozen dataclasses: to plain values and back, and which of them make another training.

Imports no torch, so that `pmae COMMAND --help` answers at once.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import field
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from perceptual_mae.errors import UsageError, nearest

Settings = TypeVar("Settings")
_TOO_LARGE = 1 << 63
"""A whole number that no tensor, file or counter could hold."""


def free(default: Any) -> Any:
    """A setting that a resumed run may change: it does not change which training this is."""
    return field(default=default, metadata={"free": True})


def check_workers(workers: int | Literal["auto"]) -> None:
    """Refuse a number of processes that there cannot be.

    Raises:
        UsageError: it is negative.
    """
    if workers != "auto" and workers < 0:
        raise UsageError(f"--workers {workers}: must be auto, 0 or more")


def to_dict(settings: Any) -> dict[str, Any]:
    """Nested plain values, ready for YAML; tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return plain(dataclasses.asdict(settings))


def from_dict(cls: type[Settings], values: Mapping[str, Any]) -> Settings:
    """The inverse of `to_dict`, for run folders.

    Raises:
        UsageError: a setting that does not exist, is of another type, or is missing and has no default.
    """
    return _build(cls, values, "")


def differences(old: Any, new: Any) -> list[str]:
    """Settings in which two of a class are not the same training, as `name: old, now new`."""
    return list(_differences(old, new, ""))


def _build(cls: Any, values: Mapping[str, Any], path: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            known = [f"{path}{field}" for field in fields]
            raise UsageError(f"unknown setting {path}{_word(name)}{nearest(f'{path}{name}', known)}")
    for name, one in fields.items():
        if name not in values and one.default is one.default_factory is dataclasses.MISSING:
            raise UsageError(f"the setting {path}{name} is missing")
    types = get_type_hints(cls)
    built = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(types[name]) and isinstance(value, dict):
            built[name] = _build(types[name], value, f"{path}{name}.")
        else:
            built[name] = tuple(value) if isinstance(value, list) else value
            if not _fits(built[name], types[name]):
                raise UsageError(f"the setting {path}{name} cannot be {_short(value)}")
    return cls(**built)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a plain value is of a type as the settings have them."""
    of, parts = get_origin(kind), get_args(kind)
    if of is Literal:
        return any(type(value) is type(choice) and value == choice for choice in parts)
    if of in {Union, UnionType}:
        return any(_fits(value, part) for part in parts)
    if of is tuple:
        kinds = parts[:1] * len(value) if parts[1:] == (...,) and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if kind in {int, float}:
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _TOO_LARGE
        return whole or (kind is float and isinstance(value, float))
    return isinstance(value, of or kind)


def _word(name: Any) -> str:
    """The name of a setting that does not exist: a word if it is one."""
    return name if isinstance(name, str) and name.isidentifier() and len(name) <= 60 else _short(name)


def _short(value: Any) -> str:
    """A wrong value in a message: as much of it as tells which one it is."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    for f in dataclasses.fields(old):
        before, after = getattr(old, f.name), getattr(new, f.name)
        if dataclasses.is_dataclass(before):
            yield from _differences(before, after, f"{path}{f.name}.")
        elif before != after and not f.metadata.get("free"):
            yield f"{path}{f.name}: {before}, now {after}"
