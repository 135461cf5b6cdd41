"""Commits: the replies that come in at about the same time are kept in one transaction.

In: a ledger that was told of replies. Out: its commits, a few milliseconds apart, for which those
who are about to use the replies wait.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from irr.errors import LMError
from irr.ledger import Ledger

__all__ = ["Commits"]

# Seconds: a hundredth of what an LM takes, in which a busy server answers several requests.
_TOGETHER = 0.003


class Commits:
    """The commits of one ledger. May be used from several event loops."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = (
            WeakKeyDictionary()
        )

    async def next(self) -> None:
        """Wait for the next commit.

        Raises:
            LMError: replies cannot be kept any more.
        """
        loop = asyncio.get_running_loop()
        waiting = self._waiting.setdefault(loop, [])
        if not waiting:
            loop.call_later(_TOGETHER, self._commit, waiting)
        future: asyncio.Future[None] = loop.create_future()
        waiting.append(future)
        await future

    def _commit(self, waiting: list[asyncio.Future[None]]) -> None:
        error: LMError | None = None
        try:
            self._ledger.commit()
        except LMError as failure:
            error = failure
        for future in waiting:
            if not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)
        waiting.clear()
