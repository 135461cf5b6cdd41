"""`TextFile`: what label sets and documents share in reading files.

In: UTF-8 text, plain or gzip. Out: numbered lines, JSON values or table rows, one at a time.
Whatever cannot be read is an `InputError` that names the file and the line.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from irr.errors import InputError, OutputError

__all__ = ["HALF_CHARACTER", "Row", "Table", "TextFile", "ending_of", "split_cell", "stem_of"]

Row = tuple[int, list[str]]
"""The 1-based line on which a table row begins, and its cells."""
Table = tuple[list[str], Iterator[Row]]
"""The names of the columns, and the rows below them."""
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: JSON and file names may smuggle it in, UTF-8 cannot hold it."""

_BOM = b"\xef\xbb\xbf"
_DESCRIPTOR = re.compile(r"/dev/stdin|/dev/fd/\d+|/proc/(self|\d+)/fd/\d+")
_LONGEST_CELL = 2**31 - 1
_CHUNK = 1 << 20
_MAGIC = {
    b"\x1f\x8b": "This looks like gzip: unpack it, or let the file's name end in .gz.",
    b"\xff\xfe": "This looks like UTF-16: save it as UTF-8.",
    b"\xfe\xff": "This looks like UTF-16: save it as UTF-8.",
    b"PK": "This looks like a spreadsheet or zip archive: export it as text.",
}
_JSON_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    type(None): "null",
}


