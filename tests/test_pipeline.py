from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from irr.errors import ConfigurationError, LMError
from irr.pipeline import AHEAD, BLOCK, Gathering, Query, Stop, predict_ahead, predict_blocks
from irr.types import Candidate, Document, Prediction


async def nothing() -> None:
    return None


def documents(count: int) -> list[Document]:
    return [Document(str(number), "text") for number in range(count)]


def ahead(source, begin, *, in_flight=4, stop=None, hold=lambda: None):  # type: ignore[no-untyped-def]
    return predict_ahead(
        source, begin, in_flight=in_flight, stop=stop or Stop(), hold=hold, close=nothing
    )


def test_those_that_come_during_a_batch_are_the_next_one() -> None:
    batches: list[list[str]] = []
    release = threading.Event()

    def find(queries: Sequence[Query]) -> list[list[Candidate]]:
        batches.append([query.text for query in queries])
        release.wait(10)
        return [[Candidate(int(query.text), 1.0, query.text)] for query in queries]

    async def ask() -> list[int]:
        gathering = Gathering(find)
        first = asyncio.create_task(gathering.find(Query("0")))
        while not batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(gathering.find(Query(str(n)))) for n in range(1, 100)]
        await asyncio.sleep(0.01)
        release.set()
        found = [await first, *await asyncio.gather(*others)]
        return [candidates[0].position for candidates in found]

    assert asyncio.run(ask()) == list(range(100))
    assert [len(batch) for batch in batches] == [1, BLOCK, 99 - BLOCK]


def test_an_error_of_a_batch_reaches_each_of_its_documents() -> None:
    def find(queries: Sequence[Query]) -> list[list[Candidate]]:
        raise ZeroDivisionError(len(queries))

    async def ask() -> list[object]:
        gathering = Gathering(find)
        return await asyncio.gather(
            *(gathering.find(Query(text)) for text in "ab"), return_exceptions=True
        )

    assert [type(error) for error in asyncio.run(ask())] == [ZeroDivisionError] * 2


def test_no_more_documents_are_worked_on_than_the_window_holds() -> None:
    working = most = 0

    async def begin(number: int, document: Document, fatal: list[LMError]) -> Prediction:
        nonlocal working, most
        working += 1
        most = max(most, working)
        await asyncio.sleep(0.001 * (number % 3))
        working -= 1
        return Prediction(document.id, "ok")

    rows = list(ahead(documents(200), begin))
    assert [row.id for row in rows] == [str(number) for number in range(200)]
    assert most == 4 * AHEAD


def test_a_slow_document_does_not_hold_up_the_others() -> None:
    done = 0

    async def begin(number: int, document: Document, fatal: list[LMError]) -> Prediction:
        nonlocal done
        if number == 0:
            while done < 99:
                await asyncio.sleep(0.001)
        done += 1
        return Prediction(document.id, "ok")

    rows = list(ahead(documents(100), begin))
    assert [row.id for row in rows] == [str(number) for number in range(100)]


def test_a_stop_begins_nothing_more_and_lets_out_what_was_begun() -> None:
    stop, held = Stop(), threading.Event()

    async def begin(number: int, document: Document, fatal: list[LMError]) -> Prediction:
        if number < 3:
            return Prediction(document.id, "ok")
        while not held.is_set():
            await asyncio.sleep(0.001)
        return Prediction(document.id, "error", unfinished=True)

    rows = []
    for row in ahead(documents(10_000), begin, stop=stop, hold=held.set):
        rows.append(row)
        if row.id == "2":
            stop.request()
    assert [row.unfinished for row in rows[:3]] == [False] * 3
    assert all(row.unfinished for row in rows[3:])
    assert len(rows) <= 3 + 2 * 4 * AHEAD


def test_what_is_still_open_when_patience_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irr.pipeline.PATIENCE", 0.05)
    stop = Stop()
    begun, cancelled = [], []

    async def begin(number: int, document: Document, fatal: list[LMError]) -> Prediction:
        begun.append(number)
        while len(begun) < 3:
            await asyncio.sleep(0.001)
        if number:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.append(number)
                raise
        return Prediction(document.id, "ok")

    rows = []
    for row in ahead(documents(3), begin, stop=stop):
        rows.append(row.id)
        stop.request()
    assert rows == ["0"]
    assert cancelled == [1, 2]


def test_a_fatal_error_comes_after_the_rows_that_were_begun() -> None:
    begun = []

    async def begin(number: int, document: Document, fatal: list[LMError]) -> Prediction:
        begun.append(number)
        while len(begun) < 4 * AHEAD:  # So that as many are begun before the error.
            await asyncio.sleep(0.001)
        if number == 1:
            fatal.append(LMError("the key is gone", fatal=True))
        return Prediction(document.id, "ok", unfinished=number == 1)

    rows = []
    with pytest.raises(LMError, match="the key is gone"):
        rows.extend(ahead(documents(100), begin))
    assert [row.id for row in rows] == [str(number) for number in range(len(begun))]
    assert len(begun) < 100


def test_a_stop_between_blocks() -> None:
    stop = Stop()

    def predict(block: Sequence[Document]) -> Iterator[Prediction]:
        stop.request()
        return iter([Prediction(document.id, "ok") for document in block])

    rows = list(predict_blocks(documents(10 * BLOCK), predict, stop))
    assert 1 <= len(rows) <= BLOCK


def test_closing_cancels_what_is_open() -> None:
    cancelled = threading.Event()

    begun = []

    async def begin(number: int, document: Document, fatal: list[LMError]) -> Prediction:
        begun.append(number)
        while len(begun) < 2:
            await asyncio.sleep(0.001)
        if number:
            try:
                await asyncio.sleep(3600)
            finally:
                cancelled.set()
        return Prediction(document.id, "ok")

    rows = ahead(documents(2), begin)
    assert next(rows).id == "0"
    started = time.monotonic()
    rows.close()
    assert cancelled.is_set()
    assert time.monotonic() - started < 60


def test_within_a_running_loop_it_says_what_to_write() -> None:
    async def cell() -> None:
        next(ahead([], lambda *_: nothing()))

    with pytest.raises(ConfigurationError, match=r"await program\.apredict"):
        asyncio.run(cell())
