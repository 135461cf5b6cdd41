"""Whether the documents are those that the rows of an earlier run are of.

In: documents, and what FILE.run.json says of those of the run. Out: an error that says how they
differ and what helps, or none.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from irr.errors import OutputError
from irr.journal.rows import read_rows
from irr.journal.state import Checkpoint, extend_digest
from irr.types import Document

__all__ = ["changed_input", "changed_text", "check_finished"]


def changed_input(name: str, how: str) -> OutputError:
    """The error where rows are of other documents than those at their places."""
    return OutputError(
        f"{name}: the input has changed since the run was begun: {how}; give the input it was "
        "begun with, or begin anew with --restart"
    )


def changed_text(name: str, documents: int) -> OutputError:
    """The error where the documents are the same, but for their texts or selections."""
    return OutputError(
        f"{name}: the input has changed since the run was begun: a text or selection among the "
        f"first {documents} is another one; give the input it was begun with, or --resume-changed "
        "keeps the rows and goes on, or begin anew with --restart"
    )


def check_finished(name: str, rows: Path, there: Checkpoint, documents: Iterable[Document]) -> None:
    """Check the documents of a finished run; its rows are read only to say what has changed.

    Args:
        name: FILE, as the user gave it.
        rows: FILE.
        there: its rows, and the digest of their documents.
        documents: are read to their end.

    Raises:
        OutputError: the documents are not those of the run.
    """
    digest = ids = b""
    place = 0
    for place, document in enumerate(documents, start=1):
        if place > there.rows:
            raise OutputError(
                f"{name}: the input has more documents than the {there.rows} that the finished run "
                "was of: --resume-changed keeps its rows and goes on"
            )
        digest = extend_digest(digest, document)
        ids = _extend_ids(ids, document.id)
        if place == there.rows and digest.hex() != there.input_digest:
            raise _difference(name, rows, ids, place)
    if place < there.rows:
        raise changed_input(name, f"it ends after {place} documents, but there are more rows")


def _difference(name: str, rows: Path, ids: bytes, documents: int) -> OutputError:
    earlier = b""
    for row in read_rows(rows):
        earlier = _extend_ids(earlier, row.id)
    if ids == earlier:
        return changed_text(name, documents)
    how = f"an id among the first {documents} is another one, or in another place"
    return changed_input(name, how)


def _extend_ids(digest: bytes, id_: str) -> bytes:
    return extend_digest(digest, Document(id_, ""))
