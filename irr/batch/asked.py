"""`Asked`: which requests of a run were written, and what became of them.

In: keys as they are written, and as they are answered. Out: whose an answer is, and which requests
were refused. One SQLite file beside the kept replies: an answer alone does not tell whether it is
of this run, nor which LM it is to be counted for. Neither texts nor addresses are in it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from irr.errors import ConfigurationError, OutputError

__all__ = ["Asked", "Refusal", "Written", "requests_of"]

_VERSION = 1
_SCHEMA = (
    "CREATE TABLE lms (role TEXT PRIMARY KEY, model TEXT NOT NULL, name TEXT NOT NULL)",
    "CREATE TABLE files (path TEXT PRIMARY KEY)",
    """CREATE TABLE requests (
        key TEXT PRIMARY KEY, role TEXT NOT NULL, round INTEGER NOT NULL, plain INTEGER NOT NULL,
        answered INTEGER NOT NULL DEFAULT 0, status INTEGER, said BLOB
    ) WITHOUT ROWID""",
)


class Refusal(NamedTuple):
    """An error that came instead of a reply: HTTP status and body. `status` 0: none came."""

    status: int
    said: bytes


class Written(NamedTuple):
    """A request that was written.

    Args:
        role: of its LM in the ledger.
        round: the latest in which it was written, counted from 1.
        plain: whether without a JSON schema, which the server had refused.
        answered: whether an answer or an error to it was read since.
        refusal: that error.
    """

    role: str
    round: int
    plain: bool
    answered: bool
    refusal: Refusal | None


class LMOfRole(NamedTuple):
    """The model of a role, and the name under which its price is listed."""

    model: str
    name: str


def requests_of(output: Path | str) -> Path:
    """Where the requests of a run into `output` are noted, until all have their replies."""
    # Beside the file that a link leads to, as are the rows and the replies.
    target = os.path.realpath(output) if Path(output).is_symlink() else output
    return Path(f"{target}.requests")


class Asked:
    """The requests of one run; a context manager. What was not committed is lost on leaving it.

    Only one process may have it open: whoever does has the run's ledger open.

    Args:
        path: see `requests_of`.
        new: make the file where it is missing, and begin a round.

    Raises:
        ConfigurationError: it is missing.
        OutputError: it cannot be used.
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        self.path = path
        if not new and not path.exists():
            raise ConfigurationError(
                f"{path}: is not there: 'irr batch write' with the same --output comes first"
            )
        try:
            self._db = self._open()
        except sqlite3.Error as error:
            busy = "locked" in str(error)
            what = "another run is using it: wait for it" if busy else f"cannot be used: {error}"
            raise OutputError(f"{path}: {what}") from error
        (latest,) = self._execute("SELECT max(round) FROM requests").fetchone()
        self.round = (latest or 0) + new

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=1.0, isolation_level=None)
        db.execute("PRAGMA cache_size=-65536")  # KiB: keys are spread over the whole file
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            db.close()
            raise OutputError(f"{self.path}: requests of version {version}; move the file away")
        if not version:
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute(f"PRAGMA user_version={_VERSION}")
        return db

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._db.close()

    def find(self, key: str) -> Written | None:
        """The request of a key."""
        query = "SELECT role, round, plain, answered, status, said FROM requests WHERE key = ?"
        row = self._execute(query, key).fetchone()
        if row is None:
            return None
        role, round_, plain, answered, status, said = row
        refusal = None if status is None else Refusal(status, said)
        return Written(role, round_, bool(plain), bool(answered), refusal)

    def note(self, key: str, role: str, *, plain: bool) -> None:
        """A request was written in this round; what became of it before is forgotten."""
        query = "INSERT OR REPLACE INTO requests (key, role, round, plain) VALUES (?, ?, ?, ?)"
        self._execute(query, key, role, self.round, plain)

    def answer(self, key: str, refusal: Refusal | None = None) -> None:
        """A reply to a request was read, or an error."""
        status, said = refusal or (None, None)
        query = "UPDATE requests SET answered = 1, status = ?, said = ? WHERE key = ?"
        self._execute(query, status, said, key)

    def waiting(self) -> int:
        """How many requests of the latest round have neither reply nor error yet."""
        query = "SELECT count(*) FROM requests WHERE round = ? AND NOT answered"
        (count,) = self._execute(query, self.round).fetchone()
        return int(count)

    def lms(self) -> dict[str, LMOfRole]:
        """Who was asked, by role."""
        return {role: LMOfRole(*rest) for role, *rest in self._execute("SELECT * FROM lms")}

    def note_lms(self, lms: Mapping[str, LMOfRole]) -> None:
        """Say who is asked, by role."""
        for role, lm in lms.items():
            self._execute("INSERT OR REPLACE INTO lms VALUES (?, ?, ?)", role, *lm)

    def files(self) -> list[Path]:
        """The files that the latest round wrote, absolute; also those of one that broke off."""
        return [Path(path) for (path,) in self._execute("SELECT path FROM files")]

    def note_file(self, path: Path) -> None:
        """Say that this round is about to write a file; to be told before it is there."""
        self._execute("INSERT OR IGNORE INTO files VALUES (?)", str(path.absolute()))
        self.commit()

    def note_files(self, paths: Iterable[Path]) -> None:
        """Say which files there are at the end of this round."""
        self._execute("DELETE FROM files")
        for path in paths:
            self._execute("INSERT INTO files VALUES (?)", str(path.absolute()))

    def commit(self) -> None:
        """Bring everything so far to the disk."""
        self._execute("COMMIT")
        self._execute("BEGIN IMMEDIATE")

    def remove(self) -> None:
        """End the account: all requests have their replies."""
        self._db.close()
        for ending in ("", "-journal"):
            with suppress(OSError):
                Path(f"{self.path}{ending}").unlink(missing_ok=True)

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise OutputError(f"{self.path}: cannot be used: {error}") from error
