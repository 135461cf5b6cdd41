"""The trial: the sample goes through the program, and its use and time are measured.

In: a program and a sample. Out: the use of each document, how long a request took, and the CPU
time of this machine for what the run will do: Retrieve, calls, choosing passages for Rank.
"""

from __future__ import annotations

import inspect
import itertools
import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irr.dryrun.census import Census, Known
from irr.dryrun.regression import Range, exactly
from irr.errors import LMError
from irr.program import InferRetrieveRank
from irr.types import Document, Prediction, Usage

if TYPE_CHECKING:
    from irr.ledger import Ledger

__all__ = ["Pace", "Trial", "time_retrieval"]

# Documents of the sample at once: below the in-flight limit that any run begins with.
_AT_ONCE = 8
# The first of the sample also open connections and import what is needed: their time is no guide.
_WARM_UP = 4
# Seconds that Retrieve is timed for, and the documents of a batch.
_SECONDS = 3.0
_BLOCK = 64


class _Group(NamedTuple):
    """Documents that ran together: what is known of them, their calls, and CPU seconds beyond
    those of Retrieve.
    """

    known: list[Known]
    calls: int
    cpu: float


class Trial:
    """What the sample used. Documents that failed are counted in `failed` and else left out.

    Attributes:
        documents, known, usages: of the documents that were answered, in the same order.
        kept: calls that were answered by replies of an earlier run.
        latencies: seconds of single requests, kept replies among them.
        stages: how many stages ask an LM.

    Raises:
        LMError: no document was answered.
    """

    def __init__(
        self, program: InferRetrieveRank, census: Census, top_k: int, ledger: Ledger | None
    ) -> None:
        self.documents: list[Document] = []
        self.known: list[Known] = []
        self.usages: list[Usage] = []
        self.failed = 0
        self._error = ""
        stages = {"infer": program.infer, "rank": program.rank}
        timed = {name: _Timed(stage) for name, stage in stages.items() if stage is not None}
        self.stages = len(timed)
        self._timed = list(timed.values())
        self._program = program.variant(**timed)
        self._plain = program.variant(infer=None, rank=None)
        self._top_k = top_k
        before = _kept(ledger)
        rows = [(document, census.known(document.text)) for document in census.choose()]
        warm_up = _WARM_UP if len(rows) > 2 * _WARM_UP else 0
        self._run(rows[:warm_up])
        self._latencies()
        long = [row for row in rows[warm_up:] if row[1].chunks > 1 or row[1].passages]
        self.short = self._run([row for row in rows[warm_up:] if row not in long])
        # The chunks of a long document may wait for each other: it says less of a request.
        self.latencies = self._latencies()
        self.long = self._run(long)
        self.latencies = self.latencies or self._latencies()
        self.kept = _kept(ledger) - before
        if rows and not self.documents:
            raise LMError(f"none of {len(rows)} documents was answered: {self._error}")

    @property
    def sent(self) -> float:
        """The share of the calls that were sent, not answered by kept replies."""
        calls = sum(usage.calls for usage in self.usages)
        return max(0.0, 1 - self.kept / calls) if calls else 0.0

    def _latencies(self) -> list[float]:
        """The seconds noted since the last time."""
        noted = [seconds for stage in self._timed for seconds in stage.seconds]
        for stage in self._timed:
            stage.seconds.clear()
        return noted

    def _run(self, rows: Sequence[tuple[Document, Known]]) -> _Group:
        documents = [document for document, _ in rows]
        started = time.process_time()
        for _ in _few_at_once(self._plain, documents, self._top_k):
            pass
        retrieved = time.process_time()
        predictions = list(_few_at_once(self._program, documents, self._top_k))
        cpu = time.process_time() - retrieved - (retrieved - started)
        for (document, known), prediction in zip(rows, predictions, strict=True):
            if prediction.error is not None:
                self.failed += 1
                self._error = prediction.error[1]
                continue
            self.documents.append(document)
            self.known.append(known)
            self.usages.append(prediction.usage)
        calls = sum(prediction.usage.calls for prediction in predictions)
        return _Group([known for _, known in rows], calls, max(0.0, cpu))


class _Timed:
    """A stage that notes how long its answers took, of those that need a single request."""

    def __init__(self, stage: Any) -> None:
        self.stage = stage
        self.seconds: list[float] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.stage, name)
        if not inspect.iscoroutinefunction(value):
            return value

        async def timed(*inputs: Any, **named: Any) -> Any:
            started = time.perf_counter()
            answer = await value(*inputs, **named)
            if self._single(*inputs, *named.values()):
                self.seconds.append(time.perf_counter() - started)
            return answer

        return timed

    def _single(self, text: str, candidates: Sequence[object] = ()) -> bool:
        if hasattr(self.stage, "chunk_chars"):
            return len(text) <= int(self.stage.chunk_chars)
        return 0 < len(candidates) <= int(self.stage.window)


def _few_at_once(
    program: InferRetrieveRank, documents: Sequence[Document], top_k: int
) -> Iterator[Prediction]:
    """Predict with at most `_AT_ONCE` documents begun, so that no request waits for its turn."""
    room = threading.Semaphore(_AT_ONCE)
    ended = threading.Event()

    def handed() -> Iterator[Document]:
        for document in documents:
            room.acquire()
            if ended.is_set():
                return
            yield document

    try:
        for prediction in program.predict_many(handed(), top_k=top_k):
            room.release()
            yield prediction
    finally:
        ended.set()
        room.release()


class Pace(NamedTuple):
    """Seconds of Retrieve alone for a document: on the clock, and of CPU."""

    wall: Range
    cpu: float


def time_retrieval(program: InferRetrieveRank, census: Census, top_k: int) -> Pace:
    """Time Retrieve in full batches on documents drawn from all, after a warm-up."""
    plain = program.variant(infer=None, rank=None)
    drawn = census.drawn()
    for _ in plain.predict_many(drawn[:_BLOCK], top_k=top_k):
        pass
    until = time.perf_counter() + _SECONDS
    rest = drawn[_BLOCK:] or drawn
    cpu, stamps = time.process_time(), [time.perf_counter()]
    handed = itertools.takewhile(lambda _: time.perf_counter() < until, rest)
    stamps += [time.perf_counter() for _ in plain.predict_many(handed, top_k=top_k)]
    cpu = time.process_time() - cpu
    done = len(stamps) - 1
    if not done:
        return Pace(exactly(0.0), 0.0)
    wall = (stamps[-1] - stamps[0]) / done
    blocks = np.diff(stamps[::_BLOCK]) / _BLOCK
    # Between blocks; and what else the machine does makes a tenth at least.
    spread = float(np.std(blocks)) / math.sqrt(len(blocks)) if len(blocks) else wall
    half = max(0.1 * wall, 2 * spread)
    return Pace(Range(wall, max(0.0, wall - half), wall + half), cpu / done)


def _kept(ledger: Ledger | None) -> int:
    return 0 if ledger is None else sum(counts.kept for counts in ledger.counts().values())
