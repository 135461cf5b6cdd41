"""Limits on requests in flight: the rule by itself, and the gate with a clock of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from irr.lm.limiter import FIRST_INTERVAL, Gate, Limit, Slot, order


class Server:
    """A server that takes `cap` requests at once, and a client that always has more to send.

    Answers come in a random order; no time passes.
    """

    def __init__(self, limit: Limit, cap: int) -> None:
        self.limit = limit
        self.cap = cap
        self.draw = random.Random(0)
        self.accepted: list[int] = []
        self.answers = self.refusals = self.places = 0

    def run(self, answers: int, *, wanted: int = 10**9) -> None:
        """Until so many more were answered, with `wanted` requests to send at most at once."""
        end = self.answers + answers
        while self.answers < end:
            burst = []
            while self.limit.room > 0 and self.limit.in_flight < wanted:
                burst.append(self.limit.sent())
            for epoch in burst:
                if len(self.accepted) < self.cap:
                    self.accepted.append(epoch)
                else:
                    self.refusals += 1
                    self.limit.refused(epoch)
            self.places += len(self.accepted)
            epoch = self.accepted.pop(self.draw.randrange(len(self.accepted)))
            self.answers += 1
            self.limit.succeeded(epoch)


def test_it_doubles_as_long_as_nothing_is_refused() -> None:
    limit = Limit(256)
    server = Server(limit, cap=1000)
    seen = []
    for _ in range(6):
        seen.append(limit.value)
        server.run(limit.value)
    assert seen == [16, 32, 64, 128, 256, 256]


def test_it_stays_where_it_is_not_needed() -> None:
    limit = Limit(256)
    Server(limit, cap=1000).run(1000, wanted=10)
    assert limit.value == 16


def test_a_burst_of_refusals_lowers_it_to_what_was_accepted() -> None:
    limit = Limit(256, start=100)
    epochs = [limit.sent() for _ in range(100)]
    for epoch in epochs[:40]:
        limit.refused(epoch)
    assert limit.value == limit.in_flight == 60


def test_it_is_never_below_one() -> None:
    limit = Limit(256)
    limit.refused(limit.sent())
    assert limit.value == 1


@pytest.mark.parametrize("cap", [1, 5, 50, 500])
def test_it_finds_a_hidden_cap_and_stays_there(cap: int) -> None:
    limit = Limit(1024)
    server = Server(limit, cap)
    server.run(20 * cap + 1000)
    server.answers = server.refusals = server.places = 0
    server.run(20_000)
    assert server.refusals < 0.02 * server.answers
    assert server.places / server.answers >= 0.97 * cap


def test_each_try_in_vain_makes_the_next_one_rarer() -> None:
    limit = Limit(256)
    server = Server(limit, cap=20)
    intervals = []
    for _ in range(2_000):
        server.run(10)
        if limit.interval not in intervals:
            intervals.append(limit.interval)
    assert intervals == [2**n * FIRST_INTERVAL for n in range(7)]


def test_a_cap_that_rises_is_followed_faster_and_faster() -> None:
    limit = Limit(1000)
    server = Server(limit, cap=10)
    server.run(20_000)
    server.cap = 400
    server.run(20_000)
    assert limit.value >= 360


def test_a_stray_refusal_at_a_limit_that_was_taken_well_changes_nothing() -> None:
    limit = Limit(256)
    server = Server(limit, cap=50)
    server.run(5_000)
    before = limit.value
    limit.refused(limit.sent())
    assert limit.value == before
    for _ in range(20):
        limit.refused(limit.sent())
    assert limit.value < before


def test_refusals_at_random_do_not_bring_the_limit_down_to_one() -> None:
    limit = Limit(256)
    draw = random.Random(0)
    epochs: list[int] = []
    for _ in range(20_000):
        while limit.room > 0:
            epochs.append(limit.sent())
        epoch = epochs.pop(0)
        (limit.refused if draw.random() < 0.03 else limit.succeeded)(epoch)
    assert limit.value > 4


def test_after_a_deep_fall_it_doubles_up_to_half_of_before() -> None:
    limit = Limit(256)
    server = Server(limit, cap=100)
    server.run(5_000)
    assert limit.value in (100, 101)
    while server.accepted:  # As at the end of a minute's allowance: all is drained, none accepted.
        limit.succeeded(server.accepted.pop())
    limit.refused(limit.sent())
    assert limit.value == 1
    server.run(1 + 2 + 4 + 8 + 16 + 32)
    assert limit.value == 50
    server.run(FIRST_INTERVAL)
    assert limit.value == 51


def test_other_failures_change_nothing() -> None:
    limit = Limit(256)
    for _ in range(100):
        limit.sent()
        limit.failed()
    assert (limit.value, limit.in_flight) == (16, 0)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_oldest_document_goes_first() -> None:
    async def scenario() -> None:
        gate, entered = Gate(1, 1), []

        async def wait(number: int) -> None:
            order.set(number)
            slot = await gate.acquire()
            entered.append(number)
            gate.succeeded(slot)

        first = await gate.acquire()
        tasks = [asyncio.create_task(wait(number)) for number in (3, 1, 2, 1)]
        await settle()
        gate.succeeded(first)
        await asyncio.gather(*tasks)
        assert entered == [1, 1, 2, 3]

    run(scenario)


@pytest.mark.parametrize("given", [False, True])
def test_who_is_cancelled_takes_no_slot(given: bool) -> None:
    async def scenario() -> None:
        gate = Gate(1, 1)
        first = await gate.acquire()
        waiting = asyncio.create_task(gate.acquire())
        await settle()
        if given:  # The slot is there already when the cancellation comes.
            gate.succeeded(first)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if not given:
            gate.succeeded(first)
        assert gate.limits[0].in_flight == 0
        await gate.acquire()

    run(scenario)


def test_a_request_goes_where_the_most_room_is() -> None:
    async def scenario() -> None:
        gate = Gate(2, 100)
        slots = [await gate.acquire() for _ in range(6)]
        assert [slot.place for slot in slots] == [0, 1, 0, 1, 0, 1]
        gate.succeeded(slots[1])
        assert (await gate.acquire()).place == 1

    run(scenario)


def test_all_servers_together_have_no_more_than_allowed() -> None:
    async def scenario() -> None:
        gate = Gate(3, 4)
        for _ in range(4):
            await gate.acquire()
        waiting = asyncio.create_task(gate.acquire())
        await settle()
        assert not waiting.done()
        waiting.cancel()

    run(scenario)


def test_a_server_that_accepts_nothing_is_left_alone_for_a_while() -> None:
    async def scenario() -> None:
        now = 0.0
        gate = Gate(1, 8, clock=lambda: now)
        gate.refused(await gate.acquire(), 0.05)
        waiting = asyncio.create_task(gate.acquire())
        await settle()
        assert not waiting.done()
        now = 0.06
        assert await waiting == Slot(0, 1)

    run(scenario)


def test_a_server_that_cannot_be_reached_is_set_aside_while_there_is_another() -> None:
    async def scenario() -> None:
        now = 0.0
        gate = Gate(2, 7, clock=lambda: now)
        assert gate.unreachable(await gate.acquire())
        assert {(await gate.acquire()).place for _ in range(4)} == {1}
        now = 31.0
        there = [(await gate.acquire()).place for _ in range(3)]
        assert there.count(0) == 1  # One request at a time, to begin with.

    run(scenario)


def test_where_none_can_be_reached_all_are_tried() -> None:
    async def scenario() -> None:
        gate = Gate(2, 8, clock=lambda: 0.0)
        assert gate.unreachable(await gate.acquire())
        assert not gate.unreachable(await gate.acquire())
        assert {(await gate.acquire()).place for _ in range(8)} == {0, 1}

    run(scenario)


def test_two_event_loops_share_a_gate() -> None:
    gate = Gate(1, 1)
    entered: list[int] = []

    async def many(number: int) -> None:
        async def one() -> None:
            slot = await gate.acquire()
            await asyncio.sleep(0)
            entered.append(number)
            assert gate.limits[0].in_flight == 1
            gate.succeeded(slot)

        await asyncio.gather(*(one() for _ in range(50)))

    async def both() -> None:
        await asyncio.gather(many(0), asyncio.to_thread(asyncio.run, many(1)))

    run(both)
    assert sorted(entered) == [0] * 50 + [1] * 50
    assert gate.limits[0].in_flight == 0
