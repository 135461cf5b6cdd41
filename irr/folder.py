"""`Folder`: the files of documents in a folder, in order, however many.

In: a folder. Out: its texts, or its files of rows. Their names are kept in a private temporary
database, so that a million files take no more memory than ten.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path

from irr.errors import DocumentError
from irr.files import ending_of, stem_of
from irr.seen import temporary_database, temporary_failure

__all__ = ["Folder"]

_SCHEMA = "CREATE TABLE files (is_text, key, name, PRIMARY KEY (is_text, key, name)) WITHOUT ROWID"


class Folder:
    """A folder that holds texts (.txt), or files of rows, also packed (.gz).

    Those in folders below count, too; hidden files and folders are left out, and links to folders
    are not followed. Other files are passed over.

    Args:
        path: the folder.
        row_endings: those of files of rows, in lower case, such as ".jsonl".

    Attributes:
        has_rows: whether it holds files of rows; else it holds texts.

    Raises:
        DocumentError: it holds neither texts nor files of rows, or both, or cannot be read.
        OutputError: the folder of temporary files is full.
    """

    def __init__(self, path: Path, row_endings: Collection[str]) -> None:
        self._path = path
        try:
            self._db = temporary_database(_SCHEMA)
            self._db.executemany("INSERT INTO files VALUES (?, ?, ?)", self._found(row_endings))
            first = [next(self._names(is_text), None) for is_text in (True, False)]
        except sqlite3.Error as exc:
            raise temporary_failure(exc) from exc
        text, rows = first
        if text and rows:
            raise DocumentError(
                f"holds texts ({text}) and files of rows ({rows}): give a folder of one kind, or "
                "a file",
                path=path,
            )
        if not text and not rows:
            raise DocumentError(
                f"holds no .txt file, and no {' or '.join(row_endings)}: give a folder that does, "
                "or a file",
                path=path,
            )
        self.has_rows = rows is not None

    def texts(self) -> Iterator[tuple[str, Path]]:
        """Yield (path inside the folder with "/" and without the ending, path), sorted."""
        for name in self._names(is_text=True):
            yield stem_of(name), self._path / name

    def files_of_rows(self) -> Iterator[Path]:
        """Yield the paths, sorted by the path inside the folder."""
        for name in self._names(is_text=False):
            yield self._path / name

    def _names(self, is_text: bool) -> Iterator[str]:
        query = "SELECT name FROM files WHERE is_text = ? ORDER BY key, name"
        for (name,) in self._db.execute(query, (is_text,)):
            yield os.fsdecode(name)

    def _found(self, row_endings: Collection[str]) -> Iterator[tuple[bool, bytes, bytes]]:
        for name in _shown(self._path, ""):
            ending = ending_of(name)
            if ending == ".txt":
                yield True, os.fsencode(stem_of(name)), os.fsencode(name)
            elif ending in row_endings:
                yield False, os.fsencode(name), os.fsencode(name)


def _shown(folder: Path, below: str) -> Iterator[str]:
    """Paths inside `folder` of the files in its folder `below`, "" or ending in "/"."""
    try:
        with os.scandir(folder / below) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from _shown(folder, f"{below}{entry.name}/")
                elif entry.is_file():
                    yield below + entry.name
    except OSError as exc:
        raise DocumentError(f"cannot be read: {exc.strerror}", path=folder / below) from exc
