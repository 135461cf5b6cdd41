"""The estimate as a person reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TextIO

from irr.dryrun.estimate import RunEstimate
from irr.dryrun.regression import Range

__all__ = ["print_estimate"]

_UNITS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))
# Numbers this near to each other are told as one.
_SAME = 0.005


def print_estimate(estimate: RunEstimate, stream: TextIO) -> None:
    """Write the estimate as a table of numbers with their ranges, and what they rest on."""
    rows = list(_rows(estimate))
    names, numbers = (max(len(row[column]) for row in rows) for column in (0, 1))
    for name, number, more in rows:
        stream.write(f"{name:<{names}}  {number:>{numbers}}  {more}".rstrip() + "\n")
    for line in _notes(estimate):
        stream.write(line + "\n")


def _rows(estimate: RunEstimate) -> Iterator[tuple[str, str, str]]:
    empty = f"{estimate.empty:,} of them without text" if estimate.empty else ""
    yield "documents", f"{estimate.documents:,}", empty
    yield "characters", f"{estimate.characters:,}", ""
    yield _row("LM calls", estimate.calls, _count)
    if estimate.calls.value:
        yield _row("input tokens", estimate.input_tokens, _count)
        yield _row("output tokens", estimate.output_tokens, _count)
    yield _row("cost", estimate.cost, _dollars)
    yield _row("time", estimate.seconds, _duration)


def _row(name: str, number: Range | None, told: Callable[[float], str]) -> tuple[str, str, str]:
    if number is None:
        return name, "unknown", ""
    if math.isinf(number.high):
        return name, told(number.value), "for input alone"
    if number.high - number.low <= _SAME * number.value:
        return name, told(number.value), ""
    return name, told(number.value), f"{told(number.low)} to {told(number.high)}"


def _notes(estimate: RunEstimate) -> Iterator[str]:
    if estimate.calls.value and not estimate.sampled:
        yield "nothing was asked: tokens are reckoned as four characters each"
    if estimate.sampled:
        failed = f", {estimate.failed:,} of them failed" if estimate.failed else ""
        yield f"measured on {estimate.sampled:,} documents{failed}"
    if estimate.kept:
        yield f"{estimate.kept:,} calls of these were answered in an earlier run and cost nothing"
    at_once = f"{estimate.in_flight:,} requests in flight"
    if estimate.limited_by == "requests in flight":
        yield f"the time is that of {at_once}, the limit, if the server takes as many"
    elif estimate.limited_by and estimate.calls.value:
        yield f"the time is bounded by this machine, not by {at_once}"
    elif estimate.sampled:
        yield "the time is unknown: no request of the sample had to be sent"
    yield from (f"price of {line}" for line in estimate.prices)
    if estimate.unpriced:
        named = " and ".join(estimate.unpriced)
        yield f"no price is known of {named}: give it with --prices FILE"


def _count(number: float) -> str:
    return f"{round(number):,}"


def _dollars(amount: float) -> str:
    """Cents, and of less than a dollar two digits more."""
    return f"${amount:,.2f}" if amount >= 1 or not amount else f"${amount:.4f}"


def _duration(seconds: float) -> str:
    """In two units at most.

    >>> _duration(7.25), _duration(92), _duration(3_720), _duration(100_000)
    ('7.2 s', '1 min 32 s', '1 h 2 min', '1 d 4 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    for size, unit, smaller, its_unit in _UNITS:
        if seconds >= size:
            whole, rest = divmod(round(seconds / smaller) * smaller, size)
            return f"{whole} {unit} {rest // smaller} {its_unit}"
    raise AssertionError("the units go down to seconds")
