"""Documents and gold: files → `Document`s, one at a time.

In: a file, a folder, standard input or texts; never held whole in memory. Out: the documents, in
the order of the source. Formats: `read_documents`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from irr.errors import ConfigurationError, DocumentError
from irr.files import HALF_CHARACTER, TextFile, split_cell, stem_of
from irr.types import Document

if TYPE_CHECKING:
    from irr.folder import Folder
    from irr.selection import Selection

__all__ = ["documents_from_texts", "read_documents", "read_gold"]


class _Row(NamedTuple):
    """A document, and for errors its file, the line on which it begins, and whose its id is."""

    file: str
    line: int | None
    document: Document
    numbered: bool

    def failure(self, message: str) -> DocumentError:
        """Make the error to raise about it."""
        return DocumentError(message, path=self.file, line=self.line)


_Located = Iterator[_Row]
_Lines = Iterator[tuple[int, str]]
_ROWS = (".jsonl", ".csv", ".tsv", ".parquet")
_SELECTION = ("include", "exclude")


def read_documents(source: str | Path, *, text_column: str | None = None) -> Iterator[Document]:
    """Stream documents; UTF-8, files also packed (.gz).

    - .jsonl: ``{"id": …, "text": …, "labels": [names or ids], "include": […], "exclude": […]}``
      a line, blank lines skipped.
    - .csv, .tsv: a header, then a document a row; columns id, text, labels, include, exclude (the
      last three separated by "|").
    - .txt: the whole file is one document, its id the name without the ending.
    - .parquet: the same columns, the last three also as lists; needs irr[parquet].
    - a folder of .txt files, those in folders below too, hidden ones not; sorted by id, which is
      the path inside the folder without the ending.
    - a folder of .jsonl, .csv, .tsv and .parquet files, likewise: one after the other, sorted by
      path. Other files are passed over, but .txt files may not be among them.
    - "-": standard input, as .jsonl where the first character that is not white space is "{",
      else a document a line. So too ``/dev/stdin``, ``/dev/fd/63`` (``<(…)`` of the shell), and
      pipes and devices with none of these endings.

    Without an id (a number will do) the document is numbered: the first row is "1", and in a
    folder each file goes on where the one before it ended. Labels may be missing or null (`gold`
    is None) and lose exact duplicates. Texts are kept as they are, and may be blank: such a
    document comes out like any other, so that predict can answer its row.

    `include` and `exclude` make the document's selection: entries as in `irr.selection`, but no
    regular expressions and files. Whether they fit the label set is seen when it is predicted.
    Where the text has one of these names, it is the text.

    Memory does not grow with the number of documents; their ids are in a temporary file, see
    `irr.seen`. The iterator may be used by one thread and closed by another.

    Args:
        source: file, folder or "-".
        text_column: the key or column of the text, where it is not "text".

    Raises:
        DocumentError: at once for a missing file or unknown format; while streaming for a row
            that cannot be read or an id that came before; names the file and the line (in
            Parquet the row).
        ConfigurationError: `text_column` for plain text; Parquet without pyarrow.
        OutputError: while streaming, when the folder of temporary files is full.
    """
    return _documents(_unique(_read(source, text_column)))


def read_gold(source: str | Path, *, text_column: str | None = None) -> Iterator[Document]:
    """Do as `read_documents`, but every document must have labels, if only an empty list.

    A source in the format of another tool is read by `irr.corpora.read_corpus`.

    Raises:
        DocumentError: also for a document without labels and for a source without documents.
    """
    from irr.corpora import read_corpus, recognise_corpus

    form = recognise_corpus(source)
    if form is None:
        located = _read(source, text_column)
    else:
        corpus = read_corpus(source, form, text_column=text_column)
        located = (_Row(str(source), None, document, numbered=False) for document in corpus)
    return _documents(_with_gold(source, _unique(located)))


def documents_from_texts(texts: Iterable[str]) -> Iterator[Document]:
    """Number texts from the command line: "1", "2", …

    Raises:
        DocumentError: a text is not valid UTF-8.
    """
    for number, text in enumerate(texts, start=1):
        if HALF_CHARACTER.search(text):
            raise DocumentError(f"text {number} is not valid UTF-8", path="<command line>")
        yield Document(str(number), text)


def _read(source: str | Path, text_column: str | None) -> _Located:
    if str(source) != "-" and _is_folder(Path(source)):
        return _read_folder(Path(source), text_column)
    file = _file(source)
    if file.ending in _ROWS:
        if file.ending == ".parquet":
            from irr.parquet import require_pyarrow

            require_pyarrow(file.name)
        return _read_rows(file, text_column or "text")
    if file.ending == ".txt":
        _refuse_column(source, text_column)
        return _read_text(file, stem_of(Path(source).name))
    if file.is_stream:
        return _read_stream(file, text_column)
    raise file.failure(
        "cannot tell its format by its name: it must end in .jsonl, .csv, .tsv, .txt or "
        ".parquet; or send it to standard input and give '-'"
    )


def _refuse_column(source: str | Path, text_column: str | None) -> None:
    if text_column is not None:
        raise ConfigurationError(
            f"{source}: plain text has no column {text_column!r}: leave the text column out"
        )


def _read_folder(path: Path, text_column: str | None) -> _Located:
    from irr.folder import Folder

    folder = Folder(path, _ROWS)
    if folder.has_rows:
        return _read_files(folder, text_column or "text")
    _refuse_column(path, text_column)
    return _read_texts(folder)


def _read_files(folder: Folder, text_column: str) -> _Located:
    before = 0
    for path in folder.files_of_rows():
        for row in _read_rows(_file(path), text_column, before):
            before += 1
            yield row


def _read_texts(folder: Folder) -> _Located:
    for id_, path in folder.texts():
        yield from _read_text(_file(path), id_)


def _file(path: str | Path) -> TextFile:
    return TextFile(path, DocumentError)


def _read_rows(file: TextFile, text_column: str, before: int = 0) -> _Located:
    """Read a file whose ending is one of `_ROWS`, after so many rows of other files."""
    if file.ending == ".jsonl":
        return _read_json(file, file.pieces(), text_column, before)
    if file.ending == ".parquet":
        return _read_parquet(file, text_column, before)
    return _read_table(file, "," if file.ending == ".csv" else "\t", text_column, before)


def _is_folder(path: Path) -> bool:
    with suppress(OSError):  # A name too long or not to be looked at: `TextFile` tells.
        return path.is_dir()
    return False


def _read_text(file: TextFile, id_: str) -> _Located:
    text = "".join(piece for _, piece in file.pieces())
    if HALF_CHARACTER.search(id_):
        raise file.failure("its name is not valid UTF-8: rename it")
    yield _Row(file.name, None, Document(id_, text), numbered=False)


def _read_stream(file: TextFile, text_column: str | None) -> _Located:
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
            yield _Row(file.name, number, Document(str(number), text), numbered=True)


def _read_json(file: TextFile, lines: _Lines, text_key: str, before: int = 0) -> _Located:
    for number, (line, value) in enumerate(file.json_values(lines), start=before + 1):
        if not isinstance(value, dict):
            raise file.failure(
                f'expected {{"id": …, "{text_key}": …}}, found {file.kind(value)}', line
            )
        if value.get(text_key) is None:
            found = ", ".join(map(repr, value)) or "nothing"
            raise file.failure(f'no "{text_key}": add it; found: {found}', line)
        id_, labels = value.get("id"), value.get("labels")
        document = Document(
            str(number) if id_ is None else file.identifier(id_, '"id"', line),
            file.string(value[text_key], f'"{text_key}"', line),
            None if labels is None else _distinct(file.identifiers(labels, '"labels"', line)),
            _selection(file, {key: value.get(key) for key in _SELECTION if key != text_key}, line),
        )
        yield _Row(file.name, line, document, numbered=id_ is None)


def _read_table(file: TextFile, delimiter: str, text_column: str, before: int) -> _Located:
    header, rows = file.table(delimiter)
    id_, text, labels = (file.column(header, [name]) for name in ("id", text_column, "labels"))
    if text is None:
        raise file.missing_column(header, [text_column])
    places = {name: file.column(header, [name]) for name in _SELECTION}
    chosen = {name: at for name, at in places.items() if at is not None and at != text}
    for number, (line, row) in enumerate(rows, start=before + 1):
        document = Document(
            str(number) if id_ is None else file.identifier(row[id_], "the id", line),
            row[text],
            None if labels is None else _distinct(split_cell(row[labels])),
            _selection(file, {name: split_cell(row[at]) for name, at in chosen.items()}, line),
        )
        yield _Row(file.name, line, document, numbered=id_ is None)


def _distinct(labels: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(labels))


def _read_parquet(file: TextFile, text_column: str, before: int) -> _Located:
    from irr.parquet import read_columns

    for number, id_, text, labels, *selection in read_columns(file, text_column):
        if text is None:
            raise file.failure(f"no {text_column!r}: fill it in", number)
        cells = (split_cell(cell) if isinstance(cell, str) else cell for cell in selection)
        document = Document(
            str(before + number) if id_ is None else file.identifier(id_, "the id", number),
            file.string(text, "the text", number),
            None if labels is None else _distinct(_cell_labels(file, labels, number)),
            _selection(file, dict(zip(_SELECTION, cells, strict=True)), number),
        )
        yield _Row(file.name, number, document, numbered=id_ is None)


def _selection(file: TextFile, cells: Mapping[str, object], line: int) -> Selection | None:
    """Read what a row says of the labels that may come out for it."""
    if all(value is None or value == () for value in cells.values()):
        return None
    from irr.selection import selection_of  # Most files say nothing of it.

    try:
        selection = selection_of(cells)
    except ConfigurationError as error:
        raise file.failure(str(error), line) from None
    for entry in (*selection.include, *selection.exclude):
        file.string(entry, "an entry of the selection", line)
    return selection or None


def _cell_labels(file: TextFile, labels: object, number: int) -> tuple[str, ...]:
    if isinstance(labels, str):
        return split_cell(file.string(labels, "the labels", number))
    return file.identifiers(labels, "the labels", number)


def _unique(located: _Located) -> _Located:
    from irr.seen import Before, Seen  # Texts of the command line need no SQLite.

    seen = Seen()
    try:
        for row in located:
            before = seen.add(row.document.id, numbered=row.numbered)
            if before is not Before.NEVER:
                raise _came_before(row, row.numbered or before is Before.NUMBERED)
            yield row
    finally:
        seen.close()


def _came_before(row: _Row, numbered: bool) -> DocumentError:
    cure = "ids must be unique; rename one"
    if numbered:
        cure = "a row without an id is given its number as id; give every row an id, or none"
    return row.failure(f"the id {row.document.id!r} came before: {cure}")


def _with_gold(source: str | Path, located: _Located) -> _Located:
    empty = True
    for row in located:
        empty = False
        if row.document.gold is None:
            raise row.failure(
                f"the document {row.document.id!r} has no labels: add them, an empty list for "
                "one that has none, or leave it out"
            )
        yield row
    if empty:
        raise DocumentError("holds no documents: add some with labels", path=source)


def _documents(located: _Located) -> Iterator[Document]:
    return (row.document for row in located)
