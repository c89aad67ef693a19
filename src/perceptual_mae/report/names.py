"""Names of things that stand side by side."""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import chain, count


def told_apart(names: Sequence[str], typed: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """A name for each of some encoders that no other has: its own, or what the user typed where that is not enough.

    Args:
        names: their own.
        typed: what the user called them.
        taken: of what stands beside them, and keeps its names.
    """
    times, used, found = Counter([*names, *taken]), set(taken), []
    for name, spec in zip(names, typed, strict=True):
        best = name if times[name] == 1 else spec
        first = f"{best} (encoder)" if best in taken else best
        own = next(one for one in chain([first], (f"{first} ({n})" for n in count(2))) if one not in used)
        used.add(own)
        found.append(own)
    return found
