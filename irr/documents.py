"""Documents and gold in, predictions out, one row at a time.

What comes in is a file, a folder or standard input, never held whole in memory; what goes out is
one JSON line for each document. Formats: `read_documents`, `prediction_to_json`.
"""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TextIO

from irr.errors import ConfigurationError, DocumentError, OutputError
from irr.files import TextFile, split_cell
from irr.types import Document, Prediction, ScoredLabel

__all__ = [
    "LineWriter",
    "PredictionWriter",
    "documents_from_texts",
    "prediction_to_json",
    "read_documents",
    "read_gold",
    "write_predictions",
]

logger = logging.getLogger(__name__)

_Read = Iterator[tuple[TextFile, int | None, Document]]
"""Documents, each with its file and the line on which it begins, for errors."""
_Lines = Iterator[tuple[int, str]]

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_LINE_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def read_documents(source: str | Path, *, text_column: str | None = None) -> Iterator[Document]:
    """Streams documents; UTF-8, files also packed (.gz).

    - .jsonl: ``{"id": …, "text": …, "labels": [names or ids]}`` a line, blank lines skipped.
    - .csv, .tsv: a header, then a document a row; columns id, text, labels (separated by "|").
    - .txt: the whole file is one document, its id the name without the ending.
    - a folder: its .txt files, those in folders below too, hidden ones not; sorted by id, which
      is the path inside the folder without the ending.
    - "-": standard input, as .jsonl where the first character that is not white space is "{",
      else a document a line.

    Without an id (a number will do) the document is numbered: the first row is "1". Labels may be
    missing or null (`gold` is None) and lose exact duplicates. Texts are kept as they are, and may
    be blank: such a document comes out like any other, so that predict can answer its row.

    Args:
        source: file, folder or "-".
        text_column: the key or column of the text, where it is not "text".

    Raises:
        DocumentError: at once for a missing file or unknown format; while streaming for a row
            that cannot be read or an id that came before; names the file and the line.
        ConfigurationError: `text_column` for plain text.
    """
    return _documents(_unique(_read(source, text_column)))


def read_gold(source: str | Path, *, text_column: str | None = None) -> Iterator[Document]:
    """As `read_documents`, but every document must have labels, if only an empty list.

    Raises:
        DocumentError: also for a document without labels and for a source without documents.
    """
    return _documents(_with_gold(source, _unique(_read(source, text_column))))


def documents_from_texts(texts: Iterable[str]) -> Iterator[Document]:
    """Numbers texts from the command line: "1", "2", …

    Raises:
        DocumentError: a text is not valid UTF-8.
    """
    for number, text in enumerate(texts, start=1):
        if _HALF_CHARACTER.search(text):
            raise DocumentError(f"text {number} is not valid UTF-8", path="<command line>")
        yield Document(str(number), text)


def prediction_to_json(prediction: Prediction) -> str:
    """One line of JSON, without the line break, in characters every line splitter agrees on.

    Keys: id, status, labels, guesses, usage, and where there is something to say notes, error
    (status "error" only) and trace, whose values must be JSON's. Scores have four decimals. Half
    a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD.
    """
    row: dict[str, object] = {
        "id": prediction.id,
        "status": prediction.status,
        "labels": [_label_row(label) for label in prediction.labels],
        "guesses": prediction.guesses,
        "usage": asdict(prediction.usage),
    }
    if prediction.notes:
        row["notes"] = prediction.notes
    if prediction.status == "error" and prediction.error is not None:
        row["error"] = dict(zip(("class", "message"), prediction.error, strict=True))
    if prediction.trace is not None:
        row["trace"] = prediction.trace
    line = json.dumps(row, ensure_ascii=False, allow_nan=False)
    if line.isascii():
        return line
    return _HALF_CHARACTER.sub("\ufffd", line.translate(_LINE_BREAKS))


def write_predictions(predictions: Iterable[Prediction], target: str | Path) -> int:
    """Writes predictions as they come (see `LineWriter`); returns how many."""
    with PredictionWriter(target) as writer:
        for prediction in predictions:
            writer.write(prediction)
    return writer.rows


