"""What asking for bytes comes to, whatever the protocol."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """A file elsewhere.

    Attributes:
        size: in bytes.
        version: a word that changes when the file does, as the server tells it; may be empty.
    """

    size: int
    version: str


@dataclass(frozen=True)
class Reply:
    """An answer that has begun.

    Attributes:
        start: where in the file the chunks start: as asked for, or 0 where the server knows no ranges.
        size: of the whole file in bytes; None where nobody says.
        version: see `Facts`.
        chunks: the bytes, as they come. They may end early; who reads them knows how many there should be.
    """

    start: int
    size: int | None
    version: str
    chunks: Iterator[bytes]


class Lost(Exception):  # noqa: N818 (says what happened to the connection)
    """The connection failed in a way that may not happen again; the message says how.

    Args:
        words: the reason.
        after: seconds that the server asks to wait.
    """

    def __init__(self, words: str, after: float = 0.0) -> None:
        super().__init__(words)
        self.after = after


class Refused(Exception):  # noqa: N818
    """It will not work the next time either; the message says why."""
