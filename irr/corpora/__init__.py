"""Texts with their labels in the formats of other tools → `Document`s with gold, and back.

In: a corpus of Annif's, an export of Prodigy's or Label Studio's, a data set of Hugging Face's.
Out: documents in the order of the source. And from documents, a corpus of Annif's.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from irr.corpora.annif import READERS, is_bracketed, read_folder, write_annif_corpus
from irr.corpora.annotation import read_label_studio, read_prodigy
from irr.corpora.rows import distinct
from irr.errors import ConfigurationError, DocumentError
from irr.files import TextFile
from irr.types import Document
from irr.vocabularies.binary import import_extra

__all__ = ["CORPUS_FORMATS", "read_corpus", "recognise_corpus", "write_annif_corpus"]

CORPUS_FORMATS = {
    "annif-folder": "Annif's folder of .txt with a .tsv or .key for each",
    "annif-tsv": "Annif's text, tab, <uri> <uri> a line",
    "annif-csv": "Annif's table with text and subject_uris",
    "annif-jsonl": 'Annif\'s {"text": …, "subjects": [{"uri": …}]} a line',
    "prodigy": "Prodigy's export",
    "label-studio": "Label Studio's export in JSON",
    "huggingface": "a Hugging Face data set saved to disk",
}
"""The names of the formats, and what they are."""

_PRODIGY_KEYS = {"accept", "answer", "cats"}


def read_corpus(
    path: str | Path,
    format: str | None = None,
    *,
    text_column: str | None = None,
) -> Iterator[Document]:
    """Stream the documents of a corpus; files are UTF-8, plain or .gz.

    `gold` holds ids (Annif's URIs, Prodigy's option ids) or names (Annif's key files, choices),
    without repetitions; None where a document was not labelled.

    Args:
        path: a file, or a folder for the formats that are folders.
        format: one of `CORPUS_FORMATS`; None to recognise it by the content.
        text_column: the key or column of the text, where it is not "text".

    Raises:
        DocumentError: it cannot be read as described; names the file and the line.
        ConfigurationError: no such format, or a package is missing.
    """
    known = format or recognise_corpus(path)
    if known is None:
        names = ", ".join(CORPUS_FORMATS)
        raise DocumentError(
            f"is in none of the formats of a corpus: name one of {names}", path=path
        )
    if known not in CORPUS_FORMATS:
        raise ConfigurationError(
            f"there is no corpus format {known!r}: name one of {', '.join(CORPUS_FORMATS)}"
        )
    text = text_column or "text"
    if known == "annif-folder":
        return read_folder(Path(path))
    if known == "huggingface":
        return _read_huggingface(Path(path), text)
    readers = READERS | {"prodigy": read_prodigy, "label-studio": read_label_studio}
    return readers[known](TextFile(path, DocumentError), text)


def recognise_corpus(path: str | Path) -> str | None:
    """Tell the format of a corpus by its content; None for other files, ours among them."""
    source = Path(path)
    if source.is_dir():
        if any((source / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
            return "huggingface"
        subjects = (p for ending in ("*.tsv", "*.key") for p in source.glob(ending))
        labelled = any(p.with_suffix(".txt").is_file() for p in subjects)
        return "annif-folder" if labelled else None
    if not source.is_file():
        return None
    file = TextFile(path, DocumentError)
    if file.ending not in (".csv", ".tsv", ".json", ".jsonl"):
        return None
    first = next((text for _, text in file.lines() if text.strip()), "")
    if file.ending == ".csv":
        cells = next(csv.reader([first]), [])
        return "annif-csv" if {"text", "subject_uris"} <= set(cells) else None
    if file.ending == ".tsv":
        uris = first.rpartition("\t")[2].split()
        return "annif-tsv" if uris and all(map(is_bracketed, uris)) else None
    if file.ending == ".json":
        return "label-studio" if first.lstrip().startswith("[") else None
    return _recognise_row(first) if file.ending == ".jsonl" else None


def _recognise_row(line: str) -> str | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or "labels" in row:
        return None
    if "subjects" in row or "document_id" in row:
        return "annif-jsonl"
    return "prodigy" if _PRODIGY_KEYS & row.keys() else None


def _read_huggingface(folder: Path, text_column: str) -> Iterator[Document]:
    from irr.vocabularies.huggingface import class_names

    if (folder / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(path.parent.name for path in folder.glob("*/dataset_info.json")))
        raise DocumentError(f"has several splits: give the folder of one ({splits})", path=folder)
    column, names = class_names(folder)
    rows = import_extra("datasets", "a Hugging Face data set", "datasets").load_from_disk(folder)
    if text_column not in rows.column_names:
        found = ", ".join(rows.column_names)
        raise DocumentError(f"has no column {text_column!r}: name one of {found}", path=folder)
    for number, row in enumerate(rows, start=1):
        value = row[column]
        classes = value if isinstance(value, list) else [value]
        # -1 is what they write where the class is not known.
        gold = None if value is None or -1 in classes else distinct(names[i] for i in classes)
        yield Document(str(row.get("id", number)), row[text_column], gold)
