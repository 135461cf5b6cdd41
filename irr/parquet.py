"""Parquet: documents in, predictions out and in again. pyarrow is imported only when used.

In: a .parquet file, or predictions as JSON lines. Out: rows in batches, never a whole file in
memory; a .parquet file of predictions, and from it the same JSON lines again.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from irr.errors import ConfigurationError
from irr.files import TextFile
from irr.writer import row_to_json

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

__all__ = ["Cells", "read_columns", "read_predictions", "require_pyarrow", "write_predictions"]

# Texts of a page each make a batch of about a megabyte.
_BATCH = 256
_BUFFER = 1 << 20


def require_pyarrow(name: str) -> None:
    """Check that pyarrow is there, without importing it.

    Raises:
        ConfigurationError: it is not; `name` is the file it is wanted for.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigurationError(f"{name}: Parquet needs pyarrow: pip install 'irr[parquet]'")


class Cells(NamedTuple):
    """A document's row, 1-based `number`; None where a cell is null or its column not there."""

    number: int
    id: object
    text: object
    labels: object
    include: object
    exclude: object


def read_columns(file: TextFile, text_column: str) -> Iterator[Cells]:
    """Stream the columns of documents.

    Columns are found by their names in any case. `id` holds strings or numbers, the text strings,
    `labels` strings or lists of strings or numbers, `include` and `exclude` strings or lists of
    strings; all but the text may be missing. A text's column of that name is no selection.

    Args:
        file: names the file, and makes the errors about it.
        text_column: the name of the text's column.

    Raises:
        InputError: of the file's class: it is not Parquet, is broken, or has other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    if file.name.lower().endswith(".gz"):
        raise file.failure("Parquet is packed in itself: unpack it")
    number = 0
    try:
        # Without these options whole row groups, perhaps the whole file, would be in memory.
        with pq.ParquetFile(file.name, buffer_size=_BUFFER, pre_buffer=False) as table:
            chosen = _columns(file, table.schema_arrow, text_column)
            names = [name for name in chosen if name is not None]
            for batch in table.iter_batches(_BATCH, columns=names):
                columns = [_values(batch, name) for name in chosen]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield Cells(number, *cells)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
        raise file.failure(
            f"cannot be read as Parquet: {' '.join(str(exc).split())}; write the file again",
            number + 1 if number else None,
        ) from exc


def write_predictions(lines: Iterable[bytes], target: Path) -> None:
    """Write the lines of `irr.writer.prediction_to_json` as a Parquet file, packed with zstd.

    Columns: id, status, labels (a list of id, label, score, evidence, picked), guesses, usage
    (calls, input_tokens, output_tokens), notes, error (class, message), and trace as a string of
    JSON. What a line does not have is null.

    Raises:
        OSError: the file could not be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    rows = iter(lines)
    with pq.ParquetWriter(str(target), schema, compression="zstd") as writer:
        while batch := [_cells(json.loads(line)) for line in islice(rows, 4 * _BATCH)]:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))


def read_predictions(path: Path) -> Iterator[str]:
    """Stream the lines that `write_predictions` was given, without line breaks.

    Raises:
        ValueError: it is no Parquet file of predictions.
        OSError: it could not be read.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(str(path), buffer_size=_BUFFER, pre_buffer=False) as table:
        if table.schema_arrow.names != _schema().names:
            raise ValueError(f"{path}: not a file of predictions")
        for batch in table.iter_batches(_BATCH):
            for cells in batch.to_pylist():
                yield row_to_json(_row(cells))


def _schema() -> pa.Schema:
    import pyarrow as pa

    text, whole = pa.string(), pa.int64()
    label = {"id": text, "label": text, "score": pa.float64(), "evidence": text}
    usage = {"calls": whole, "input_tokens": whole, "output_tokens": whole}
    return pa.schema(
        {
            "id": text,
            "status": text,
            "labels": pa.list_(_struct({**label, "picked": pa.bool_()})),
            "guesses": pa.list_(text),
            "usage": _struct(usage),
            "notes": pa.list_(text),
            "error": _struct({"class": text, "message": text}),
            "trace": text,
        }
    )


def _struct(fields: dict[str, object]) -> pa.DataType:
    import pyarrow as pa

    return pa.struct(list(fields.items()))


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    if "trace" in row:
        row["trace"] = json.dumps(row["trace"], ensure_ascii=False)
    return row


def _row(cells: dict[str, Any]) -> dict[str, object]:
    """A row as `write_predictions` read it: null was not there."""
    row = {name: value for name, value in cells.items() if value is not None}
    for label in row["labels"]:
        if label["picked"] is None:
            del label["picked"]
    if "trace" in row:
        row["trace"] = json.loads(row["trace"])
    return row


def _values(batch: pa.RecordBatch, name: str | None) -> list[object]:
    if name is None:
        return [None] * batch.num_rows
    values: list[object] = batch.column(name).to_pylist()
    return values


def _columns(file: TextFile, schema: pa.Schema, text_column: str) -> list[str | None]:
    """The names of the columns of `Cells`, in that order; None for one that is not there."""
    chosen: list[str | None] = []
    text = file.column(schema.names, [text_column])
    if text is None:
        raise file.missing_column(schema.names, [text_column])
    for wanted, fits, what in (
        ("id", _is_name, "strings or numbers"),
        (text_column, _is_text, "strings"),
        ("labels", _is_labels, "strings or lists of strings"),
        ("include", _is_list, "strings or lists of strings"),
        ("exclude", _is_list, "strings or lists of strings"),
    ):
        place = file.column(schema.names, [wanted])
        if place == text and fits is _is_list:
            place = None
        if place is not None and not fits(schema.field(place).type):
            found = schema.field(place).type
            raise file.failure(f"the column {wanted!r} holds {found}: it must hold {what}")
        chosen.append(None if place is None else schema.names[place])
    return chosen


def _is_labels(type_: pa.DataType) -> bool:
    return _is_list(type_) or (_has_entries(type_) and _is_name(type_.value_type))


def _is_list(type_: pa.DataType) -> bool:
    return _is_text(type_.value_type if _has_entries(type_) else type_)


def _has_entries(type_: pa.DataType) -> bool:
    import pyarrow.types as types  # type: ignore[import-untyped]

    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(is_list(type_) for is_list in lists)


def _is_name(type_: pa.DataType) -> bool:
    import pyarrow.types as types

    return _is_text(type_) or types.is_integer(type_) or types.is_floating(type_)


def _is_text(type_: pa.DataType) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(type_):
        return _is_text(type_.value_type)
    # A column without a single value has the type null.
    kinds = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return any(is_kind(type_) for is_kind in kinds)