class LineWriter:
    """Writes lines of UTF-8 to a file, or for "-" to standard output, each at once.

    A context manager. A file is written as ``<path>.partial`` and takes its name when all went
    well; after an error or interrupt its finished lines stay there, and a warning says so. A name
    ending in .gz is packed. Devices and pipes are written directly.

    Raises:
        OutputError: when the target cannot be opened or written; its cause is the OSError,
            a BrokenPipeError where the reader of a pipe has gone.
    """

    def __init__(self, target: str | Path) -> None:
        self.name = "<stdout>" if str(target) == "-" else str(target)
        self.rows = 0
        self.partial: Path | None = None
        self._target = target
        self._packed = self.name.lower().endswith(".gz")
        self._raw: BinaryIO | None = None
        self._whole = 0

    def __enter__(self) -> Self:
        try:
            self._text = self._stdout() if str(self._target) == "-" else self._open_file()
        except OSError as exc:
            raise self._failure(exc) from exc
        return self

    def write_line(self, line: str) -> None:
        """Writes `line`, which must hold no line break, and a line break."""
        try:
            self._text.write(line + "\n")
            if not self._packed:  # Each flush would start a new block and undo the packing.
                self._text.flush()
                self._whole = self._raw.tell() if self.partial and self._raw else 0
        except OSError as exc:
            raise self._failure(exc) from exc
        self.rows += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._raw is None:
            return
        closed = False
        try:
            self._close(self._raw)
            closed = True
            if kind is None and self.partial:
                self.partial.replace(self._final)
                return
        except OSError as failed:
            if kind is None:
                self._keep_partial(closed)
                raise self._failure(failed) from failed
        self._keep_partial(closed)

    @staticmethod
    def _stdout() -> TextIO:
        # Output is UTF-8 with "\n" whatever the locale; a StringIO put in its place needs nothing.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        return sys.stdout

    def _open_file(self) -> TextIO:
        path = Path(self._target)
        if path.exists() and not path.is_file() and not path.is_dir():
            raw = path.open("wb")
        else:
            # Through a link, so that its target is replaced and not the link.
            self._final = Path(os.path.realpath(path))
            if self._final.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder; give a file")
            partial = self._final.with_name(self._final.name + ".partial")
            _set_aside(partial)
            raw = partial.open("xb")
            self.partial = partial
        self._raw = raw
        stream = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if self._packed else raw
        return io.TextIOWrapper(stream, encoding="utf-8", newline="\n")

    def _close(self, raw: BinaryIO) -> None:
        try:
            if self._packed:
                self._text.close()  # Ends the gzip stream; `raw` stays open.
            else:
                self._text.flush()
            if self.partial:
                raw.flush()
                os.fsync(raw.fileno())
        finally:
            raw.close()

    def _keep_partial(self, closed: bool) -> None:
        if self.partial is None:
            return
        with suppress(OSError):
            if not self.rows:
                self.partial.unlink()
                return
            if not self._packed:  # A full disk may have cut the last line.
                os.truncate(self.partial, self._whole)
        # What gzip still held when the disk refused it cannot be counted.
        about = "up to " if self._packed and not closed else ""
        logger.warning("%s%d finished rows are kept in %s", about, self.rows, self.partial)

    def _failure(self, exc: OSError) -> OutputError:
        if self.name == "<stdout>":
            # What is left in the buffer must not fail again when the interpreter ends.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(exc, BrokenPipeError):
            return OutputError(f"{self.name}: its reader has gone")
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            return OutputError(f"{self.name}: the disk is full: free some space and run again")
        if exc.errno == errno.ENOENT:
            return OutputError(f"{self.name}: its folder does not exist: create it first")
        return OutputError(f"{self.name}: cannot be written: {exc.strerror or exc}")


class PredictionWriter(LineWriter):
    """A `LineWriter` of predictions."""

    def write(self, prediction: Prediction) -> None:
        """Writes one row (see `prediction_to_json`)."""
        self.write_line(prediction_to_json(prediction))


def _label_row(label: ScoredLabel) -> dict[str, object]:
    row: dict[str, object] = {
        "id": label.id,
        "label": label.label,
        "score": round(float(label.score), 4) + 0.0,  # + 0.0 turns -0.0 into 0.0.
        "evidence": label.evidence,
    }
    if label.picked is not None:
        row["picked"] = label.picked
    return row


def _read(source: str | Path, text_column: str | None) -> _Read:
    if str(source) != "-" and _is_folder(Path(source)):
        _refuse_column(source, text_column)
        return _read_folder(Path(source))
    file = TextFile(source, DocumentError)
    if file.is_stdin:
        return _read_stdin(file, text_column)
    if file.ending == ".jsonl":
        return _read_json(file, file.pieces(), text_column or "text")
    if file.ending in (".csv", ".tsv"):
        return _read_table(file, "," if file.ending == ".csv" else "\t", text_column or "text")
    if file.ending == ".txt":
        _refuse_column(source, text_column)
        return _read_text(file, _stem(Path(source).name))
    raise file.failure(
        "cannot tell its format by its name: it must end in .jsonl, .csv, .tsv or .txt"
    )


