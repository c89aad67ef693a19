"""Command lines from typed settings: flags with hyphens, errors in one line with the nearest known flag."""

import argparse
import json
import re
import typing
from collections.abc import Sequence
from typing import Any, NoReturn

import jsonargparse

from perceptual_mae import plain_yaml
from perceptual_mae.errors import UsageError, nearest, printable, system_words
from perceptual_mae.paths import user_path
from perceptual_mae.plain_yaml import YamlError

_LONGEST = 100_000
"""Characters of a value: a list of so many files is not typed, and takes YAML seconds."""


class HelpText(jsonargparse.DefaultHelpFormatter):
    """Help with what a flag takes beside its name, and its default at the end, where it has one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kind = getattr(action, "_typehint", None) or action.type
        kinds = [part for part in typing.get_args(kind) or (kind,) if part is not type(None)]
        numbers = [name for type_, name in ((int, "N"), (float, "X")) if type_ in kinds]
        return "|".join([*numbers, *map(str, _choices(kind))]) or str(super()._get_default_metavar_for_optional(action))

    def _get_help_string(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return action.help or ""
        if self._get_type_str(action) is None:  # --help, --config and their like
            return str(super()._get_help_string(action))
        text = (action.help or "").removesuffix(".")
        if action.required:
            return f"{text} (required)"
        unset = action.default in (None, argparse.SUPPRESS, ())
        return text if unset else f"{text} (default: {_typed(action.default)})"


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse with `--image-size` for the setting `image_size`, and `UsageError` in place of a page of usage."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            prog=f"pmae {command}",
            description=description,
            formatter_class=HelpText,
            exit_on_error=True,
            allow_abbrev=False,
        )

    def parse(self, arguments: Sequence[str]) -> jsonargparse.Namespace:
        """Parse flags written with hyphens or underscores.

        Raises:
            UsageError: anything that cannot be right.
        """
        self.usage = self._short_usage()
        words = [_underscored(argument) for argument in arguments]
        self._check_yaml(words)
        return self.parse_args(self._listed(words))

    def _check_yaml(self, words: Sequence[str]) -> None:
        """Values and files are read as YAML, which can hang, or fail in ways of its own: such are refused before."""
        for flag, word in zip(["", *words], words, strict=False):
            begun, equals, rest = word.partition("=")
            name, value = (begun, rest) if equals and begun.startswith("--") else (flag, word)
            why = "it is too long" if len(value) > _LONGEST else plain_yaml.danger(value)
            if why:
                raise UsageError(f"{_hyphened(name)} {printable(value[:40])}: {why}")
            if name == "--config" and value != name:
                self._check_groups(value, _read_config(value))

    def _check_groups(self, file: str, settings: dict[str, Any]) -> None:
        """Whether what a file gives for a group of settings is one."""
        flags = [flag.removeprefix("--").partition(".") for action in self._actions for flag in action.option_strings]
        for group, leaf in {group: leaf for group, dot, leaf in flags if dot}.items():
            if not isinstance(settings.get(group, {}), dict):
                raise UsageError(f"--config {file}: {group} is a group of settings, such as `{group}: {{{leaf}: ...}}`")

    def _listed(self, arguments: Sequence[str]) -> list[str]:
        """`--methods a,b` as jsonargparse takes a list of texts: `--methods=["a", "b"]`."""
        lists = {flag for action in self._actions if _is_list(action) for flag in action.option_strings}
        result: list[str] = []
        for argument in arguments:
            flag, equals, value = argument.partition("=")
            if flag in lists and equals:
                result.append(f"{flag}={_list(value)}")
            elif result and result[-1] in lists:
                result[-1] += f"={_list(argument)}"
            else:
                result.append(argument)
        return result

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one line."""
        raise UsageError(f"{self._shorter(message)}; see `{self.prog} --help`")

    def format_help(self, formatter: Any = None) -> str:
        """Help with hyphens, as people type; without the flags that read a group of settings from a file."""
        names = [action.dest for action in self._actions]
        for action in self._actions:
            if any(name.startswith(f"{action.dest}.") for name in names):
                action.help = argparse.SUPPRESS
            if action.metavar == "[ITEM,...]":  # as jsonargparse has it for all tuples
                action.metavar = "A,B" if _is_list(action) else "[X,X]"
        return _hyphens(super().format_help(formatter))

    def _short_usage(self) -> str:
        """The command with what it cannot do without; the flags follow below."""
        words = [f"{a.dest.upper()}{'...' if a.nargs else ''}" for a in self._actions if not a.option_strings]
        words += [f"{a.option_strings[0]} {a.dest.upper()}" for a in self._actions if a.required and a.option_strings]
        return " ".join([self.prog, *words, "[options]"])

    def _shorter(self, message: str) -> str:
        message = " ".join(message.split())
        flags = [flag for action in self._actions for flag in action.option_strings]
        unknown = re.search(r"[Uu]nrecognized arguments: (--[^\s=]+)", message)
        if unknown:
            return f"unknown flag {_hyphened(unknown[1])}{nearest(_hyphened(unknown[1]), map(_hyphened, flags))}"
        key = re.search(r"(?:Group '([\w.]+)' does|Option)[^']*'([\w.]+)'", message)
        if key:
            name = ".".join(filter(None, key.groups()))
            return f"unknown setting {name}{nearest(name, [flag.removeprefix('--') for flag in flags])}"
        missing = re.search(r"arguments are required: (\w+)", message)
        if missing:
            named = next((a.option_strings for a in self._actions if a.dest == missing[1]), [])
            return f"{named[0] if named else missing[1].upper()} is missing"
        wrong = re.match(r'Parser key "([\w.]+)": .*(?:[Gg]iven value|[Gg]ot value): (.*)', message)
        if wrong:
            return f"--{_hyphened(wrong[1])} {wrong[2]}: {self._wanted(wrong[1], wrong[2])}"
        file = re.search(r"(?:File does not exist|Path is not a file): '?([^']*)", message)
        if file:
            return f"--config {file[1]}: there is no such file (a run's settings are in its config.yaml)"
        other = re.match(r'Parser key "([\w.]+)": (.*)', message)
        return f"--{_hyphened(other[1])}: {other[2]}" if other else _hyphens(message)

    def _wanted(self, name: str, value: str) -> str:
        """What a setting takes, in words."""
        kind = next((getattr(action, "_typehint", None) for action in self._actions if action.dest == name), None)
        choices = [choice for choice in _choices(kind) if isinstance(choice, str)]
        hint = f"give {_in_words(kind)}"
        return f"{hint}{nearest(value, choices)}"


