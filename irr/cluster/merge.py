"""Parts → the journal of the run, in the order of the documents.

In: what workers say of their slices, in any order. Out: rows in the journal; a part is forgotten
when its rows are on the disk there.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from irr.cluster.parts import Parts, Plan
from irr.cluster.slices import Done
from irr.errors import OutputError
from irr.journal import Journal
from irr.journal.paths import Paths
from irr.journal.rows import Row, read_rows
from irr.journal.state import read_state
from irr.types import Document, Prediction, ScoredLabel, Usage

__all__ = ["Merging", "prediction_of"]


class Merging:
    """Takes finished parts, in any order, and merges them in theirs.

    Args:
        journal: the run's, open.
        documents: the input, from its beginning.
        parts: where the parts are.
        add: is shown every row that was written.

    Attributes:
        position: documents before the next one without a row; None where there is none.

    Raises:
        OutputError: the documents are not those that the journal's rows are of.
        InputError: they cannot be read.
    """

    def __init__(
        self,
        journal: Journal,
        documents: Iterable[Document],
        parts: Parts,
        add: Callable[[Prediction], None],
    ) -> None:
        self._journal = journal
        self._parts = parts
        self._add = add
        self._read = 0
        self._passed = 0  # documents before the next row of the part in hand
        self._remaining = journal.remaining(self._counted(documents))
        self._waiting: dict[int, Done] = {}
        self._unsettled: deque[Done] = deque()
        self._state = Paths(os.path.realpath(journal.name)).state
        self._advance()

    def begin(self, plan: Plan) -> None:
        """Say which part is the next; to be called before `take`."""
        self._plan = plan
        self._next = plan.merged

    def take(self, done: Done) -> None:
        """Take a finished part, and merge what is next by now."""
        if done.number < self._next:
            return  # Made twice, as where a machine was lost.
        self._waiting[done.number] = done
        while (part := self._waiting.pop(self._next, None)) is not None:
            self._merge(part)
            self._next += 1
            self._unsettled.append(part)
            self._settle()

    def _merge(self, part: Done) -> None:
        if part.failure is not None:
            raise part.failure.exception()
        if self.position is None or self.position >= part.end:
            return
        rows = self._rows(part)
        while self.position is not None and self.position < part.end:
            row = next(islice(rows, self.position - self._passed, None), None)
            if row is None or row.id != self._document.id:
                raise OutputError(
                    f"{self._parts.rows(part.number)}: its rows are not those of the documents "
                    f"from {part.first + 1:,} on: the input has changed since; begin anew with "
                    "--restart"
                )
            self._passed = self.position + 1
            prediction = prediction_of(row.line)
            self._journal.write(prediction)
            self._add(prediction)
            self._advance()

    def _rows(self, part: Done) -> Iterator[Row]:
        self._passed = part.first
        return read_rows(self._parts.rows(part.number))

    def _advance(self) -> None:
        document = next(self._remaining, None)
        self.position = None
        if document is not None:
            self._document, self.position = document, self._read - 1

    def _counted(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            self._read += 1
            yield document

    def _settle(self) -> None:
        """Forget the parts whose rows a power cut cannot take any more."""
        state = read_state(self._state)
        durable = 0 if state is None else state.checkpoint.rows
        while self._unsettled and self._unsettled[0].end <= durable:
            self._plan = self._parts.settle(self._plan, self._unsettled.popleft())


def prediction_of(line: bytes) -> Prediction:
    """Read a row that `irr.writer.prediction_to_json` wrote; it writes the same bytes again."""
    row = json.loads(line)
    error = row.get("error")
    return Prediction(
        id=row["id"],
        status=row["status"],
        labels=tuple(ScoredLabel(**label) for label in row["labels"]),
        guesses=tuple(row["guesses"]),
        usage=Usage(**row["usage"]),
        notes=tuple(row.get("notes", ())),
        error=None if error is None else (error["class"], error["message"]),
        trace=row.get("trace"),
    )
