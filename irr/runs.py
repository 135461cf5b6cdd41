"""A run of predict: how it is limited, how it is stopped, and what it says of itself at its end.

In: a program and documents. Out: rows in a journal (`run_to_file`) or on a stream
(`run_to_stream`). A run into a file can be interrupted or killed at any moment; the same run goes
on where it was.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irr.errors import IrrError
from irr.pipeline import Stop
from irr.types import Document, Prediction

if TYPE_CHECKING:
    from irr.journal import Journal
    from irr.program import InferRetrieveRank

__all__ = [
    "ErrorLimit",
    "RunSettings",
    "TooManyFailedError",
    "open_journal",
    "remove_replies",
    "replies_of",
    "run_to_file",
    "run_to_stream",
    "stopping_on_signals",
]

# Rows over which failures are judged at least: of the first few, one may fail by chance.
_JUDGED_TOGETHER = 1000


class TooManyFailedError(IrrError):
    """More rows failed than the run allows: it was ended early."""

    exit_status = 9


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a run goes about its rows.

    Args:
        top_k, trace: see `InferRetrieveRank.predict_many`.
        max_error_rate: share of rows, 0 to 1, that may fail before the run is ended; judged over
            1,000 rows at least.
        restart, resume_changed, retry_failed: see `irr.journal.Journal`.
    """

    top_k: int = 10
    trace: bool = False
    max_error_rate: float = 0.01
    restart: bool = False
    resume_changed: bool = False
    retry_failed: bool = False


class ErrorLimit:
    """Ends a hopeless run: counts rows and failures, after those of earlier starts."""

    def __init__(self, rate: float, rows: int = 0, failed: int = 0) -> None:
        self._rate = rate
        self._rows, self._failed = rows, failed

    def add(self, prediction: Prediction) -> None:
        """Count a row.

        Raises:
            TooManyFailedError: more failed than the rate allows.
        """
        self._rows += 1
        if prediction.status == "ok":
            return
        self._failed += 1
        if self._failed > self._rate * max(self._rows, _JUDGED_TOGETHER):
            kind, message = prediction.error or ("", "")
            raise TooManyFailedError(
                f"{self._failed:,} of {self._rows:,} rows failed, more than --max-error-rate "
                f"{100 * self._rate:g}% allows; the last: {kind}: {message}; mend the cause, then "
                "run the same command with --retry-failed"
            )


def replies_of(output: Path | str) -> Path:
    """Where the replies of a run into `output` are kept until its rows are all there."""
    return Path(f"{os.path.realpath(output)}.replies")


def open_journal(program: InferRetrieveRank, output: Path | str, settings: RunSettings) -> Journal:
    """The journal of a run, which knows by what program and settings it was begun."""
    from irr.directory import identity
    from irr.journal import Journal

    run = {**identity(program), "top-k": settings.top_k, "trace": settings.trace}
    return Journal(
        output,
        run,
        restart=settings.restart,
        resume_changed=settings.resume_changed,
        retry_failed=settings.retry_failed,
    )


def run_to_file(
    program: InferRetrieveRank,
    documents: Iterable[Document],
    journal: Journal,
    settings: RunSettings,
    *,
    add: Callable[[Prediction], None],
    stop: Stop | None = None,
) -> None:
    """Predict the documents that have no row yet, within an open journal.

    Args:
        add: is shown every row that was written.
        stop: ends the run early.

    Raises:
        TooManyFailedError: see `RunSettings.max_error_rate`.
        IrrError: whatever ended the run early; the rows that were finished are in the journal.
    """
    limit = ErrorLimit(settings.max_error_rate, journal.rows, journal.failed)
    remaining = journal.remaining(documents)
    predictions = program.predict_many(
        remaining, top_k=settings.top_k, trace=settings.trace, stop=stop
    )
    # Rows are in order: what comes after an unfinished one waits for the next run, which finds
    # the LM's replies kept.
    _take_rows(predictions, (journal.write, add, limit.add), gaps=False)


def run_to_stream(
    program: InferRetrieveRank,
    documents: Iterable[Document],
    write: Callable[[Prediction], None],
    settings: RunSettings,
    *,
    add: Callable[[Prediction], None],
    stop: Stop | None = None,
) -> None:
    """Predict documents and write each row as soon as it is next; rows cannot be resumed.

    Raises:
        TooManyFailedError: see `RunSettings.max_error_rate`.
        IrrError: whatever ended the run early.
    """
    limit = ErrorLimit(settings.max_error_rate)
    predictions = program.predict_many(
        documents, top_k=settings.top_k, trace=settings.trace, stop=stop
    )
    _take_rows(predictions, (write, add, limit.add), gaps=True)


def _take_rows(
    predictions: Generator[Prediction],
    takers: Sequence[Callable[[Prediction], None]],
    *,
    gaps: bool,
) -> None:
    """Hand every finished row to each taker; without `gaps`, those before an unfinished one."""
    ended = False
    with contextlib.closing(predictions):
        for prediction in predictions:
            ended = prediction.unfinished or (ended and not gaps)
            if not ended:
                for take in takers:
                    take(prediction)


@contextlib.contextmanager
def stopping_on_signals() -> Generator[Stop]:
    """Inside the block a first Ctrl-C or SIGTERM asks the run to stop, a second one interrupts.

    Raises:
        KeyboardInterrupt: at the end of a block in which a stop was asked for.
    """
    stop = Stop()

    def ask(signum: int, frame: Any) -> None:  # noqa: ARG001 - given by signal
        if stop.requested.is_set():
            raise KeyboardInterrupt
        sys.stderr.write(
            "\nirr: stopping once the calls in flight are answered; again to drop them\n"
        )
        stop.request()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.requested.is_set():
        raise KeyboardInterrupt


def remove_replies(output: Path | str) -> None:
    """Remove the kept replies of a run whose rows are all there, and what a batch was asked."""
    for name in ("replies", "replies-wal", "replies-shm", "requests", "requests-journal"):
        Path(f"{os.path.realpath(output)}.{name}").unlink(missing_ok=True)
