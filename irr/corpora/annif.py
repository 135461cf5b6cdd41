"""Annif's corpora → `Document`s, and back.

Full texts: a folder of .txt with a .tsv (``<uri>``, tab, label a line) or .key (a label a line) for
each. Short texts: tsv, csv or JSON lines.

Source: https://github.com/NatLibFi/Annif/wiki/Corpus-formats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from irr.corpora.rows import distinct, objects, text_of
from irr.errors import ConfigurationError, DocumentError, OutputError
from irr.files import TextFile
from irr.types import Document
from irr.vocabularies.binary import create_binary, table_into, text_into

if TYPE_CHECKING:
    from irr.labels import LabelSet

__all__ = ["READERS", "is_bracketed", "read_folder", "write_annif_corpus"]


def read_folder(folder: Path) -> Iterator[Document]:
    """Read the .txt files in the order of their names, which are the ids without the ending."""
    if not folder.is_dir():
        raise DocumentError("is no folder: give the one that holds the .txt files", path=folder)
    for path in sorted(folder.glob("*.txt")):
        text = "".join(piece for _, piece in TextFile(path, DocumentError).pieces())
        yield Document(path.stem, text, _subjects_beside(path))


def _subjects_beside(path: Path) -> tuple[str, ...] | None:
    table, names = path.with_suffix(".tsv"), path.with_suffix(".key")
    if table.is_file():
        file = TextFile(table, DocumentError)
        cells = (text.split("\t")[0].strip() for _, text in file.lines() if text.strip())
        return distinct(map(_bare, cells))
    if names.is_file():
        file = TextFile(names, DocumentError)
        return distinct(text.strip() for _, text in file.lines())
    return None


def _read_tsv(file: TextFile, _: str) -> Iterator[Document]:
    for line, row in file.lines():
        if not row.strip():
            continue
        text, tab, uris = row.partition("\t")
        if not tab:
            raise file.failure("has no tab: write the text, a tab, and <uri> <uri> …", line)
        yield Document(str(line), text, distinct(map(_bare, uris.split())))


def _read_csv(file: TextFile, text_column: str) -> Iterator[Document]:
    header, rows = file.table(",")
    text, uris, id_ = (
        file.column(header, [name]) for name in (text_column, "subject_uris", "document_id")
    )
    if text is None or uris is None:
        raise file.missing_column(header, [text_column if text is None else "subject_uris"])
    for number, (line, row) in enumerate(rows, start=1):
        named = row[id_].strip() if id_ is not None else ""
        name = file.identifier(named, "document_id", line) if named else str(number)
        yield Document(name, row[text], distinct(map(_bare, row[uris].split())))


def _read_annif_json(file: TextFile, text_key: str) -> Iterator[Document]:
    for number, (line, value) in enumerate(objects(file), start=1):
        id_ = value.get("document_id")
        subjects = value.get("subjects")
        if subjects is not None and not (
            isinstance(subjects, list) and all(isinstance(each, dict) for each in subjects)
        ):
            raise file.failure('"subjects" must be like [{"uri": …, "label": …}]', line)
        named = [each.get("uri") or each.get("label") for each in subjects or ()]
        yield Document(
            str(number) if id_ is None else file.identifier(id_, '"document_id"', line),
            text_of(file, value, text_key, line),
            None if subjects is None else distinct(file.identifiers(named, '"subjects"', line)),
        )


def write_annif_corpus(
    documents: Iterable[Document], target: str | Path, *, labels: LabelSet | None = None
) -> None:
    """Write a corpus of Annif's: .tsv, .csv or .jsonl (each also .gz), else a folder.

    Args:
        documents: those without gold are written without subjects.
        target: tsv has no place for ids, and texts in it must have no tabs and line breaks.
        labels: where to look up the ids of gold given by name, and in a folder the names of all;
            None where gold holds the URIs.

    Raises:
        ConfigurationError: a text or id that the format cannot hold.
        LabelSetError: gold that is not among the labels.
        OutputError: it cannot be written.
    """
    path = Path(target)
    bare = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    write = {".tsv": _write_tsv, ".csv": _write_csv, ".jsonl": _write_jsonl}.get(bare.suffix)
    if write is None:
        _write_folder(documents, path, labels)
        return
    with create_binary(path) as stream:
        write(documents, stream, labels)


def _uris(document: Document, labels: LabelSet | None) -> list[str]:
    gold = document.gold or ()
    ids = [labels[labels.position_of(each)].id for each in gold] if labels else list(gold)
    broken = next((id_ for id_ in ids if not id_ or any(c.isspace() for c in id_)), None)
    if broken is not None:
        raise ConfigurationError(f"{broken!r} of document {document.id!r} is no URI: give labels")
    return ids


def _write_tsv(documents: Iterable[Document], stream: BinaryIO, labels: LabelSet | None) -> None:
    for number, document in enumerate(documents):
        if any(character in document.text for character in "\t\r\n"):
            raise ConfigurationError(
                f"the text of document {document.id!r} has a tab or line break: write csv instead"
            )
        uris = " ".join(f"<{uri}>" for uri in _uris(document, labels))
        text = document.text if number else _after_bom(document.text)
        stream.write(f"{text}\t{uris}\n".encode())


def _write_csv(documents: Iterable[Document], stream: BinaryIO, labels: LabelSet | None) -> None:
    with text_into(stream) as text:
        write = table_into(text)
        write(["document_id", "text", "subject_uris"])
        for document in documents:
            write([document.id, document.text, " ".join(_uris(document, labels))])


def _write_jsonl(documents: Iterable[Document], stream: BinaryIO, labels: LabelSet | None) -> None:
    for document in documents:
        row: dict[str, object] = {"document_id": document.id, "text": document.text}
        if document.gold is not None:
            row["subjects"] = [{"uri": uri} for uri in _uris(document, labels)]
        stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def _write_folder(documents: Iterable[Document], folder: Path, labels: LabelSet | None) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for document in documents:
            if Path(document.id).name != document.id:
                raise ConfigurationError(f"the id {document.id!r} cannot be the name of a file")
            (folder / f"{document.id}.txt").write_bytes(_after_bom(document.text).encode())
            if document.gold is not None:
                subjects = "".join(_subject_lines(document, labels))
                (folder / f"{document.id}.tsv").write_bytes(subjects.encode())
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror or error}") from error


def _after_bom(text: str) -> str:
    """Put a byte order mark before a text that looks as if it began with one, which is lost."""
    return "\ufeff" + text if text.startswith("\ufeff") else text


def _subject_lines(document: Document, labels: LabelSet | None) -> Iterator[str]:
    for uri in _uris(document, labels):
        name = f"\t{labels[labels.position_of(uri)].name}" if labels else ""
        yield f"<{uri}>{name}\n"


def is_bracketed(uri: str) -> bool:
    """Tell whether it is ``<uri>``, as Annif writes it."""
    return uri.startswith("<") and uri.endswith(">")


def _bare(uri: str) -> str:
    return uri[1:-1] if is_bracketed(uri) else uri


READERS: dict[str, Callable[[TextFile, str], Iterator[Document]]] = {
    "annif-tsv": _read_tsv,
    "annif-csv": _read_csv,
    "annif-jsonl": _read_annif_json,
}
"""Readers of (file, key or column of the text)."""
