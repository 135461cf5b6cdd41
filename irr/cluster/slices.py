"""Slices: what a worker is given, and what it says when it is done.

In: the documents of a run, in order. Out: slices of them. Where a slice ends follows from the
documents alone, so that a run that is begun again cuts the same ones. Between processes slices
and what becomes of them pass as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Self

from irr.errors import IrrError
from irr.ledger import Counts
from irr.selection import Selection
from irr.types import Document

__all__ = ["CHARACTERS", "ROWS", "Done", "Failure", "Slice", "WorkerError", "cut"]

# A slice's first documents and its last keep a worker's LM requests below their number: with
# fewer documents that is felt, with more the end of the run waits for the last slice.
ROWS = 2_000
# What Ray holds of a slice in memory, a few for each worker.
CHARACTERS = 16_000_000


class WorkerError(IrrError):
    """What went wrong in another process."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception on its way between processes; `exit_status` is None where it is a bug."""

    message: str
    exit_status: int | None

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Describe what was raised."""
        if isinstance(error, IrrError):
            return cls(str(error), error.exit_status)
        if isinstance(error, OSError):
            return cls(f"cannot read or write: {error}", 4)
        return cls(f"{type(error).__name__}: {error}", None)

    def exception(self) -> Exception:
        """What to raise here."""
        if self.exit_status is None:
            return RuntimeError(self.message)
        return WorkerError(self.message, self.exit_status)


@dataclass(frozen=True, slots=True)
class Slice:
    """Documents that follow each other in the input.

    Args:
        number: how many slices come before.
        first: how many documents of the input come before.
        rows: how many documents it has.
        documents: those, or None where their rows are in the journal already.
        failure: why the input could not be read from here on; the slice has no documents then.
    """

    number: int
    first: int
    rows: int = 0
    documents: tuple[Document, ...] | None = None
    failure: Failure | None = None

    def to_json(self) -> bytes:
        """Write it; `gold` of the documents is left out."""
        documents = None if self.documents is None else list(map(_packed, self.documents))
        failure = None if self.failure is None else asdict(self.failure)
        row = (self.number, self.first, self.rows, documents, failure)
        return json.dumps(row, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Read what `to_json` wrote."""
        number, first, rows, packed, failure = json.loads(line)
        documents = None if packed is None else tuple(_unpacked(*row) for row in packed)
        return cls(number, first, rows, documents, None if failure is None else Failure(**failure))


def _packed(document: Document) -> tuple[object, ...]:
    chosen = document.selection
    if chosen is None:
        return document.id, document.text
    return document.id, document.text, chosen.include, chosen.exclude, chosen.trusted


def _unpacked(
    id_: str,
    text: str,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    trusted: bool | None = None,
) -> Document:
    if trusted is None:
        return Document(id_, text)
    chosen = Selection(tuple(include), tuple(exclude), trusted)
    return Document(id_, text, selection=chosen)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a slice.

    `finished` says whether all its rows are there; `totals` what its LM calls cost, by role, in
    all its lives.
    """

    number: int
    first: int
    rows: int
    finished: bool
    failure: Failure | None = None
    totals: dict[str, Counts] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """How many documents of the input come before the next slice."""
        return self.first + self.rows

    def to_json(self) -> bytes:
        """Write it."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Read what `to_json` wrote."""
        row = json.loads(line)
        failure = None if row["failure"] is None else Failure(**row["failure"])
        totals = {role: Counts(**counts) for role, counts in row["totals"].items()}
        return cls(**{**row, "failure": failure, "totals": totals})


def cut(
    documents: Iterable[Document], first: int, rows: int, characters: int = CHARACTERS
) -> Iterator[Slice]:
    """Cut documents into slices, leaving out the `first` ones.

    A slice ends with its document number `rows`, or with the one by which its texts have
    `characters`. An error in reading comes after the whole slices before it.
    """
    number, held, length = 0, list[Document](), 0
    for document in islice(documents, first, None):
        held.append(document)
        length += len(document.text)
        if len(held) == rows or length >= characters:
            yield Slice(number, first, len(held), tuple(held))
            number, first, held, length = number + 1, first + len(held), [], 0
    if held:
        yield Slice(number, first, len(held), tuple(held))
