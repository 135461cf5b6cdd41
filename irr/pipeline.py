"""The way of many documents through a program: ahead of their order, within bounds, at once.

In: a stream of documents. Out: one prediction for each, in the order of the documents. While LM
calls are in flight, the queries of the documents that are ready for Retrieve are embedded together,
more documents are begun, and finished rows leave; never more than a window of documents is open,
so that memory does not grow with the stream. Without LMs, documents go through Retrieve in blocks.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from irr.errors import ConfigurationError
from irr.readahead import ReadAhead
from irr.types import Candidate, Document, Prediction

if TYPE_CHECKING:
    import asyncio

    from irr.errors import LMError
    from irr.selection import Selection

__all__ = ["BLOCK", "Gathering", "Query", "Stop", "predict_ahead", "predict_blocks"]

# Documents retrieved together: enough to fill the encoder's batches.
BLOCK = 64
# Documents being worked on, for each LM request that may be in flight.
AHEAD = 2
# Finished documents that wait for an older one, so that a slow reply holds nobody up: some 20 MB.
MOST_WAITING = 10_000
_TURN = 0.0005  # seconds
# Seconds that calls in flight are waited for after a request to stop.
PATIENCE = 8.0


class Query(NamedTuple):
    """What Retrieve is asked for a document: its text, an LM's guesses, its own selection."""

    text: str
    guesses: Sequence[str] = ()
    selection: Selection | None = None


Find = Callable[[Sequence[Query]], list[list[Candidate]]]
Begin = Callable[[int, Document, "list[LMError]"], Any]


class Stop:
    """Asks a run to end early: nothing more is begun, and what was paid for comes out.

    May be requested from any thread, and from a signal handler.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        self._listeners: list[Callable[[], object]] = []

    def request(self) -> None:
        """End the run."""
        self.requested.set()
        for listener in tuple(self._listeners):
            with contextlib.suppress(RuntimeError):  # The run's event loop was closed meanwhile.
                listener()

    @contextlib.contextmanager
    def telling(self, listener: Callable[[], object]) -> Generator[None]:
        """Call `listener` on a request made inside the block."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)