def _read_config(value: str) -> dict[str, Any]:
    """A file of settings.

    Raises:
        UsageError: it cannot be read, or holds none.
    """
    file = user_path(value)
    try:
        if not file.is_file():
            raise UsageError(f"--config {value}: there is no such file (a run's settings are in its config.yaml)")
        settings = plain_yaml.load(file.read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
            raise UsageError(f"--config {value}: it holds no settings by name, such as `model: base`")
        return settings
    except UnicodeDecodeError:
        raise UsageError(f"--config {value}: it is no text") from None
    except ValueError:
        raise UsageError(f"--config {value}: no file can have this name") from None
    except OSError as error:
        raise UsageError(f"--config {value}: {system_words(error)}") from None
    except YamlError as error:
        raise UsageError(f"--config {value}: {plain_yaml.reason(error)}") from None


def _is_list(action: Any) -> bool:
    """Whether a flag takes any number of texts."""
    kind = getattr(action, "_typehint", None)
    return typing.get_origin(kind) is tuple and typing.get_args(kind)[-1] is ... and float not in typing.get_args(kind)


def _list(value: str) -> str:
    return value if value.startswith("[") else json.dumps([word for word in value.split(",") if word])


def _typed(value: Any) -> str:
    """A value as a person would type it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value) if all(isinstance(item, str) for item in value) else f"[{','.join(map(_typed, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _choices(kind: Any) -> list[Any]:
    """All values that the literals in a type name."""
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    return [choice for part in typing.get_args(kind) for choice in _choices(part)]


def _in_words(kind: Any) -> str:
    """A type as a person would say it."""
    simple = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", type(None): "null"}
    if kind in simple:
        return simple[kind]
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(parts) if len(parts) < 3 else f"one of {', '.join(map(str, parts))}"
    if typing.get_origin(kind) is tuple and str in map(type, _choices(kind)):
        return f"any of {', '.join(_choices(kind))}, with commas between them"
    if typing.get_origin(kind) is tuple and str in parts:
        return "words with commas between them"
    if typing.get_origin(kind) is tuple:
        return "numbers such as [0.5, 0.9]"
    return " or ".join(_in_words(part) for part in parts) if parts else "another value"


def _hyphens(text: str) -> str:
    return re.sub(r"--[a-z][a-z0-9_.]*", lambda flag: _hyphened(flag[0]), text)


def _hyphened(flag: str) -> str:
    return flag.replace("_", "-")


def _underscored(argument: str) -> str:
    """`--image-size=64` as jsonargparse knows it: `--image_size=64`. Values and negative numbers stay as they are."""
    if not re.match(r"--[a-zA-Z]", argument):
        return argument
    flag, equals, value = argument.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value
