"""`Seen`: which ids came before, however many, in little memory.

In: ids, one at a time. Out: whether each came before. They are kept in a private temporary
database on the disk, of which half a megabyte is in memory.
"""

from __future__ import annotations

import sqlite3
from enum import Enum
from hashlib import blake2b

from irr.errors import OutputError

__all__ = ["Before", "Seen", "temporary_database", "temporary_failure"]

_CACHE_KB = 512
_DIGITS = 20
_SCHEMA = "CREATE TABLE seen (digest BLOB PRIMARY KEY, numbered INTEGER NOT NULL) WITHOUT ROWID"


class Before(Enum):
    """Who had an id before: no row, one with an id of its own, or one whose number was its id."""

    NEVER = "never"
    NAMED = "named"
    NUMBERED = "numbered"


class Seen:
    """The ids of a stream, as digests of 128 bits, which make collisions unthinkable.

    Threads may take turns. As long as all rows are numbered, one after the other, only their
    number is kept.
    """

    def __init__(self) -> None:
        self._numbers = 0
        self._db: sqlite3.Connection | None = None

    def add(self, id_: str, *, numbered: bool) -> Before:
        """Note an id; `numbered` says that it is the number of its row, 1 for the first.

        Raises:
            OutputError: the folder of temporary files is full or cannot be written.
        """
        if numbered and self._db is None and int(id_) == self._numbers + 1:
            self._numbers += 1
            return Before.NEVER
        if self._numbers and _is_number(id_) and int(id_) <= self._numbers:
            return Before.NUMBERED
        try:
            return self._add(blake2b(id_.encode(), digest_size=16).digest(), numbered)
        except sqlite3.Error as exc:
            raise temporary_failure(exc) from exc

    def close(self) -> None:
        """Let the database go."""
        if self._db is not None:
            self._db.close()

    def _add(self, digest: bytes, numbered: bool) -> Before:
        if self._db is None:
            self._db = temporary_database(_SCHEMA)
        new = self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (digest, numbered))
        if new.rowcount:
            return Before.NEVER
        query = "SELECT numbered FROM seen WHERE digest = ?"
        (was_numbered,) = self._db.execute(query, (digest,)).fetchone()
        return Before.NUMBERED if was_numbered else Before.NAMED


def temporary_database(schema: str) -> sqlite3.Connection:
    """Make a private database on the disk; gone when it is closed or the process ends.

    Threads may take turns. It is in one transaction, which nobody needs to commit.

    Raises:
        sqlite3.Error: see `temporary_failure`.
    """
    # An empty name: SQLite makes a file that it removes at once, so that a kill leaves nothing.
    db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
    db.execute(f"PRAGMA cache_size=-{_CACHE_KB}")
    for setting in ("temp_store=FILE", "journal_mode=OFF", "synchronous=OFF"):
        db.execute(f"PRAGMA {setting}")
    db.execute(schema)
    db.execute("BEGIN")
    return db


def temporary_failure(exc: sqlite3.Error) -> OutputError:
    """Make the error to raise where a temporary database cannot be written."""
    return OutputError(
        f"cannot write to the folder of temporary files: {exc}; free some space there, or name "
        "another folder with the environment variable SQLITE_TMPDIR"
    )


def _is_number(id_: str) -> bool:
    """Whether a row's number could be written so: "7", not "07"."""
    return id_.isascii() and id_.isdecimal() and id_[0] != "0" and len(id_) < _DIGITS
