"""Which format a file of labels has, by its first 64 KB and, where these do not tell, its name."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from irr.vocabularies.tables import has_annif_columns, has_esco_columns

__all__ = ["recognise"]

_HEAD = 65_536
_ENDINGS = {
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ttl": "turtle",
    ".n3": "turtle",
    ".nt": "n-triples",
    ".nq": "n-quads",
    ".jsonld": "json-ld",
    ".rdf": "rdf-xml",
    ".owl": "rdf-xml",
}
_ROOTS = {
    "RDF": "rdf-xml",
    "DescriptorRecordSet": "mesh",
    "ICD10CM.tabular": "icd10cm-tabular",
}
_ELEMENT = re.compile(r"<(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)(?=[\s>/])")
_NODE = r"(?:<[^<>\s]*>|_:\S+)"
_VALUE = rf'(?:{_NODE}|"(?:[^"\\]|\\.)*"(?:@[\w-]+|\^\^<[^<>\s]*>)?)'
_TRIPLE = re.compile(rf"\s*{_NODE}\s+<[^<>\s]*>\s+{_VALUE}\s*(?P<graph>{_NODE})?\s*\.\s*(?:#.*)?")
_TURTLE = re.compile(r"^\s*(?:@prefix|@base|prefix|base)\s", re.IGNORECASE | re.MULTILINE)
_ANNIF_LINE = re.compile(r"(?:<[^<>\t]+>|[A-Za-z][\w+.-]*://[^\s,;]+)(?:\t[^\t]*){1,2}")
_ORDER_LINE = re.compile(r"\d{5} [A-Z]\w{2,6} +[01] .{60} \S")
_JSON_LD = re.compile(r'"@(?:context|graph|id)"\s*:')


def recognise(path: Path) -> str | None:
    """Tell the name of the format, or None for one that is not known.

    A folder is a data set of Hugging Face's where it holds their files.
    """
    if _is(Path.is_dir, path):
        known = ("dataset_info.json", "dataset_dict.json")
        return "huggingface" if any((path / name).is_file() for name in known) else None
    bare = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    ending = bare.suffix.lower()
    if bare.name == "dataset_info.json":
        return "huggingface"
    # Pipes can be read but once; these two endings leave no doubt.
    if ending != ".jsonl" and _is(Path.is_file, path):
        found = _by_content(_head(path), ending)
        if found is not None:
            return found
    return _ENDINGS.get(ending)


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    with suppress(OSError):  # A name too long or not to be looked at: `TextFile` tells.
        return kind(path)
    return False


def _by_content(head: str, ending: str) -> str | None:
    start = head.lstrip("\ufeff \t\r\n")
    lines = [line for line in start.splitlines()[:1000] if line.strip()]
    first = lines[0] if lines else ""
    if ending == ".csv":
        return "esco" if has_esco_columns(first) else _annif_or_none(first)
    if start.startswith("<") and not _ANNIF_LINE.match(first):
        element = _ELEMENT.search(re.sub(r"<!--.*?-->|<\?.*?\?>|<!.*?>", "", start, flags=re.S))
        if element and element[1] in _ROOTS:
            return _ROOTS[element[1]]
    if ending in (".ttl", ".n3"):
        return None
    statements = [line for line in lines if not line.lstrip().startswith("#")][:100]
    matched = _TRIPLE.fullmatch(statements[0]) if statements else None
    if not matched and _ANNIF_LINE.fullmatch(first):
        return "annif-tsv"
    if _TURTLE.search(start) and ending not in (".txt", ".tsv"):
        return "turtle"
    if matched:
        return "n-quads" if matched["graph"] else "n-triples"
    if start[:1] in ("{", "[") and _JSON_LD.search(start):
        return "json-ld"
    return "icd10cm-order" if _ORDER_LINE.match(first) else None


def _annif_or_none(header: str) -> str | None:
    return "annif-csv" if has_annif_columns(header) else None


def _head(path: Path) -> str:
    raw = b""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    # What cannot be read is told by the reader, with its place.
    with suppress(OSError, EOFError, zlib.error), opener(path, "rb") as stream:
        raw = stream.read(_HEAD)
    return codecs.getincrementaldecoder("utf-8")("replace").decode(raw)
