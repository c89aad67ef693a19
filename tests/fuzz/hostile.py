"""What fuzz tests share: hostile values, damaged copies of good files, and what may come of reading one.

Every test here has the same property. Whatever a file or an argument holds, reading it gives a value or one of the
errors that are documented, said in one line; it takes no more than seconds and gigabytes; and it never hangs.

`PMAE_FUZZ=100` makes each test a hundred times as long and picks other examples in every run. Without it the examples
are few and always the same ones.
"""

import os
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from yaml import YAMLError

from perceptual_mae import plain_yaml
from perceptual_mae.errors import PmaeError

CAMPAIGN = int(os.environ.get("PMAE_FUZZ", "0"))
SECONDS = 20
"""For one file. All of them take milliseconds; a machine at work may be a hundred times slower."""
MEMORY = 3 << 30
"""Bytes of address space for one file, beside what the process has already."""
LONGEST = 4000
"""Characters of a message."""


def fuzz(examples: int) -> settings:
    """Settings of a test with so many examples, or `PMAE_FUZZ` times as many."""
    return settings(
        max_examples=examples * max(CAMPAIGN, 1),
        derandomize=not CAMPAIGN,
        database=None,
        deadline=None,  # `bounded` has one that interrupts
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    )


# -- what may come of it -----------------------------------------------------------------------------------------------


class Hung(BaseException):
    """Raised within what takes too long; no `except Exception` on the way swallows it."""


@contextmanager
def bounded() -> Iterator[None]:
    """Fail where what is done inside takes longer than `SECONDS` or more than `MEMORY`."""

    def stop(signal_number: int, frame: FrameType | None) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except Hung:
        pytest.fail(f"it took more than {SECONDS} seconds")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(action: Callable[[], Any], *errors: type[Exception], typed: str = "") -> Any:
    """What an action gives, or the error that it is allowed to raise: `PmaeError` or one of `errors`.

    What was `typed` may stand in the message as it is: the command makes a line of it.
    """
    with bounded():
        try:
            return action()
        except (PmaeError, *errors) as raised:
            error = raised
    message = plain_yaml.reason(error) if isinstance(error, YAMLError) else str(error)
    message = message.replace(typed, "...") if typed else message
    assert message, "an error without a word"
    assert not any(character in message for character in "\n\r\0"), f"more than a line: {message!r}"
    assert len(message) <= LONGEST, f"{len(message)} characters: {message[:200]!r}"
    return error


# -- hostile values ----------------------------------------------------------------------------------------------------


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 255, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e-320, 1e308),
    *(float("nan"), float("inf"), float("-inf")),
    *(
        "",
        " ",
        "x",
        "0",
        "-1",
        "1e999",
        "²",
        "٣",
        "a\nb",
        "\0",
        "\ud800",
        "\x1b[31mred",
        "../../../etc/passwd",
        "~nosuchuser/x",
    ),
    *("/dev/zero", "%s%s%n", "{}", "ä" * 300, "[" * 50),
    *([], {}, [[]], [None], [1, 2], [1.5, "x"], [[1, 2], [3]], {"a": 1}, {"": {}}, nested(40)),
)
"""Values that something may not have thought of, all of which JSON can hold."""
hostile = st.sampled_from(HOSTILE)
odd_text = st.one_of(
    st.text(max_size=20),
    st.text(alphabet="{}[],.:/\\*?~$%\0\n\x1b .0123456789ab", max_size=30),
    st.sampled_from([value for value in HOSTILE if isinstance(value, str)]),
)


@st.composite
def mutated(draw: st.DrawFn, value: Any, most: int = 3) -> Any:
    """A copy of nested plain values with up to `most` parts replaced, dropped, doubled or renamed."""
    result = _copied(value)
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(result))
        if not places:
            return draw(hostile)
        holder, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(("replace", "replace", "replace", "drop", "double", "rename")))
        if action == "replace":
            holder[key] = _copied(draw(hostile))
        elif action == "drop":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, _copied(holder[key]))
        elif action == "double":
            holder[str(key) + "2"] = _copied(holder[key])
        else:
            holder[draw(odd_text)] = holder.pop(key)
    return result


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key in nested plain values, the outer ones first."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
    for key in keys:
        yield from _places(value[key])


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


# -- damaged files -----------------------------------------------------------------------------------------------------

_WORDS = tuple(
    number.to_bytes(size, order, signed=number < 0)  # type: ignore[arg-type]
    for number, size in ((0, 4), (1, 4), (-1, 4), (2**31 - 1, 4), (2**16, 4), (-1, 2), (2**15, 2), (-1, 8), (2**40, 8))
    for order in ("little", "big")
)
"""Numbers that sizes, counts and offsets become when a file lies."""


@st.composite
def damaged(draw: st.DrawFn, data: bytes, most: int = 4) -> bytes:
    """A copy of a file with up to `most` places overwritten, cut out, doubled or cut off."""
    for _ in range(draw(st.integers(1, most))):
        # Most of what a file says of itself stands at its beginning or its end.
        near = st.one_of(
            st.integers(0, min(len(data), 96)),
            st.integers(0, len(data)),
            st.integers(max(0, len(data) - 96), len(data)),
        )
        at, length = draw(near), draw(st.integers(1, 16))
        action = draw(st.sampled_from(("word", "word", "byte", "bytes", "cut out", "double", "cut off", "insert")))
        if action == "word":
            word = draw(st.sampled_from(_WORDS))
            data = data[:at] + word + data[at + len(word) :]
        elif action == "byte":
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        elif action == "bytes":
            data = data[:at] + draw(st.binary(min_size=length, max_size=length)) + data[at + length :]
        elif action == "cut out":
            data = data[:at] + data[at + length :]
        elif action == "double":
            data = data[:at] + data[at : at + length] * 2 + data[at + length :]
        elif action == "cut off":
            data = data[:at]
        else:
            data = data[:at] + draw(st.binary(max_size=16)) + data[at:]
    return data


def damaged_one_of(files: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """A damaged copy of one of several files, or any bytes at all."""
    begun = st.builds(lambda start, rest: start + rest, st.sampled_from([file[:12] for file in files]), st.binary())
    one = st.integers(0, len(files) - 1).flatmap(lambda index: damaged(files[index]))
    return st.one_of(one, one, one, begun, st.binary(max_size=64))
