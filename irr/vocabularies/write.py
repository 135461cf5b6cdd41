"""`Vocabulary` → files in the formats that others read.

In: the concepts of a vocabulary, in all their languages. Out: JSON lines with all that we know,
SKOS, or a vocabulary of Annif's. A file gets its name only when it is whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from irr.errors import ConfigurationError, OutputError
from irr.types import Label
from irr.vocabularies import Vocabulary
from irr.vocabularies.binary import create_binary, table_into, text_into
from irr.vocabularies.concept import Concept, usual_case
from irr.vocabularies.lines import concept_to_json
from irr.vocabularies.rdf import oxigraph
from irr.vocabularies.skos import OWN_IRI, RDF_TYPE, SKOS

__all__ = ["WRITERS", "write_vocabulary"]

_PROPERTIES = {
    "prefLabel": "names",
    "altLabel": "alternative_names",
    "hiddenLabel": "hidden_names",
    "definition": "definitions",
    "scopeNote": "scope_notes",
}
# What is no Char of XML 1.0, and the carriage return, which XML reads as a line feed.
_NOT_IN_XML = re.compile("\r(?!\n)|[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Lost = Counter[str]
"""How many texts of each kind the format has no place for."""


def write_vocabulary(
    vocabulary: Vocabulary,
    target: str | Path,
    *,
    language: str | None = None,
    expected: int | None = None,
) -> Lost:
    """Write a vocabulary in the format that the ending of `target` names, one of `WRITERS`.

    JSON lines and SKOS keep all languages, and so do names in Annif's csv; Annif's tsv is in one.
    Ids that are no IRIs get `OWN_IRI` before them in SKOS, which our reader takes away again.

    Args:
        target: plain or .gz.
        language: of the names in Annif's tsv, see `Vocabulary.labelled`.
        expected: how many concepts there must be at least, where that is known.

    Raises:
        ConfigurationError: no such ending, or a name that the format cannot hold.
        OutputError: it cannot be written, or there are fewer concepts than expected.
    """
    path = Path(target)
    bare = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    write = WRITERS.get(bare.suffix.lower())
    if write is None:
        endings = ", ".join(WRITERS)
        raise ConfigurationError(f"cannot write {target}: its name must end in {endings}")
    with create_binary(path) as stream:
        concepts = _Counted(vocabulary)
        lost = write(concepts, stream, language)
        if expected is not None and concepts.count < expected:
            raise OutputError(
                f"{target} was not written: {vocabulary.problems.path} gave {concepts.count:,} "
                f"labels where it gave {expected:,} before: it changed, or cannot be read twice"
            )
    return lost


class _Counted:
    """A vocabulary that counts its concepts in each pass."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.count = 0
        self._vocabulary = vocabulary

    def __iter__(self) -> Iterator[Concept]:
        for self.count, concept in enumerate(self._vocabulary, start=1):  # noqa: B020
            yield concept

    def labelled(self, language: str | None) -> Iterator[tuple[Concept, Label]]:
        pairs = self._vocabulary.labelled(language)
        for self.count, pair in enumerate(pairs, start=1):
            yield pair


def _jsonl(vocabulary: _Counted, stream: BinaryIO, language: str | None) -> Lost:  # noqa: ARG001
    for concept in vocabulary:
        stream.write(f"{concept_to_json(concept)}\n".encode())
    return Lost()


def _skos(form: str) -> Callable[[_Counted, BinaryIO, str | None], Lost]:
    def write(vocabulary: _Counted, stream: BinaryIO, language: str | None) -> Lost:  # noqa: ARG001
        package = oxigraph()
        rdf_format = getattr(package.RdfFormat, form)
        prefixes = {"skos": SKOS} if form != "N_TRIPLES" else None
        held = _xml_text if form == "RDF_XML" else _any_text
        statements = _statements(vocabulary, package, held)
        package.serialize(statements, stream, format=rdf_format, prefixes=prefixes)
        return Lost()

    return write


