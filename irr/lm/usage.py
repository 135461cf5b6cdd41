"""What a document's replies cost: counted where they are used, see `count_usage`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from irr.types import Usage

__all__ = ["UsageCount", "count_usage", "counting"]


class UsageCount:
    """A running count of `Usage`, shared by the calls made inside one `count_usage` block."""

    def __init__(self) -> None:
        self.total = Usage()


counting: ContextVar[UsageCount | None] = ContextVar("irr_usage", default=None)


@contextlib.contextmanager
def count_usage() -> Iterator[UsageCount]:
    """Count the replies used inside the block, also by tasks it starts.

    One that was found in the ledger counts like one that was paid for now: the count is the same
    in a run that was killed and begun again.
    """
    count = UsageCount()
    token = counting.set(count)
    try:
        yield count
    finally:
        counting.reset(token)
