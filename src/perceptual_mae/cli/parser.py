"""Command lines from typed settings: flags with hyphens, errors in one line with the nearest known flag."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import jsonargparse

from perceptual_mae.errors import UsageError


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse with `--image-size` for the setting `image_size`, and `UsageError` in place of a page of usage."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"pmae {command}", description=description, exit_on_error=True)

    def parse(self, arguments: Sequence[str]) -> jsonargparse.Namespace:
        """Parse flags written with hyphens or underscores.

        Raises:
            UsageError: anything that cannot be right.
        """
        return self.parse_args([_underscored(argument) for argument in arguments])

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one line."""
        raise UsageError(f"{self._shorter(message)}; see `{self.prog} --help`")

    def format_help(self) -> str:
        """Help with hyphens, as people type."""
        return re.sub(r"--[a-z][a-z_.]*", lambda flag: flag[0].replace("_", "-"), super().format_help())

    def format_usage(self) -> str:
        """Usage with hyphens, as people type."""
        return re.sub(r"--[a-z][a-z_.]*", lambda flag: flag[0].replace("_", "-"), super().format_usage())

    def _shorter(self, message: str) -> str:
        message = " ".join(message.split())
        flags = [flag for action in self._actions for flag in action.option_strings]
        unknown = re.search(r"[Uu]nrecognized arguments: (--[^\s=]+)", message)
        if unknown:
            return f"unknown flag {_hyphened(unknown[1])}{nearest(_hyphened(unknown[1]), map(_hyphened, flags))}"
        key = re.search(r"[Kk]ey '?\"?([\w.]+)'?\"? is not expected", message)
        if key:
            known = [flag.removeprefix("--") for flag in flags]
            return f"unknown setting {key[1]}{nearest(key[1], known)}"
        return re.sub(r"--[a-z][a-z_.]*", lambda flag: flag[0].replace("_", "-"), message)


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest known word, or `;`."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ";"


def _hyphened(flag: str) -> str:
    return flag.replace("_", "-")


def _underscored(argument: str) -> str:
    """`--image-size=64` as jsonargparse knows it: `--image_size=64`. Values and negative numbers stay as they are."""
    if not re.match(r"--[a-zA-Z]", argument):
        return argument
    flag, equals, value = argument.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value


def settings(parser: Parser, arguments: Sequence[str], *drop: str) -> dict[str, Any]:
    """Parsed arguments as nested plain values, without the names in `drop`."""
    values = parser.parse(arguments).as_dict()
    return {name: value for name, value in values.items() if name not in drop}
