"""YAML as settings need it: plain values of a sane size, or one line that says why not.

YAML can do more than that. Forty lines of aliases come to a million million values when they are written out, a value
can hold itself, brackets can be nested until Python gives up, and a tag can ask for a date of the thirteenth month.
"""

from typing import Any

import yaml

from perceptual_mae.errors import printable

_MOST = 10_000
"""Values in a document, with aliases written out. A run has a hundred settings."""
_DEEPEST = 32
_LONGEST_NUMBER = 100
"""Characters of a number. Python itself refuses to write out one of 4300 digits."""
_OPEN = (0, 0)
"""Stands for a node whose parts are being looked at."""
_DATE, _WHOLE = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int"


YamlError = yaml.YAMLError


class Refused(yaml.YAMLError):
    """A document that is YAML, perhaps, but nothing that holds settings; the message says why in one line."""


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` without dates: what looks like one is a text, such as the name of a folder."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as PyYAML has it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load(text: str) -> Any:
    """The plain values of a document; None where it is empty.

    Raises:
        yaml.YAMLError: it is no YAML, or is `Refused`; the first line of the message says why.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _written_out(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise Refused("it is nested too deeply") from None
    except Exception as error:  # a tag asks for a date, a number or a set, and its text is none
        raise Refused(f"it holds a value that is not what it says ({type(error).__name__})") from None
    finally:
        loader.dispose()


def danger(text: str) -> str:
    """Why a text must not be handed to a YAML parser; empty where it may be, whether it is YAML or not."""
    try:
        load(text)
    except Refused as refused:
        return str(refused)
    except yaml.YAMLError:
        return ""
    return ""


def reason(error: yaml.YAMLError) -> str:
    """What is wrong with a document and where, in one line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return printable(problem)[:200] + (f" in line {mark.line + 1}" if mark is not None else "")


def _written_out(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a node comes to with its aliases written out, and how deep; `known` remembers those seen."""
    if id(node) not in known:
        known[id(node)] = _OPEN
        parts = [_written_out(part, known) for part in _parts(node)]
        known[id(node)] = 1 + sum(count for count, _ in parts), 1 + max((depth for _, depth in parts), default=0)
    count, depth = known[id(node)]
    if (count, depth) == _OPEN:
        raise Refused("a value in it holds itself")
    if count > _MOST or depth > _DEEPEST:
        raise Refused(f"it comes to more than {_MOST} values" if count > _MOST else "it is nested too deeply")
    if node.tag == _WHOLE and isinstance(node, yaml.ScalarNode) and len(node.value) > _LONGEST_NUMBER:
        raise Refused(f"a number in it has {len(node.value)} digits")
    return count, depth


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []
