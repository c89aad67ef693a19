"""Bytes over HTTP with the standard library: a limit on every wait, ranges where the server has them."""

import base64
import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from perceptual_mae import __version__
from perceptual_mae.data.streaming.address import split_login
from perceptual_mae.data.streaming.reply import Facts, Lost, Refused, Reply

_CHUNK = 2**18
_SLOWEST = 1024
"""Bytes a second below which a connection counts as hanging."""
_MAY_RECOVER = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that say `later`; any other error will be the same the next time."""


@contextmanager
def read(url: str, start: int, stop: int | None, version: str, timeout: float) -> Iterator[Reply]:
    """Ask for the bytes `start .. stop` (None: to the end) of a file; see `Reply` for what a server makes of it.

    Args:
        version: ETag that the file must still have, if a part of it is already here; empty: any.

    Raises:
        Lost, Refused: (also while the chunks are read) with the reason.
    """
    headers = {}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if start and version:
            headers["If-Range"] = version
    with _translated(timeout):
        answer = _open(url, headers, timeout)
    with answer:  # not translated: what goes wrong where the bytes are written is no fault of the network
        first, size = _placed(answer, start)
        yield Reply(first, size, _version(answer), _chunks(answer, timeout))


def facts(url: str, timeout: float) -> Facts:
    """Size and version of a file. Asks for one byte: not every server that has files answers HEAD."""
    with read(url, 0, 1, "", timeout) as reply:
        if reply.size is None:
            raise Refused("the server does not say how large it is")
        return Facts(reply.size, reply.version)


def _open(url: str, headers: dict[str, str], timeout: float) -> http.client.HTTPResponse:
    bare, login = split_login(url)
    request = urllib.request.Request(bare, headers={"User-Agent": f"perceptual-mae/{__version__}", **headers})
    if login is not None:  # not sent on to where a redirect leads
        secret = base64.b64encode(":".join(login).encode()).decode("ascii")
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    return urllib.request.urlopen(request, timeout=timeout)


def _placed(answer: http.client.HTTPResponse, start: int) -> tuple[int, int | None]:
    """Where the body starts in the file, and the file's size: a server without ranges sends all of it."""
    length = answer.headers.get("Content-Length", "")
    if answer.status != 206:
        return 0, int(length) if length.isdigit() else None
    span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    first = span.partition("-")[0]
    if not first.isdigit() or int(first) != start:
        raise Refused(f"the server answered another range than it was asked for ({span or 'none'})")
    return start, int(total) if total.isdigit() else None


def _version(answer: http.client.HTTPResponse) -> str:
    """A strong ETag; weak ones may not be used to continue a file."""
    tag = answer.headers.get("ETag", "")
    return "" if tag.startswith("W/") else tag


def _chunks(answer: http.client.HTTPResponse, timeout: float) -> Iterator[bytes]:
    since, got = time.monotonic(), 0
    while True:
        with _translated(timeout):
            chunk = answer.read1(_CHUNK)
        if not chunk:
            return
        yield chunk
        got += len(chunk)
        if (waited := time.monotonic() - since) > timeout:
            if got < _SLOWEST * waited:
                raise Lost(f"slower than {_SLOWEST} bytes a second")
            since, got = time.monotonic(), 0


@contextmanager
def _translated(timeout: float) -> Iterator[None]:
    """What the network says, as `Lost` (try again) or `Refused`."""
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            later = error.headers.get("Retry-After", "") if error.headers else ""
        words = f"HTTP {error.code} {error.reason}".strip()
        if error.code in _MAY_RECOVER:
            raise Lost(words, after=float(later) if later.isdigit() else 0.0) from None
        raise Refused(words) from None
    except urllib.error.URLError as error:
        if not isinstance(error.reason, Exception):  # a text is about the address: no host, no such protocol
            raise Refused(str(error.reason)) from None
        raise _lost(error.reason, timeout) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _lost(error, timeout) from None


def _lost(error: Exception, timeout: float) -> Lost | Refused:
    if isinstance(error, TimeoutError):
        return Lost(f"no answer for {timeout:g} s")
    words = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (ValueError, http.client.InvalidURL)) and not isinstance(error, OSError):
        return Refused(f"not an address: {words}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(f"its certificate is not trusted ({error.verify_message})")
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
        return Refused("there is no host of this name")
    return Lost(words)
