"""How a stream fetches what it reads."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from perceptual_mae.paths import cache_folder, user_path

GIB = 2**30


@dataclass(frozen=True)
class StreamSettings:
    """The part of a run's `LoaderConfig` that says how shards are fetched; nothing of it changes the order.

    Attributes:
        cache: folder for what is fetched; None: `perceptual-mae/stream` in the user's cache folder.
        cache_gib: how large it may become, in GiB. What is being read stays, even above that.
        timeout: seconds without an answer, or at less than 1 KiB/s, after which a connection is given up.
        retries: attempts in a row that bring nothing new before a shard is given up.
    """

    cache: str | None = None
    cache_gib: float = 50.0
    timeout: float = 30.0
    retries: int = 8

    @classmethod
    def of(cls, loader: Any) -> "StreamSettings":
        """From settings that have these among others."""
        return cls(**{field.name: getattr(loader, field.name) for field in fields(cls)})

    @property
    def folder(self) -> Path:
        """Of the cache."""
        if self.cache is not None:
            return user_path(self.cache)
        return cache_folder("stream")

    @property
    def limit(self) -> int:
        """`cache_gib` in bytes."""
        return int(self.cache_gib * GIB)
