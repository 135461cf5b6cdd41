"""Rows that were written before: read again, and cut where a kill or power cut broke them.

In: a file of predictions, as JSON lines, packed (.gz) or Parquet. Out: its rows, one at a time;
whether it still has all.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from irr.errors import OutputError
from irr.files import TextFile
from irr.journal.state import NO_ROWS, Checkpoint

__all__ = ["Row", "heal", "is_whole", "prediction_values", "read_rows", "size_of"]

# How every line of `prediction_to_json` begins; the rest of a long row need not be parsed.
_START = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*"), "status": "(ok|error)"')


class Row(NamedTuple):
    """A line without its line break, and what it says of its document."""

    line: bytes
    id: str
    failed: bool


def read_rows(path: Path) -> Iterator[Row]:
    """Stream the rows of a file of predictions.

    Raises:
        OutputError: the file cannot be read, or holds something else.
    """
    number = 0
    try:
        for line in _lines(path):
            number += 1
            yield _row(line)
    except (OSError, EOFError, zlib.error) as exc:
        what = getattr(exc, "strerror", None) or exc
        raise OutputError(f"{path}: cannot be read after {number} rows: {what}") from exc
    except ValueError as exc:
        raise OutputError(
            f"{path}: row {number} is not a prediction: it was not made by irr predict, or has "
            "been changed; --restart begins anew"
        ) from exc


def prediction_values(file: TextFile) -> Iterator[tuple[int, object]]:
    """Stream the rows of a file of predictions of any origin: JSON lines, also .gz, or Parquet.

    Yields:
        (line, JSON value); of a Parquet file the number of the row.

    Raises:
        InputError: of the file's class: it cannot be read; names the line.
        ConfigurationError: it is Parquet, and pyarrow is not there.
    """
    if file.ending != ".parquet":
        yield from file.json_values()
        return
    from irr.parquet import read_predictions, require_pyarrow

    require_pyarrow(file.name)
    number = 0
    try:
        for number, line in enumerate(read_predictions(Path(file.name)), start=1):
            yield number, json.loads(line)
    except (OSError, ValueError) as exc:  # Errors of Arrow are one of them.
        raise file.failure(
            f"cannot be read as Parquet predictions: {' '.join(str(exc).split())}: give a file "
            "that irr predict wrote",
            number + 1 if number else None,
        ) from exc


def heal(path: Path, checkpoint: Checkpoint) -> Checkpoint | None:
    """Cut the JSON lines at `path` after the last whole row.

    Rows up to the checkpoint are on the disk since it was made, and are not read again; where the
    file is shorter, all are.

    Returns:
        The rows that are there, with the digest of `checkpoint` where they begin with its rows,
        else with none. None where there is no file.
    """
    size = size_of(path)
    if size is None:
        return None
    with path.open("r+b") as stream:
        start = checkpoint
        if checkpoint.bytes:
            stream.seek(checkpoint.bytes - 1)
            if stream.read(1) != b"\n":
                start = NO_ROWS
                stream.seek(0)
        rows, whole, failed = start.rows, start.bytes, start.failed
        for line in stream:
            if not line.endswith(b"\n") or (row_failed := _is_failed(line)) is None:
                break
            rows, whole, failed = rows + 1, whole + len(line), failed + row_failed
        stream.truncate(whole)
    return Checkpoint(rows, whole, failed, start.input_digest)


def is_whole(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether a finished file has the length that its checkpoint says; its rows are not read.

    Raises:
        OSError: it cannot be read.
    """
    ending = path.suffix.lower()
    if ending == ".parquet":
        return _parquet_rows(path) == checkpoint.rows
    if ending == ".gz":
        # The last four bytes are the size of what was packed: RFC 1952, 2.3.1.
        with path.open("rb") as packed:
            packed.seek(max(0, packed.seek(0, os.SEEK_END) - 4))
            return int.from_bytes(packed.read(), "little") == checkpoint.bytes % 2**32
    return size_of(path) == checkpoint.bytes


def size_of(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _parquet_rows(path: Path) -> int | None:
    """How many rows a Parquet file says it has; None where it is none."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        return int(pq.read_metadata(str(path)).num_rows)
    except pa.ArrowException:
        return None


def _lines(path: Path) -> Iterator[bytes]:
    if path.suffix.lower() == ".parquet":
        from irr.parquet import read_predictions

        yield from (line.encode() for line in read_predictions(path))
        return
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
        for line in stream:
            yield line.rstrip(b"\n")


def _row(line: bytes) -> Row:
    if start := _START.match(line):
        return Row(line, json.loads(start[1]), start[2] == b"error")
    failed = _is_failed(line)
    if failed is None:
        raise ValueError
    return Row(line, json.loads(line)["id"], failed)


def _is_failed(line: bytes) -> bool | None:
    """Whether a row has status "error"; None where it is no row."""
    try:
        match json.loads(line):
            case {"id": str(), "status": "ok" | "error" as status}:
                return bool(status == "error")
    except (ValueError, RecursionError):
        pass
    return None
