"""Numbers as a person reads them. Every function takes anything and gives `UNKNOWN` for what is no number."""

import math
from typing import Any, TypeGuard

UNKNOWN = "–"


def is_number(value: Any) -> TypeGuard[float]:
    """A finite float, or an int that could be one (not a bool): JSON can hold whole numbers of hundreds of digits."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 1 << 63
    return isinstance(value, float) and math.isfinite(value)


def number(value: Any) -> str:
    """Four significant digits: 0.4312, 12.35, 12,346, 1.5e-4."""
    if not is_number(value):
        return UNKNOWN
    if value != 0 and not 1e-3 <= abs(value) < 1e9:
        return scientific(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def scientific(value: float) -> str:
    """Three significant digits and a power of ten, no longer than needed: 1.5e-4."""
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def count(value: Any) -> str:
    """A whole number: 20,000."""
    return f"{value:,.0f}" if is_number(value) else UNKNOWN


def compact(value: Any) -> str:
    """A large count in short: 1.23 million, 86.6 million."""
    if not is_number(value):
        return UNKNOWN
    for unit, word in ((1e9, "billion"), (1e6, "million")):
        if abs(value) >= unit:
            return f"{value / unit:.3g} {word}"
    return count(value)


def percent(fraction: Any) -> str:
    """A fraction as 43.1 %."""
    return f"{fraction * 100:.3g} %" if is_number(fraction) else UNKNOWN


def epochs(value: Any) -> str:
    """1 epoch, 0.25 epochs, 1,600 epochs."""
    if not is_number(value):
        return UNKNOWN
    text = f"{value:.3g}" if value < 999.5 else count(value)
    return f"{text} {'epoch' if text == '1' else 'epochs'}"


def duration(seconds: Any) -> str:
    """12 s, 4 min 12 s, 3 h 05 min, 2 d 4 h."""
    if not is_number(seconds) or seconds < 0:
        return UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
