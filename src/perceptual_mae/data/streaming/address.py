"""Where a shard is: a path of this machine or a URL, and how to write it down without giving a secret away."""

import os
import re
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from perceptual_mae.data.folder import printable

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_KIND = re.compile(r"(stream:)?(wds:)?")


def is_url(text: str) -> bool:
    """Whether it names something elsewhere, `file://` included."""
    return _URL.match(text) is not None


def is_http(text: str) -> bool:
    """Whether it is a web address."""
    return text.lower().startswith(("http://", "https://"))


def shown(location: str) -> str:
    """A location for messages: without user, password, query (signatures are in there) and fragment, on one line."""
    if not is_url(location):
        return printable(location)
    scheme, rest = location.split("://", 1)
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    return printable(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}")


def shown_spec(spec: str) -> str:
    """A data argument for messages: its location as `shown` gives it, and what stands before that (`stream:`)."""
    kind = _KIND.match(spec)
    before = kind.end() if kind else 0
    return spec[:before] + shown(spec[before:])


def path_part(location: str) -> str:
    """What of a location tells folders and suffix: without query and fragment where it is a URL."""
    return re.split(r"[?#]", location, maxsplit=1)[0] if is_http(location) else location


def suffix(location: str) -> str:
    """`.tar` of a location, in lower case; empty where it has none."""
    return os.path.splitext(path_part(location).rstrip("/"))[1].lower()


def parent(location: str) -> str:
    """The folder of a location, with a `/` at its end; empty for a bare name. A query stays with the file."""
    return "".join(path_part(location).rpartition("/")[:2])


def beside(location: str, relative: str) -> str:
    """What `relative`, found in the file `location`, means: itself where it is a URL, else beside that file."""
    if is_url(relative):
        return relative
    if is_http(location):
        # An index of a folder behind a signed URL is signed for itself only: the shards go without its query.
        return urljoin(path_part(location), relative)
    if is_url(location):
        return parent(location) + relative
    return os.path.join(os.path.dirname(location), relative)


def split_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """A web address without the user and password in it, and these."""
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    user, _, password = login.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(user), unquote(password))
