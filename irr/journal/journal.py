"""`Journal`: the output of a run, written row by row, that the same command continues.

In: predictions in the order of the documents. Out: FILE, made of FILE.partial at the end, and
FILE.run.json, which says what run it is of.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from irr.errors import OutputError
from irr.journal.checking import changed_input, changed_text, check_finished
from irr.journal.opening import Opened, Wanted, open_rows
from irr.journal.paths import Lock, Paths
from irr.journal.publish import publish
from irr.journal.rows import Row, read_rows
from irr.journal.state import NO_ROWS, Checkpoint, RunState, extend_digest, write_state
from irr.types import Document, Prediction
from irr.writer import output_failure, prediction_to_json

__all__ = ["Journal"]

logger = logging.getLogger(__name__)

# A power cut costs the rows since the last checkpoint; a checkpoint costs some ten milliseconds,
# so many quick rows do not bring one before its time.
CHECKPOINT_SECONDS = 5.0
CHECKPOINT_ROWS = 1_000
SECONDS_BETWEEN = 1.0
# Of documents that are held back until the whole input is known to be that of the run.
HELD_CHARS = 1 << 24


class _Passed(NamedTuple):
    """How many documents were passed, and the digest of them."""

    documents: int
    digest: bytes


class Journal:
    """The file of predictions of one run; a context manager.

    Rows are appended to ``FILE.partial`` as JSON lines, each at once, and every few seconds
    brought to the disk together with ``FILE.run.json``. When the run is through, ``FILE.partial``
    becomes FILE, converted where the name ends in .gz or .parquet; ``FILE.run.json`` stays. After
    a kill, an error, a full disk or a power cut the same command continues after the last whole
    row. While a run is under way ``FILE.lock`` is locked, and other runs are refused. Rows that
    are kept while others are predicted again are copied into a new file (``FILE.retry`` beside
    a ``FILE.partial``), and the old one stays until the new one is whole.

    The run is through when `remaining` has come to its end and all its documents were written.
    Leaving the context before, with an error or without, keeps the rows for the next run.

    Args:
        target: FILE; see `is_journaled`.
        run: what the run is: names and JSON values, such as hashes of labels and prompts. It
            must not change between a run and its continuation.
        resume_changed: continue although `run`, or texts or selections of the input, have
            changed; also a finished run, with the documents that came after those it was of.
        restart: begin anew. An older FILE stays until the new one replaces it.
        retry_failed: predict rows with status "error" again, also those that failed again in
            an earlier run with this option, and keep the others as they are.

    Attributes:
        finished: (once entered) whether FILE is there already, whole and of this run.
        rows: rows in the file that is being written: at first those that earlier runs left in
            it, in the end all.
        failed: those of them that have status "error".

    Raises:
        OutputError: on entering when another run is writing FILE, when FILE or FILE.partial is of
            another run or of none, when a finished FILE has been cut or has grown, or when it
            cannot be read or written; later when it cannot be written, or when the input is not
            the one the run was begun with.
    """

    _lock: Lock
    _state: RunState
    _writing: Path  # the file that rows are appended to
    _first: int  # rows that earlier runs left in it
    _bytes: int  # of whole rows in it
    _source: Path | None  # whose rows are carried into it
    _retries: bool  # but for those with status "error"
    _digests: dict[int, bytes]  # of so many documents, as earlier runs noted them

    def __init__(
        self,
        target: str | Path,
        run: Mapping[str, object],
        *,
        resume_changed: bool = False,
        restart: bool = False,
        retry_failed: bool = False,
    ) -> None:
        self.name = str(target)
        self.finished = False
        self.rows = 0
        self.failed = 0
        self._run = run
        self._wanted = Wanted(resume_changed, restart, retry_failed)
        self._paths = Paths(target)
        self._raw: BinaryIO | None = None
        self._copies: Iterator[Row] | None = None  # carried rows, from the next one on
        self._given: deque[tuple[str, _Passed]] = deque()
        self._exhausted: _Passed | None = None
        self._passed = _Passed(0, b"")  # what the latest row was of
        # Rows that are to be copied, and those that were; each counted by one thread only.
        self._passed_over, self._copied = Counter[str](), Counter[str]()
        self._saved_at = 0.0

    def __enter__(self) -> Self:
        try:
            self._check_target()
            self._lock = Lock(self._paths)
            try:
                opened = open_rows(self._paths, self._run, self._wanted)
            except BaseException:
                self._lock.release()
                raise
        except OSError as exc:
            raise output_failure(self.name, exc) from exc
        self._take_up(opened)
        return self

    @property
    def covered(self) -> tuple[int, int]:
        """Rows, and how many failed: `rows` and `failed` with those that are still to be copied."""
        rows, failed = (self._passed_over[n] - self._copied[n] for n in ("rows", "failed"))
        return self.rows + rows, self.failed + failed

    def _take_up(self, opened: Opened) -> None:
        self._state, carried = opened.state, opened.state.carried
        self.finished = opened.finished
        self.rows, self.failed = opened.there.rows, opened.there.failed
        self._first, self._bytes = opened.there.rows, opened.there.bytes
        self._writing = self._paths.writing(opened.state)
        self._source = None if opened.finished else self._paths.source(opened.state)
        self._retries = bool(carried and carried.retry_failed) or self._wanted.retry_failed
        known = (opened.state.checkpoint, carried.checkpoint if carried else NO_ROWS)
        self._digests = {c.rows: bytes.fromhex(c.input_digest) for c in known if c.rows}

    def _check_target(self) -> None:
        if self._paths.final.is_dir():
            raise OutputError(f"{self.name}: cannot be written: it is a folder; give a file")
        if self._paths.final.suffix.lower() == ".parquet":
            from irr.parquet import require_pyarrow

            require_pyarrow(self.name)

    def remaining(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Pass over the documents whose rows are there; yield the others, to be predicted.

        Documents whose failed rows are predicted again come when the input is checked as far as
        earlier runs noted it, or at 16 million characters. To be called once; may be read in
        another thread than `write` is called in. Of a run that is finished nothing is left: the
        documents are only checked, and its rows not read.

        Raises:
            OutputError: the documents are not those that the rows are of.
        """
        if self.finished:
            check_finished(self.name, self._paths.final, self._state.checkpoint, documents)
            return
        passed = _Passed(0, b"")
        kept = self._kept()
        # Another input is refused before documents are predicted in vain.
        checked = 0 if self._wanted.resume_changed else max(self._digests, default=0)
        held: list[tuple[Document, _Passed]] = []
        held_chars = 0
        for document in documents:
            row = next(kept, None)
            passed = self._pass(passed, document, row)
            if row is None or (row.failed and self._is_retried(passed)):
                held.append((document, passed))
                held_chars += len(document.text)
            elif passed.documents > self._first:
                self._passed_over.update(rows=1, failed=int(row.failed))
            if held_chars > HELD_CHARS or passed.documents >= checked:
                yield from self._give(held)
                held_chars = 0
        if next(kept, None) is not None:
            how = f"it ends after {passed.documents} documents, but there are more rows"
            raise changed_input(self.name, how)
        yield from self._give(held)
        self._exhausted = passed

    def _give(self, held: list[tuple[Document, _Passed]]) -> Iterator[Document]:
        """Yield the documents that are held back, and hold them no longer."""
        for document, passed in held:
            self._given.append((document.id, passed))
            yield document
        held.clear()

    def write(self, prediction: Prediction) -> None:
        """Append the row of the oldest document that `remaining` gave and that has no row yet.

        Raises:
            OutputError: the row could not be written; the rows before it are whole.
            ValueError: the prediction is of another document.
        """
        if not self._given or self._given[0][0] != prediction.id:
            raise ValueError(f"the row of {prediction.id!r} is not the next one")
        _, passed = self._given.popleft()
        line = prediction_to_json(prediction).encode()
        try:
            self._begin()
            self._carry(passed.documents - 1)
            self._append(line, failed=prediction.status == "error")
            self._skip_carried()
            self._passed = passed
            self._save_in_time()
        except OSError as exc:
            raise output_failure(self.name, exc) from exc

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self.finished:
                return
            if kind is None and self._exhausted is not None and not self._given:
                self._finish(self._exhausted)
            else:
                self._keep()
        except OSError as failed:
            self._keep()
            raise output_failure(self.name, failed) from failed
        finally:
            self._close()
            self._lock.release()

    # Passing over the documents whose rows are there.

    def _kept(self) -> Iterator[Row]:
        """The rows that are there: those in the file being written, then those to be carried."""
        if self._first:
            yield from islice(read_rows(self._writing), self._first)
        if self._source is not None:
            yield from islice(read_rows(self._source), self._first, None)

    def _pass(self, passed: _Passed, document: Document, row: Row | None) -> _Passed:
        """Check that a document is that of its row, if it has one."""
        place = passed.documents + 1
        if row is not None and row.id != document.id:
            how = f"row {place} is of {row.id!r}, document {place} is {document.id!r}"
            raise changed_input(self.name, how)
        digest = extend_digest(passed.digest, document)
        if self._digests.get(place, digest) != digest:
            if not self._wanted.resume_changed:
                raise changed_text(self.name, place)
            logger.warning(
                "%s: a text or selection among the first %d has changed", self.name, place
            )
        return _Passed(place, digest)

    def _is_retried(self, passed: _Passed) -> bool:
        return self._retries and self._source is not None and passed.documents > self._first

    # Writing.

    def _begin(self) -> None:
        """Say what the file is of, then make it: rows that nothing tells of are not ours."""
        if self._raw is not None:
            return
        for path in (self._paths.retry, self._paths.partial):
            if path != self._source and not (path == self._writing and self._first):
                path.unlink(missing_ok=True)
        write_state(self._paths.state, self._state)
        self._raw = self._writing.open("r+b" if self._first else "xb", buffering=0)
        self._raw.seek(self._bytes)
        self._saved_at = time.monotonic()

    def _append(self, line: bytes, *, failed: bool) -> None:
        assert self._raw is not None
        row = memoryview(line + b"\n")
        try:
            done = 0
            while done < len(row):
                done += self._raw.write(row[done:]) or 0
        except OSError:
            with suppress(OSError):
                self._raw.truncate(self._bytes)
            raise
        self._bytes += len(row)
        self.rows += 1
        self.failed += failed

    def _carry(self, place: int) -> None:
        """Copy the earlier rows up to `place` that are not predicted again."""
        if self._copies is None:
            rows = iter(()) if self._source is None else read_rows(self._source)
            self._copies = islice(rows, self.rows, None)
        for row in islice(self._copies, place - self.rows):
            self._append(row.line, failed=row.failed)
            self._copied.update(rows=1, failed=int(row.failed))
        if self.rows < place:
            raise OutputError(f"{self._source}: has fewer rows than before: run again")

    def _skip_carried(self) -> None:
        """Pass over the earlier row that the latest one replaces."""
        assert self._copies is not None
        next(self._copies, None)

    def _save_in_time(self) -> None:
        elapsed = time.monotonic() - self._saved_at
        many = self.rows - self._state.checkpoint.rows >= CHECKPOINT_ROWS
        if elapsed >= (SECONDS_BETWEEN if many else CHECKPOINT_SECONDS):
            self._save()

    def _save(self, *, finished: bool = False) -> None:
        """Bring the rows to the disk, then the checkpoint."""
        assert self._raw is not None
        os.fsync(self._raw.fileno())
        digest = self._passed.digest.hex()
        checkpoint = Checkpoint(self.rows, self._bytes, self.failed, digest)
        state = replace(self._state, checkpoint=checkpoint, finished=finished)
        write_state(self._paths.state, state)
        self._state = state
        self._saved_at = time.monotonic()

    # Leaving.

    def _finish(self, passed: _Passed) -> None:
        self._begin()
        self._carry(passed.documents)
        self._passed = passed
        # Said before the file has its name: the next run takes the last step if this one cannot.
        self._save(finished=True)
        self._close()
        publish(self._writing, self._paths.final)
        self._paths.discard_carried(self._state)
        self.finished = True

    def _keep(self) -> None:
        """Leave the rows to the next run."""
        if self._raw is not None and self.rows == self._passed.documents:
            with suppress(OSError):  # Without it the next run reads the rows to count them.
                self._save()
        if self.rows:
            logger.warning(
                "%d finished rows are kept in %s: the same command%s goes on after them",
                self.rows,
                self._writing,
                " without --restart" if self._wanted.restart else "",
            )

    def _close(self) -> None:
        if self._raw is not None:
            self._raw.close()
            self._raw = None
