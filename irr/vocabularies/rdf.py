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

__all__ = ["BASE_IRI", "RDF_FORMATS", "oxigraph", "read_statements"]

BASE_IRI = "irr://file/"
"""What relative IRIs are resolved against where a file names no base: the same for every file, so
that ids do not depend on where it lies. `irr.vocabularies.skos` takes it away again."""

RDF_FORMATS = {
    "turtle": "TURTLE",
    "n-triples": "N_TRIPLES",
    "n-quads": "N_QUADS",
    "rdf-xml": "RDF_XML",
    "json-ld": "JSON_LD",
}
"""The formats, and what pyoxigraph calls them."""

_CHUNK = 1 << 20
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_QUOTED = re.compile(r"^error while parsing (?:IRI|language tag) '(.*?)': ", re.DOTALL)
_TAG = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")
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
            if stream.peek(2)[:2] in _UTF_16:  # type: ignore[attr-defined]  # it is buffered
                raise file.failure("looks like UTF-16: save it as UTF-8", 1)
            if form in ("n-triples", "n-quads"):
                yield from _by_line(stream, form, problems)
                return
            if form == "rdf-xml":
                _check_xml(stream)
            statements = _parse(stream, form)
            yield from _in_languages(statements, problems) if form == "json-ld" else statements
    except SyntaxError as error:
        line = error.lineno or (_line_of(error, file) if form == "rdf-xml" else None)
        problems.error(f"{_told(error, form)}; mend it, as the rest cannot be read", line)
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
    # JSON-LD's strict mode leaves out what it does not like without a word.
    lenient = form == "json-ld"
    for quad in package.parse(source, format=rdf_format, base_iri=BASE_IRI, lenient=lenient):
        yield quad.subject, quad.predicate, quad.object


def _in_languages(statements: Iterator[Statement], problems: Problems) -> Iterator[Statement]:
    """Leave out texts whose language tag is malformed, and count them."""
    literal = oxigraph().Literal
    for statement in statements:
        value = statement[2]
        if isinstance(value, literal) and value.language and not _TAG.fullmatch(value.language):
            kind = f"texts left out whose language tag {value.language!r} is not as in BCP 47"
            problems.count(kind, value.value)
        else:
            yield statement


def _check_xml(stream: BinaryIO) -> None:
    """Let expat check the whole file: it names the line, and refuses entities that explode."""
    expat.ParserCreate().ParseFile(stream)
    stream.seek(0)


def _line_of(error: SyntaxError, file: TextFile) -> int | None:
    """The first line with the attribute that an error quotes: that parser tells no lines."""
    quoted = _QUOTED.search(str(error.args[0]))
    if quoted is None:
        return None
    # It lowers language tags before it checks them.
    wanted = [f"={mark}{quoted[1]}{mark}".lower() for mark in "\"'"]
    with file.open_bytes() as stream:
        for number, raw in enumerate(stream, start=1):
            text = raw.decode(errors="replace").lower()
            if any(attribute in text for attribute in wanted):
                return number
    return None


def _told(error: SyntaxError, form: str) -> str:
    place = f" at column {error.offset}" if error.offset else ""
    said = _PLACE.sub("", str(error.args[0])).strip()
    if "LoadDocumentCallback" in said:
        said = "its @context is a URL, and nothing is downloaded: put the context into the file"
    return f"malformed {form}{place}: {said}"