class TextFile:
    """UTF-8 text with an optional BOM, plain or (name ends in .gz) gzip.

    Args:
        path: a file; "-" is standard input.
        error: the class of every error raised here.

    Raises:
        InputError: of class `error`; here for a missing file, a folder or a standard input that
            is closed, later, line by line, for bad encoding, NUL, broken gzip, malformed JSON and
            malformed tables.
    """

    def __init__(self, path: str | Path, error: type[InputError]) -> None:
        self.is_stdin = str(path) == "-"
        self.name = "<stdin>" if self.is_stdin else str(path)
        self._path = Path(path)
        self._error = error
        self._copy: IO[bytes] | None = None
        try:
            self._check_exists()
        except OSError as exc:
            raise self.failure(f"cannot be read: {exc.strerror or exc}") from exc

    @property
    def ending(self) -> str:
        """The name's ending in lower case, before any ".gz": ".csv" for "a.CSV.gz"."""
        return ending_of(self._path)

    @property
    def is_stream(self) -> bool:
        """Whether it is standard input, a pipe or a device, such as the shell's ``/dev/fd/63``."""
        return (
            self.is_stdin
            or _DESCRIPTOR.fullmatch(str(self._path)) is not None
            or self._path.is_fifo()
            or self._path.is_char_device()
        )

    def keep(self) -> None:
        """Copy a stream to a temporary file without a name, so that it can be read again.

        Files are left where they are. `close` frees the copy.

        Raises:
            OutputError: the folder of temporary files cannot hold it.
        """
        if self._copy is not None or not self.is_stream:
            return
        import tempfile  # Only here: it would add to every start.

        try:
            with ExitStack() as opened:
                copy = opened.enter_context(tempfile.TemporaryFile())
                for chunk in self._chunks():
                    copy.write(chunk)
                copy.flush()
                opened.pop_all()
        except OSError as exc:
            raise OutputError(
                f"{self.name}: cannot copy it to the folder of temporary files: "
                f"{exc.strerror or exc}; free some space there, or name another folder with the "
                "environment variable TMPDIR"
            ) from exc
        self._copy = copy

    def close(self) -> None:
        """Free what `keep` made; a stream cannot be read after that."""
        if self._copy:
            self._copy.close()

    @contextmanager
    def open_bytes(self) -> Iterator[BinaryIO]:
        """Open it for reading from its beginning, unpacked; a stream that was not kept, once."""
        with self._open_packed() as packed:
            if not self._packed:
                yield packed
                return
            with gzip.GzipFile(fileobj=packed) as stream:
                yield stream  # type: ignore[misc]  # a GzipFile reads and writes bytes

    def failure(self, message: str, line: int | None = None) -> InputError:
        """Make the error to raise about this file."""
        return self._error(message, path=self.name, line=line)

    def pieces(self) -> Iterator[tuple[int, str]]:
        """Yield (1-based number, line with its line ending); only "\\n" ends a line."""
        offset = 0
        for number, raw in self._raw_lines():
            skipped = len(_BOM) if number == 1 and raw.startswith(_BOM) else 0
            try:
                text = raw[skipped:].decode()
            except UnicodeDecodeError as exc:
                raise self._bad_byte(raw, exc.start + skipped, offset, number) from exc
            if "\0" in text:
                raise self.failure(
                    "holds a NUL character, as files in UTF-16 and binary files do: "
                    "save it as UTF-8 text",
                    number,
                )
            offset += len(raw)
            yield number, text

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield (1-based number, line without its "\\n" or "\\r\\n")."""
        for number, text in self.pieces():
            yield number, text.removesuffix("\n").removesuffix("\r")

    def json_values(
        self, lines: Iterable[tuple[int, str]] | None = None
    ) -> Iterator[tuple[int, object]]:
        """Yield (line, JSON value) for each line that is not blank."""
        for number, text in self.pieces() if lines is None else lines:
            if text and not text.isspace():
                yield number, self._parse(text, number)

    def table(self, delimiter: str) -> Table:
        """Return the header and the rows of a csv file; each row has as many cells as the header.

        A cell with delimiters, quotes or line breaks is quoted; a quote within is doubled. Blank
        lines are skipped.
        """
        rows = self._csv_rows(delimiter)
        _, header = next(rows, (0, []))
        if not header:
            raise self.failure("is empty: the first row must name the columns")
        return [cell.strip() for cell in header], self._even_rows(rows, len(header))

    def column(self, header: Sequence[str], names: Sequence[str]) -> int | None:
        """Find the place in `header` of the first of `names` it has, in any case, else None."""
        folded = [cell.casefold() for cell in header]
        for name in (name.casefold() for name in names):
            if folded.count(name) > 1:
                raise self.failure(f"has the column {name!r} twice: rename one of them", 1)
            if name in folded:
                return folded.index(name)
        return None

    def missing_column(self, header: Sequence[str], names: Sequence[str]) -> InputError:
        """Make the error that a table has none of the columns `names`."""
        found = ", ".join(repr(cell) for cell in header)
        message = f"has no column for the {names[0]}: name one {' or '.join(names)}; found: {found}"
        if len(header) == 1 and (other := next((c for c in ";\t," if c in header[0]), "")):
            message += f" (are its cells separated by {other!r}? .csv needs ',', .tsv needs tabs)"
        return self.failure(message, 1)

    def string(self, value: object, what: str, line: int | None) -> str:
        """Check that `value` is a string that can be written as UTF-8 and holds no NUL."""
        if not isinstance(value, str):
            raise self.failure(f"{what} must be a string, not {self.kind(value)}", line)
        if "\0" in value:
            raise self.failure(f"{what} holds a NUL character (\\u0000): remove it", line)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as exc:
                raise self.failure(
                    f"{what} holds half a character (\\u{ord(value[exc.start]):04x}): "
                    "write both surrogates or the character itself",
                    line,
                ) from exc
        return value

    def identifier(self, value: object, what: str, line: int | None) -> str:
        """Make a string that is not blank of a string or finite number: "7" of 7 and 7.0."""
        if isinstance(value, float):
            if not math.isfinite(value):
                raise self.failure(
                    f"{what} must be a string or finite number, not {json.dumps(value)}: "
                    "write it in quotes",
                    line,
                )
            return str(int(value)) if value.is_integer() else repr(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise self.failure(f"{what} must be a string or number, not {self.kind(value)}", line)
        if not self.string(value, what, line).strip():
            raise self.failure(f"{what} is empty: fill it in", line)
        return value

    def identifiers(self, value: object, what: str, line: int | None) -> tuple[str, ...]:
        """Read a JSON list of `identifier`s, without white space around them; null is none."""
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.failure(f"{what} must be a list of strings, not {self.kind(value)}", line)
        return tuple(self.identifier(item, f"an entry of {what}", line).strip() for item in value)

    @staticmethod
    def kind(value: object) -> str:
        """Say what JSON calls a value."""
        return _JSON_KINDS.get(type(value), "a number")

    @property
    def _packed(self) -> bool:
        return self._path.suffix.lower() == ".gz"

    def _check_exists(self) -> None:
        if self.is_stdin:
            # None after "<&-"; a stand-in, as in a notebook, may have no bytes to read.
            if not hasattr(sys.stdin, "buffer") or sys.stdin.closed:
                raise self.failure("is not open: pipe or redirect a file to it, or name one")
            return
        if self._path.is_dir():
            raise self.failure("is a folder: give a file")
        if self._path.exists():
            return
        folder = self._path.parent
        if not folder.is_dir():
            raise self.failure(f"does not exist, nor does its folder {folder}")
        import difflib  # Only here: it would double this module's import time.

        names = [entry.name for entry in folder.iterdir()]
        near = difflib.get_close_matches(self._path.name, names, n=3)
        hint = f": did you mean {' or '.join(near)}?" if near else ": check the path"
        raise self.failure(f"does not exist{hint}")

    @contextmanager
    def _open_packed(self) -> Iterator[BinaryIO]:
        if self._copy:
            with os.fdopen(os.dup(self._copy.fileno()), "rb") as stream:
                stream.seek(0)
                yield stream
        elif self.is_stdin:
            yield sys.stdin.buffer
        else:
            with self._path.open("rb") as stream:
                yield stream

    def _chunks(self) -> Iterator[bytes]:
        try:
            with self._open_packed() as stream:
                while chunk := stream.read(_CHUNK):
                    yield chunk
        except OSError as exc:
            raise self.failure(f"cannot be read: {exc.strerror or exc}") from exc

    def _raw_lines(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        try:
            with self.open_bytes() as stream:
                for number, raw in enumerate(stream, start=1):
                    yield number, raw
        except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
            message = f"broken gzip ({exc}): copy or pack the file again"
            raise self.failure(message, number + 1) from exc
        except OSError as exc:
            raise self.failure(f"cannot be read: {exc.strerror or exc}") from exc

    def _bad_byte(self, raw: bytes, place: int, offset: int, number: int) -> InputError:
        hints = [hint for magic, hint in _MAGIC.items() if number == 1 and raw.startswith(magic)]
        hint = hints[0] if hints else "Save the file as UTF-8."
        return self.failure(
            f"is not UTF-8: byte 0x{raw[place]:02x} at offset {offset + place}. {hint}", number
        )

    def _parse(self, text: str, number: int) -> object:
        try:
            value: object = json.loads(text)
        except json.JSONDecodeError as exc:
            message = f"malformed JSON: {exc.msg} at column {exc.colno}; "
            message += "each line must be one whole JSON value"
            raise self.failure(message, number) from exc
        except (ValueError, RecursionError) as exc:
            raise self.failure(f"JSON that cannot be read: {exc}", number) from exc
        return value

    def _csv_rows(self, delimiter: str) -> Iterator[Row]:
        # The limit of 131,072 characters is the whole process's; it guards nothing we need.
        csv.field_size_limit(_LONGEST_CELL)
        texts = (text for _, text in self.pieces())
        reader = csv.reader(texts, delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as exc:
                raise self.failure(_csv_complaint(exc), line) from exc
            if row:
                yield line, row

    def _even_rows(self, rows: Iterator[Row], width: int) -> Iterator[Row]:
        for line, row in rows:
            if len(row) != width:
                raise self.failure(
                    f"has {len(row)} cells where the header has {width}: quote cells that hold "
                    "the separator, and fill up short rows",
                    line,
                )
            yield line, row


def ending_of(path: str | Path) -> str:
    """A name's ending in lower case, before any ".gz".

    >>> ending_of("a.CSV.gz")
    '.csv'
    """
    path = Path(path)
    if path.suffix.lower() == ".gz":
        path = path.with_suffix("")
    return path.suffix.lower()


def stem_of(name: str) -> str:
    """A text's name without its ending.

    >>> stem_of("ad.v1.TXT.gz")
    'ad.v1'
    """
    return re.sub(r"\.txt(\.gz)?$", "", name, flags=re.IGNORECASE)


def split_cell(cell: str, separators: str = "|") -> tuple[str, ...]:
    """Split a cell at `separators` into its parts, stripped, without blank ones.

    >>> split_cell("use SQL | query, data|")
    ('use SQL', 'query, data')
    """
    for separator in separators[1:]:
        cell = cell.replace(separator, separators[0])
    return tuple(part for part in map(str.strip, cell.split(separators[0])) if part)


def _csv_complaint(exc: csv.Error) -> str:
    if "unexpected end" in str(exc):
        return "a quote opened in this row is never closed: close it, or double a literal quote"
    if "new-line character" in str(exc):
        return "holds a carriage return outside quotes: end lines with \\n or \\r\\n"
    return f"malformed row: {exc}; quote the cell and double the quotes within"