def _refuse_column(source: str | Path, text_column: str | None) -> None:
    if text_column is not None:
        raise ConfigurationError(
            f"{source}: plain text has no column {text_column!r}: leave the text column out"
        )


def _read_folder(folder: Path) -> _Read:
    inside = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    shown = [
        (_stem(name.as_posix()), path)
        for name, path in inside.items()
        if name.name.lower().endswith((".txt", ".txt.gz"))
        and not any(part.startswith(".") for part in name.parts)
    ]
    if not shown:
        raise DocumentError("holds no .txt file: give a folder that does, or a file", path=folder)
    for id_, path in sorted(shown):
        yield from _read_text(TextFile(path, DocumentError), id_)


def _is_folder(path: Path) -> bool:
    with suppress(OSError):  # A name too long or not to be looked at: `TextFile` tells.
        return path.is_dir()
    return False


def _stem(name: str) -> str:
    return re.sub(r"\.txt(\.gz)?$", "", name, flags=re.IGNORECASE)


def _read_text(file: TextFile, id_: str) -> _Read:
    text = "".join(piece for _, piece in file.pieces())
    if _HALF_CHARACTER.search(id_):
        raise file.failure("its name is not valid UTF-8: rename it")
    yield file, None, Document(id_, text)


def _read_stdin(file: TextFile, text_column: str | None) -> _Read:
    lines = file.lines()
    blank: list[tuple[int, str]] = []
    for line in lines:
        blank.append(line)
        if line[1].strip():
            break
    start = itertools.chain(blank, lines)
    if text_column is not None or (blank and blank[-1][1].lstrip().startswith("{")):
        yield from _read_json(file, start, text_column or "text")
    else:
        for number, text in start:
            yield file, number, Document(str(number), text)


def _read_json(file: TextFile, lines: _Lines, text_key: str) -> _Read:
    for number, (line, value) in enumerate(file.json_values(lines), start=1):
        if not isinstance(value, dict):
            raise file.failure(
                f'expected {{"id": …, "{text_key}": …}}, found {file.kind(value)}', line
            )
        if value.get(text_key) is None:
            found = ", ".join(map(repr, value)) or "nothing"
            raise file.failure(f'no "{text_key}": add it; found: {found}', line)
        id_, labels = value.get("id"), value.get("labels")
        yield (
            file,
            line,
            Document(
                str(number) if id_ is None else file.identifier(id_, '"id"', line),
                file.string(value[text_key], f'"{text_key}"', line),
                None
                if labels is None
                else tuple(dict.fromkeys(file.identifiers(labels, '"labels"', line))),
            ),
        )


def _read_table(file: TextFile, delimiter: str, text_column: str) -> _Read:
    header, rows = file.table(delimiter)
    id_, text, labels = (file.column(header, [name]) for name in ("id", text_column, "labels"))
    if text is None:
        raise file.missing_column(header, [text_column])
    for number, (line, row) in enumerate(rows, start=1):
        yield (
            file,
            line,
            Document(
                str(number) if id_ is None else file.identifier(row[id_], "the id", line),
                row[text],
                None if labels is None else tuple(dict.fromkeys(split_cell(row[labels]))),
            ),
        )


def _unique(read: _Read) -> _Read:
    # A stream cannot look back to tell a repeated id from a collision of hashes: 128 bits make
    # the latter unthinkable, at some 100 bytes of memory a document however long the ids are.
    seen: set[bytes] = set()
    for file, line, document in read:
        digest = blake2b(document.id.encode(), digest_size=16).digest()
        if digest in seen:
            raise file.failure(
                f"the id {document.id!r} came before: ids must be unique; rename one", line
            )
        seen.add(digest)
        yield file, line, document


def _with_gold(source: str | Path, read: _Read) -> _Read:
    empty = True
    for file, line, document in read:
        empty = False
        if document.gold is None:
            raise file.failure('has no "labels": add them, [] for a document with none', line)
        yield file, line, document
    if empty:
        raise DocumentError("holds no documents: add some with labels", path=source)


def _documents(read: _Read) -> Iterator[Document]:
    return (document for _, _, document in read)


def _set_aside(partial: Path) -> None:
    """Renames what an interrupted run left, so that a new run cannot overwrite finished rows."""
    if not partial.exists():
        return
    names = (partial.with_name(f"{partial.name}.{n}") for n in itertools.count(1))
    older = next(name for name in names if not name.exists())
    partial.rename(older)
    logger.warning("rows of an interrupted run are kept in %s", older)