class Gathering:
    """Retrieve for many documents at once, within one event loop.

    Those that come while a batch is being retrieved form the next batch, so that a batch is as
    large as the load is high, and nobody waits for a batch to fill.
    """

    def __init__(self, find: Find) -> None:
        self._find = find
        self._waiting: deque[tuple[Query, asyncio.Future[list[Candidate]]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def find(self, query: Query) -> list[Candidate]:
        """The candidates for one document."""
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Candidate]] = loop.create_future()
        self._waiting.append((query, future))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._work())
        return await future

    async def _work(self) -> None:
        import asyncio

        while self._waiting:
            count = min(BLOCK, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            batch = [(query, future) for query, future in batch if not future.cancelled()]
            queries = [query for query, _ in batch]
            try:
                # In a thread: LM calls go on while queries are embedded.
                found = await asyncio.to_thread(self._find, queries)
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            for (_, future), candidates in zip(batch, found, strict=True):
                if not future.done():
                    future.set_result(candidates)


def predict_blocks(
    documents: Iterable[Document],
    predict: Callable[[Sequence[Document]], Iterable[Prediction]],
    stop: Stop,
) -> Generator[Prediction]:
    """Predict block by block; a block is what was read meanwhile, `BLOCK` documents at most."""
    reader = ReadAhead(documents, 2 * BLOCK)
    try:
        while not stop.requested.is_set() and (block := reader.take(BLOCK, wait=True)):
            yield from predict(block)
    finally:
        reader.close()
    if not stop.requested.is_set():
        reader.raise_failure()


def predict_ahead(
    documents: Iterable[Document],
    begin: Begin,
    *,
    in_flight: int,
    stop: Stop,
    hold: Callable[[], None],
    close: Callable[[], Any],
) -> Generator[Prediction]:
    """Predict with up to `AHEAD` · `in_flight` documents being worked on at once.

    Args:
        begin: number of a document, the document and a list for fatal errors → a coroutine that
            gives its prediction.
        stop: ends the run early: no request is sent any more, those in flight are waited for
            `PATIENCE` seconds at most.
        hold: keeps any further request from being sent.
        close: makes a coroutine that closes connections.

    Raises:
        LMError: the first fatal error, after the predictions of all documents that were begun.
    """
    import asyncio

    _refuse_running_loop()
    with _quick_turns(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        run = _Run(runner.get_loop(), documents, begin, AHEAD * in_flight, stop, hold)
        try:
            with stop.telling(run.wake):
                while ready := runner.run(run.ready()):
                    yield from ready
        finally:
            runner.run(run.end(close))
        run.raise_failure()


class _Run:
    """The open documents of a run, in their order."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        documents: Iterable[Document],
        begin: Begin,
        most: int,
        stop: Stop,
        hold: Callable[[], None],
    ) -> None:
        import asyncio

        self._loop = loop
        self._begin = begin
        self._most = most
        self._stop = stop
        self._hold = hold
        self._changed = asyncio.Event()
        self._open: deque[asyncio.Task[Prediction]] = deque()
        self._working = self._number = 0
        self._fatal: list[LMError] = []
        self._deadline: float | None = None
        self._reader = ReadAhead(documents, most, on_change=self.wake)

    def wake(self) -> None:
        """Look again at what there is to do; from any thread."""
        self._loop.call_soon_threadsafe(self._changed.set)

    async def ready(self) -> list[Prediction]:
        """The predictions that are next in order, at least one; none at the end of the run."""
        import asyncio

        while True:
            self._changed.clear()
            self._look_for_stop()
            self._begin_more()
            ready = []
            while self._open and self._open[0].done():
                task = self._open.popleft()
                if not task.cancelled():
                    ready.append(task.result())
            if ready or not (self._open or self._more()):
                return ready
            if self._patience_is_over():
                return []
            patience = None if self._deadline is None else self._deadline - time.monotonic()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), patience)

    async def end(self, close: Callable[[], Any]) -> None:
        """Read no further, cancel what is open, close the connections."""
        import asyncio

        self._reader.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await close()

    def raise_failure(self) -> None:
        """Raise what ended the run, if it was an error."""
        if self._stop.requested.is_set():
            return
        if self._fatal:
            raise self._fatal[0]
        self._reader.raise_failure()

    def _more(self) -> bool:
        return not (self._fatal or self._deadline is not None or self._reader.ended)

    def _begin_more(self) -> None:
        # After a fatal error what was begun is finished: some of it is paid for.
        if self._fatal or self._deadline is not None:
            return
        room = min(self._most - self._working, self._most + MOST_WAITING - len(self._open))
        for document in self._reader.take(room):
            coroutine = self._begin(self._number, document, self._fatal)
            self._number += 1
            self._working += 1
            task = self._loop.create_task(coroutine)
            self._open.append(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Prediction]) -> None:
        self._working -= 1
        # Waking for every document would cost more than the work there is to do.
        if (self._open and task is self._open[0]) or 2 * self._working < self._most:
            self._changed.set()

    def _look_for_stop(self) -> None:
        if self._stop.requested.is_set() and self._deadline is None:
            self._deadline = time.monotonic() + PATIENCE
            self._reader.close()
            self._hold()

    def _patience_is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed: it takes some less time for each call."""
    try:
        import uvloop
    except ImportError:  # There is none for Windows.
        return None
    return uvloop.new_event_loop


@contextlib.contextmanager
def _quick_turns() -> Generator[None]:
    """The event loop gets its turn back soon from the thread that retrieves.

    It gives its turn away with every packet. With Python's five milliseconds until it has it
    back, it would answer a few hundred requests a second at most.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _TURN))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _refuse_running_loop() -> None:
    import asyncio

    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise ConfigurationError(
            "an event loop runs already, as in a notebook: write 'await program.apredict("
            "irr.Document(id, text))' there"
        )
