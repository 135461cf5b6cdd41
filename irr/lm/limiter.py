"""How many requests may be in flight: found out from what servers accept and refuse.

`Limit` is the rule for one server, a state machine without clock or waiting. `Gate` lets requests
through by the limits of several servers that have the same model: those of older documents first
(`order`), each to the server with the most room. A gate may be used from several event loops.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

__all__ = ["FIRST_INTERVAL", "START", "Gate", "Limit", "Slot", "order"]

order: ContextVar[int] = ContextVar("irr_order", default=0)
"""The number of the document that a request is for: smaller ones are let through first."""

START = 16
# Successes before one more request is tried at a limit that a server once set, and the most.
FIRST_INTERVAL = 50
_LONGEST_INTERVAL = 3200
# Tries in a row that went well, after which the limit grows by more and more.
_WELL = 4
# A limit below this share of what went well before is no limit on requests at once.
_DEEP = 0.5
# A share of refusals up to which they are no sign of a limit: some servers refuse at random, and
# fewer requests at once would change nothing about that. Each outcome counts a hundredth.
_STRAY = 0.1
_MEMORY = 0.01
# Seconds for which a server without connections is left alone: doubling, up to the most.
_ASIDE = 30.0
_LONGEST_ASIDE = 600.0


class Limit:
    """The most requests in flight at one server.

    It starts at 16 and doubles with each round of successes that needed all of it, until the
    server refuses requests (429). It then falls to what the server had accepted, and grows by one
    after an interval of successes. A refusal at that doubles the interval; a success halves it,
    and after several in a row the steps double too. After a deep fall, as under a limit on
    requests a minute, it doubles up to half of what it was. Other failures change nothing, nor
    does a stray refusal at a limit that had been taken well.

    Attributes:
        value: the limit, from 1 to `most`.
        in_flight: requests sent and not ended.
    """

    def __init__(self, most: int, start: int = START) -> None:
        self.most = most
        self.in_flight = 0
        self.interval = FIRST_INTERVAL
        self._epoch = 0
        self.restart(start)

    def restart(self, start: int) -> None:
        """Forget what was found out: the server may be another one."""
        self.value = min(start, self.most)
        self._climb_to = self.most
        self._proven = self._former = 0
        self._refusals = 0.0  # lately, as a share
        self._step = 1
        self._well = 0
        self._count(0)

    @property
    def room(self) -> int:
        """How many more may be sent."""
        return self.value - self.in_flight

    def sent(self) -> int:
        """A request is sent. Its end is told with what this returns."""
        self.in_flight += 1
        if self.in_flight >= self.value:
            self._needed = True
        return self._epoch

    def failed(self) -> None:
        """A request ended in a way that says nothing about the limit."""
        self.in_flight -= 1

    def succeeded(self, epoch: int) -> None:
        """A request was answered."""
        self.in_flight -= 1
        self._refusals *= 1 - _MEMORY
        if epoch < self._epoch or self.value >= self.most:
            return
        self._count(self._successes + 1)
        climbing = self.value < self._climb_to
        if self._needed and self._successes >= (self.value if climbing else self.interval):
            self._grow(climbing)

    def refused(self, epoch: int) -> None:
        """A request was refused because there were too many."""
        self.in_flight -= 1
        self._refusals += _MEMORY * (1 - self._refusals)
        tried = self.value > self._proven
        stray = self._refusals <= _STRAY and self.in_flight > 0
        if epoch == self._epoch and stray and not tried:
            return
        if epoch == self._epoch:  # Not one more of a burst that was sent before the limit fell.
            self._epoch += 1
            if self._well:  # One more was tried, and was one too many.
                self.interval = min(2 * self.interval, _LONGEST_INTERVAL)
            self._former = self._proven
            self._climb_to = self._step = 1
            self._well = 0
        self.value = self._proven = max(1, min(self.value, self.in_flight))
        if self.value < _DEEP * self._former:
            self._climb_to = int(_DEEP * self._former)
            self.interval = FIRST_INTERVAL
        self._count(0)

    def _grow(self, climbing: bool) -> None:
        self._proven = max(self._proven, self.value)
        if climbing:
            self.value = min(2 * self.value, self._climb_to)
        else:
            if self._well:
                self.interval = max(FIRST_INTERVAL, self.interval // 2)
            if self._well >= _WELL:
                self._step = min(2 * self._step, self.value)
            self._well += 1
            self.value = min(self.value + self._step, self.most)
        self._count(0)

    def _count(self, successes: int) -> None:
        self._successes = successes
        if not successes:
            self._needed = self.in_flight >= self.value


class Slot(NamedTuple):
    """Leave to send one request: to which server, and its limit's epoch."""

    place: int
    epoch: int


class _Server:
    """One server as the gate sees it. Times are those of the gate's clock."""

    def __init__(self, most: int) -> None:
        self.limit = Limit(most)
        self.closed_until = 0.0
        self.aside_until = 0.0
        self.aside_for = _ASIDE


