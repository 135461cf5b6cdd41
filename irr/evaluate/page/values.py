"""The report's values: read where they may be missing, and as the words that a page shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]
"""A program of the report, or a row of one of its tables; any key may be missing or None."""


def name_of(program: Row) -> str:
    """The name of a program."""
    return str(program.get("name") or "program")


def union(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """All keys, each once, in the order in which they first appear."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def is_known(value: Any) -> bool:
    """Whether a value is there, and no NaN or infinity."""
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def number_of(value: Any) -> float | None:
    """A number, or None where it is not known."""
    return float(value) if is_known(value) else None


def interval_of(score: Row) -> tuple[float, float] | None:
    """Its bounds, low and high, or None where one of them is not known."""
    low, high = number_of(score.get("low")), number_of(score.get("high"))
    return None if low is None or high is None else (low, high)


def percent(value: Any) -> str:
    """A number in percent, to one decimal; a dash where it is not known."""
    return f"{value:.1f}".replace("-", "−") if is_known(value) else "–"


def signed(value: Any) -> str:
    """A difference in points of percent, with its sign."""
    return f"{value:+.1f}".replace("-", "−") if is_known(value) else "–"


def thousands(value: Any) -> str:
    """A count, with separators of thousands."""
    return f"{value:,.10g}" if is_known(value) else "–"


def dollars(value: Any) -> str:
    """A cost: cents, or finer where it is below a dollar."""
    return f"${value:,.{2 if value >= 1 or value == 0 else 4}f}" if is_known(value) else "–"


def capital(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[:1].upper() + text[1:]


def plural(count: int, noun: str) -> str:
    """A count and its noun: 1 label, 2 labels."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