def _statements(
    vocabulary: _Counted, package: Any, held: Callable[[str, Concept], str]
) -> Iterator[Any]:
    node, triple, literal = package.NamedNode, package.Triple, package.Literal
    type_, concept_type = node(RDF_TYPE), node(SKOS + "Concept")
    properties = [(node(SKOS + name), field) for name, field in _PROPERTIES.items()]
    broader, notation_of = node(SKOS + "broader"), node(SKOS + "notation")
    for concept in vocabulary:
        subject = _iri(concept.id, node)
        yield triple(subject, type_, concept_type)
        for predicate, field in properties:
            for tag, text in getattr(concept, field):
                yield triple(subject, predicate, _literal(held(text, concept), tag, literal))
        for parent in concept.parents:
            yield triple(subject, broader, _iri(parent, node))
        for notation in concept.notations:
            yield triple(subject, notation_of, literal(held(notation, concept)))


def _any_text(text: str, _: Concept) -> str:
    return text


def _xml_text(text: str, concept: Concept) -> str:
    if found := _NOT_IN_XML.search(text):
        raise ConfigurationError(
            f"a text of {concept.names[0][1]!r} ({concept.id}) holds U+{ord(found[0]):04X}, which "
            "XML cannot keep: write .ttl or .nt instead"
        )
    return text


def _iri(id_: str, node: Any) -> Any:
    if not id_.startswith(OWN_IRI):
        try:
            return node(id_)
        except ValueError:
            pass
    return node(OWN_IRI + quote(id_, safe=""))


def _literal(text: str, tag: str, literal: Any) -> Any:
    try:
        return literal(text, language=tag) if tag else literal(text)
    except ValueError as error:
        message = f"{tag!r} of {text!r} is no language tag: write one as in BCP 47, such as 'en'"
        raise ConfigurationError(message) from error


def _annif_csv(vocabulary: _Counted, stream: BinaryIO, language: str | None) -> Lost:  # noqa: ARG001
    tags: dict[str, None] = {}
    lost, notations = Lost(), False
    for concept in vocabulary:
        tags |= dict.fromkeys(tag for tag, _ in concept.names)
        notations = notations or bool(concept.notations)
        _count_lost(concept, lost)
    with text_into(stream) as text:
        write = table_into(text)
        columns = [f"label_{usual_case(tag) or 'und'}" for tag in tags]
        write(["uri", *columns, *(["notation"] if notations else [])])
        for concept in vocabulary:
            names = dict(concept.names)
            cells = [names.get(tag, "") for tag in tags]
            notation = [next(iter(concept.notations), "")] if notations else []
            write([concept.id, *cells, *notation])
    return +lost


def _annif_tsv(vocabulary: _Counted, stream: BinaryIO, language: str | None) -> Lost:
    lost = Lost()
    for concept, label in vocabulary.labelled(language):
        if "<" in concept.id or ">" in concept.id:
            message = f"the id {concept.id!r} has an angle bracket: write csv instead"
            raise ConfigurationError(message)
        cells = [f"<{concept.id}>", label.name, *concept.notations[:1]]
        if any(character in cell for cell in cells for character in "\t\r\n"):
            message = f"{label.name!r} ({concept.id}) holds a tab or line break: write csv instead"
            raise ConfigurationError(message)
        stream.write(("\t".join(cells) + "\n").encode())
        _count_lost(concept, lost)
        lost["names in other languages"] += len(concept.names) - 1
    return +lost


def _count_lost(concept: Concept, lost: Lost) -> None:
    lost["alternative names"] += len(concept.alternative_names) + len(concept.hidden_names)
    lost["descriptions"] += len(concept.definitions) + len(concept.scope_notes)
    lost["parents"] += len(concept.parents)
    lost["further notations"] += max(0, len(concept.notations) - 1)


WRITERS = {
    ".jsonl": _jsonl,
    ".ttl": _skos("TURTLE"),
    ".nt": _skos("N_TRIPLES"),
    ".rdf": _skos("RDF_XML"),
    ".csv": _annif_csv,
    ".tsv": _annif_tsv,
}
"""The endings that can be written: JSON lines, SKOS three times, Annif twice."""
