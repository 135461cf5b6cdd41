"""RDF files → statements, one at a time, in bounded memory, by pyoxigraph's parsers.

In: Turtle, N-Triples, N-Quads, RDF/XML or JSON-LD, plain or gzip. Out: (subject, predicate,
object). What cannot be parsed is reported with its line. A graph in memory would take gigabytes
for a million concepts; a stream takes next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO
from xml.parsers import expat

from irr.files import TextFile
from irr.vocabularies.binary import import_extra, open_binary
from irr.vocabularies.problems import Problems

__all__ = ["RDF_FORMATS", "oxigraph", "read_statements"]

RDF_FORMATS = {
    "turtle": "TURTLE",
    "n-triples": "N_TRIPLES",
    "n-quads": "N_QUADS",
    "rdf-xml": "RDF_XML",
    "json-ld": "JSON_LD",
}
"""The formats, and what pyoxigraph calls them."""

_CHUNK = 1 << 20
_PLACE = re.compile(r"^Parser error (?:at|between) .*?: ", re.DOTALL)

Statement = tuple[Any, Any, Any]


def oxigraph() -> Any:
    """Import pyoxigraph.

    Raises:
        ConfigurationError: it is not installed.
    """
    return import_extra("pyoxigraph", "SKOS (RDF)")


def read_statements(file: TextFile, form: str, problems: Problems) -> Iterator[Statement]:
    """Stream the statements of a file in one of the `RDF_FORMATS`.

    In N-Triples and N-Quads a malformed line is reported and left out; in the others nothing can
    be told after the first error, so reading ends there.
    """
    try:
        with open_binary(file, problems) as stream:
            if form in ("n-triples", "n-quads"):
                yield from _by_line(stream, form, problems)
                return
            if form == "rdf-xml":
                _check_xml(stream)
            yield from _parse(stream, form)
    except SyntaxError as error:
        problems.error(f"{_told(error, form)}; mend it, as the rest cannot be read", error.lineno)
    except expat.ExpatError as error:
        what = f"malformed XML at column {error.offset + 1}: {expat.ErrorString(error.code)}"
        problems.error(f"{what}; mend it, as the rest cannot be read", error.lineno)


def _by_line(stream: BinaryIO, form: str, problems: Problems) -> Iterator[Statement]:
    before = 0
    while lines := stream.readlines(_CHUNK):
        try:
            statements = list(_parse(b"".join(lines), form))
        except SyntaxError:
            for number, line in enumerate(lines, start=before + 1):
                yield from _one_line(line, form, number, problems)
        else:
            yield from statements
        before += len(lines)


def _one_line(line: bytes, form: str, number: int, problems: Problems) -> Iterator[Statement]:
    try:
        statements = list(_parse(line, form))
    except SyntaxError as error:
        problems.error(f"{_told(error, form)}; mend the line or remove it", number)
    else:
        yield from statements


def _parse(source: BinaryIO | bytes, form: str) -> Iterator[Statement]:
    package = oxigraph()
    rdf_format = getattr(package.RdfFormat, RDF_FORMATS[form])
    for quad in package.parse(source, format=rdf_format):
        yield quad.subject, quad.predicate, quad.object


def _check_xml(stream: BinaryIO) -> None:
    """Let expat check the whole file: it names the line, and refuses entities that explode."""
    expat.ParserCreate().ParseFile(stream)
    stream.seek(0)


def _told(error: SyntaxError, form: str) -> str:
    place = f" at column {error.offset}" if error.offset else ""
    said = _PLACE.sub("", str(error.args[0])).strip()
    if "LoadDocumentCallback" in said:
        said = "its @context is a URL, and nothing is downloaded: put the context into the file"
    return f"malformed {form}{place}: {said}"