_Waiting = tuple[int, int, "asyncio.Future[Slot]"]


class Gate:
    """Lets requests through to `servers` servers, `most` at once in all.

    Each slot that `acquire` gives is ended by exactly one of `succeeded`, `failed`, `refused` and
    `unreachable`.
    """

    def __init__(
        self, servers: int, most: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.most = most
        self._servers = [_Server(most) for _ in range(servers)]
        self._clock = clock
        self._lock = threading.RLock()
        self._in_flight = 0
        self._turn = 0
        self._sequence = itertools.count()
        self._waiting: list[_Waiting] = []
        self._alarm: tuple[asyncio.AbstractEventLoop, float] | None = None

    @property
    def limits(self) -> list[Limit]:
        """The limit of each server."""
        return [server.limit for server in self._servers]

    async def acquire(self) -> Slot:
        """Wait for leave to send one request."""
        with self._lock:
            if not self._waiting and (slot := self._take()) is not None:
                return slot
            future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (order.get(), next(self._sequence), future))
            self._admit()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.failed(future.result())
            raise

    def succeeded(self, slot: Slot) -> None:
        """The request was answered."""
        with self._lock:
            server = self._servers[slot.place]
            server.limit.succeeded(slot.epoch)
            server.aside_for = _ASIDE
            self._left()

    def failed(self, slot: Slot) -> None:
        """The request failed, or was never sent."""
        with self._lock:
            self._servers[slot.place].limit.failed()
            self._left()

    def refused(self, slot: Slot, wait: float) -> None:
        """The server had too many requests. It accepts none at all: nothing is sent for `wait`."""
        with self._lock:
            server = self._servers[slot.place]
            server.limit.refused(slot.epoch)
            if server.limit.in_flight == 0:
                server.closed_until = max(server.closed_until, self._clock() + wait)
            self._left()

    def unreachable(self, slot: Slot) -> bool:
        """No connection came about: the server is set aside as long as there is another one.

        Returns:
            Whether there is.
        """
        with self._lock:
            server, now = self._servers[slot.place], self._clock()
            if server.aside_until <= now:
                server.aside_until = now + server.aside_for
                server.aside_for = min(2 * server.aside_for, _LONGEST_ASIDE)
            others = any(other.aside_until <= now for other in self._servers)
            if others:
                server.limit.restart(1)
            server.limit.failed()
            self._left()
            return others

    def _left(self) -> None:
        self._in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        """Give slots to those who wait, as long as there are any."""
        while self._waiting:
            future = self._waiting[0][2]
            if future.done():  # It was cancelled.
                heapq.heappop(self._waiting)
                continue
            slot = self._take()
            if slot is None:
                self._set_alarm(future.get_loop())
                return
            heapq.heappop(self._waiting)
            if future.get_loop() is asyncio._get_running_loop():
                future.set_result(slot)
            elif not _soon(future.get_loop(), self._give, future, slot):
                self.failed(slot)  # Its loop was closed, and nobody waits any more.

    def _give(self, future: asyncio.Future[Slot], slot: Slot) -> None:
        if future.done():
            self.failed(slot)
        else:
            future.set_result(slot)

    def _take(self) -> Slot | None:
        """A slot at the server with the most room; of equals, the one with the fewest in flight."""
        if self._in_flight >= self.most:
            return None
        best, best_rank = -1, (0, 0, 0)
        for place in self._open():
            limit = self._servers[place].limit
            rank = (limit.room, -limit.in_flight, -((place - self._turn) % len(self._servers)))
            if limit.room > 0 and (best < 0 or rank > best_rank):
                best, best_rank = place, rank
        if best < 0:
            return None
        self._turn = best + 1
        self._in_flight += 1
        return Slot(best, self._servers[best].limit.sent())

    def _open(self) -> Sequence[int]:
        """The servers that may be sent to now."""
        servers = self._servers
        if len(servers) == 1 and not servers[0].closed_until:
            return (0,)
        now = self._clock()
        near = [place for place, server in enumerate(servers) if server.aside_until <= now]
        return [
            place for place in near or range(len(servers)) if servers[place].closed_until <= now
        ]

    def _set_alarm(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look again when a server opens: nothing in flight may be left to make us look."""
        now = self._clock()
        times = [time_ for s in self._servers for time_ in (s.closed_until, s.aside_until)]
        opening = min((time_ for time_ in times if time_ > now), default=None)
        if opening is None:
            return
        if self._alarm is not None:
            other, at = self._alarm
            if now < at <= opening and not other.is_closed():
                return
        self._alarm = (loop, opening)
        _soon(loop, loop.call_later, opening - now, self._ring)

    def _ring(self) -> None:
        with self._lock:
            self._alarm = None
            self._admit()


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: Any) -> bool:
    """Have a loop call something; False where it was closed."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        return False
    return True
