"""Settings as frozen dataclasses: to plain values and back, and which of them make another training.

Imports no torch, so that `pmae COMMAND --help` answers at once.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, TypeVar, get_type_hints

from perceptual_mae.errors import UsageError, nearest

Settings = TypeVar("Settings")


def free(default: Any) -> Any:
    """A setting that a resumed run may change: it does not change which training this is."""
    return field(default=default, metadata={"free": True})


def to_dict(settings: Any) -> dict[str, Any]:
    """Nested plain values, ready for YAML; tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return plain(dataclasses.asdict(settings))


def from_dict(cls: type[Settings], values: Mapping[str, Any]) -> Settings:
    """The inverse of `to_dict`, for run folders. Unknown settings are refused.

    Raises:
        UsageError: a setting that does not exist, or one without a default that is missing.
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
            raise UsageError(f"unknown setting {path}{name}{nearest(f'{path}{name}', known)}")
    for name, one in fields.items():
        if name not in values and one.default is one.default_factory is dataclasses.MISSING:
            raise UsageError(f"the setting {path}{name} is missing")
    types = get_type_hints(cls)
    built = {}
    for name, value in values.items():
        nested = dataclasses.is_dataclass(types[name]) and isinstance(value, dict)
        plain = tuple(value) if isinstance(value, list) else value
        built[name] = _build(types[name], value, f"{path}{name}.") if nested else plain
    return cls(**built)


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    for f in dataclasses.fields(old):
        before, after = getattr(old, f.name), getattr(new, f.name)
        if dataclasses.is_dataclass(before):
            yield from _differences(before, after, f"{path}{f.name}.")
        elif before != after and not f.metadata.get("free"):
            yield f"{path}{f.name}: {before}, now {after}"
