"""Files of bytes, plain or gzip, for parsers and writers; packages that not everybody has."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from irr.errors import ConfigurationError, OutputError
from irr.files import TextFile
from irr.vocabularies.problems import Problems

__all__ = ["create_binary", "import_extra", "open_binary", "table_into", "text_into"]

_FLUSHED = 1 << 20
_BOM = b"\xef\xbb\xbf"


@contextmanager
def open_binary(file: TextFile, problems: Problems) -> Iterator[BinaryIO]:
    """Open a file for reading, unpacked and without a byte order mark.

    Raises:
        InputError: of the class of `file`: the system refuses to read it.
    """
    try:
        with file.open_bytes() as raw, _Stream(raw) as stream:
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        problems.error(f"broken gzip ({error}): copy or pack the file again")
    except OSError as error:
        raise file.failure(f"cannot be read: {error.strerror or error}") from error


@contextmanager
def create_binary(path: Path) -> Iterator[BinaryIO]:
    """Write a file, packed where its name ends in .gz, which gets its name when it is whole.

    Raises:
        OutputError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    packed = path.suffix.lower() == ".gz"
    try:
        try:
            with partial.open("wb", buffering=_FLUSHED) as raw:
                if packed:
                    # No name and time in it: equal vocabularies make equal files.
                    with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream:
                        yield stream  # type: ignore[misc]  # a GzipFile reads and writes bytes
                else:
                    yield raw
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def text_into(stream: BinaryIO) -> Iterator[io.TextIOWrapper]:
    """Write text into a binary stream, with line ends as they are given."""
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    yield text
    text.flush()
    text.detach()


def table_into(text: io.TextIOBase) -> Callable[[Sequence[str]], object]:
    """Make a function that writes a row of a csv file, quoting cells that need it."""
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(row: Sequence[str]) -> None:
        # The module quotes a carriage return only where it ends lines.
        (quoted if any("\r" in cell for cell in row) else plain).writerow(row)

    return write


def import_extra(module: str, what: str, extra: str = "formats") -> Any:
    """Import a module of an optional package.

    Raises:
        ConfigurationError: it is not installed; names the extra that has it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f'{what} needs a package: pip install "irr[{extra}]"'
        raise ConfigurationError(message) from error


class _Stream(io.BufferedReader):
    """A binary stream that begins after the byte order mark, also when it is rewound."""

    def __init__(self, raw: Any) -> None:
        super().__init__(raw)
        self._skip()

    def seek(self, target: int, whence: int = 0, /) -> int:
        place = super().seek(target, whence)
        return self._skip() if place == 0 else place

    def _skip(self) -> int:
        return len(self.read(len(_BOM))) if self.peek(len(_BOM))[: len(_BOM)] == _BOM else 0
