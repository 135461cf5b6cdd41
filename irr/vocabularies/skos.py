"""SKOS → `Concept`s in bounded memory: statements are grouped by subject on disk.

In: an RDF file. Out: concepts in the order in which the file first speaks of them. Read are
prefLabel, altLabel, hiddenLabel, definition, scopeNote, broader, narrower (turned round), notation
and owl:deprecated; where there is no prefLabel, rdfs:label; for a definition, dcterms:description.
Mappings, other relations and SKOS-XL are not. A relative IRI of a file without a base is an id as
it stands; concepts that are blank nodes have no id, and are counted.

Source: SKOS Reference, W3C Recommendation 18 August 2009.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from irr.files import TextFile
from irr.seen import temporary_failure
from irr.vocabularies.concept import Concept, Tagged
from irr.vocabularies.problems import Problems
from irr.vocabularies.rdf import BASE_IRI, Statement, oxigraph, read_statements

__all__ = ["OWN_IRI", "RDF_TYPE", "SKOS", "SkosStore"]

SKOS = "http://www.w3.org/2004/02/skos/core#"
RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
OWN_IRI = "urn:irr:"
"""What we put before an id that is no IRI, percent-encoded, when we write SKOS."""

_CONCEPT = SKOS + "Concept"
_OTHER_TYPES = {SKOS + name for name in ("ConceptScheme", "Collection", "OrderedCollection")}
_NARROWER = SKOS + "narrower"
# What a statement says, by its predicate.
_FIELDS = {
    SKOS + "prefLabel": "names",
    SKOS + "altLabel": "alternative_names",
    SKOS + "hiddenLabel": "hidden_names",
    SKOS + "definition": "definitions",
    SKOS + "scopeNote": "scope_notes",
    SKOS + "broader": "parents",
    SKOS + "notation": "notations",
    RDF_TYPE: "types",
    "http://www.w3.org/2002/07/owl#deprecated": "deprecated",
    "http://www.w3.org/2000/01/rdf-schema#label": "labels",
    "http://purl.org/dc/terms/description": "descriptions",
}
_BLANK = "_:"
_OF_NODES = {"parents", "types"}
_BATCH = 10_000
_CACHE_KIB = 65_536

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode

Entry = tuple[str, str, str]
"""A field, a language tag, a text or id."""


class SkosStore:
    """The statements of a file, grouped by subject, in a temporary database on disk.

    `languages` counts the prefLabels of each language tag.

    Args:
        file: the RDF file, read here and now.
        form: one of `RDF_FORMATS`.
        problems: where malformed lines are reported.

    Raises:
        OutputError: the folder of temporary files is full.
    """

    def __init__(self, file: TextFile, form: str, problems: Problems) -> None:
        self.languages: Counter[str] = Counter()
        # A database without a name is a file that SQLite deletes.
        self._database = sqlite3.connect("", isolation_level=None)
        with _full_disk_told():
            self._database.executescript(
                f"""
                PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
                PRAGMA cache_size = -{_CACHE_KIB};
                CREATE TABLE run (number INTEGER PRIMARY KEY, subject TEXT, entries TEXT);
                CREATE TABLE narrower (child TEXT, parent TEXT);
                BEGIN;
                """
            )
            self._fill(read_statements(file, form, problems))
            self._database.execute("CREATE INDEX run_of ON run (subject, number)")
            self._database.execute("CREATE INDEX parent_of ON narrower (child)")
            self._database.execute("COMMIT")

    def concepts(self, problems: Problems) -> Iterator[Concept]:
        """Yield the concepts; what is deprecated or has no name is counted."""
        with _full_disk_told():
            for subject, entries in self._grouped():
                concept = _concept(subject, entries, problems)
                if concept is not None:
                    yield concept

    def close(self) -> None:
        """Delete the database."""
        self._database.close()

    def _fill(self, statements: Iterable[Statement]) -> None:
        runs: list[tuple[str, str]] = []
        narrower: list[tuple[str, str]] = []
        for subject, entries in self._runs(statements, narrower):
            runs.append((subject, _encode(entries)))
            if len(runs) >= _BATCH:
                self._write(runs, narrower)
        self._write(runs, narrower)

    def _write(self, runs: list[tuple[str, str]], narrower: list[tuple[str, str]]) -> None:
        self._database.executemany("INSERT INTO run (subject, entries) VALUES (?, ?)", runs)
        self._database.executemany("INSERT INTO narrower VALUES (?, ?)", narrower)
        runs.clear()
        narrower.clear()

    def _runs(
        self, statements: Iterable[Statement], narrower: list[tuple[str, str]]
    ) -> Iterator[tuple[str, list[Entry]]]:
        """Statements that follow each other and have one subject, of the fields we read."""
        node, literal = oxigraph().NamedNode, oxigraph().Literal
        last, entries = "", list[Entry]()
        for subject, predicate, value in statements:
            relation = predicate.value
            field = _FIELDS.get(relation)
            if relation == _NARROWER and isinstance(value, node) and isinstance(subject, node):
                narrower.append((value.value, subject.value))
            kind = node if field in _OF_NODES else literal
            if field is None or not isinstance(value, kind):
                continue
            tag = (value.language or "").lower() if kind is literal else ""
            is_blank = not isinstance(subject, node)
            if field == "names" and not is_blank:
                self.languages[tag] += 1
            iri = str(subject) if is_blank else subject.value
            if iri != last:
                if entries:
                    yield last, entries
                last, entries = iri, []
            entries.append((field, tag, value.value))
        if entries:
            yield last, entries

    def _grouped(self) -> Iterator[tuple[str, list[Entry]]]:
        database = self._database
        has_narrower = _any(database, "SELECT 1 FROM narrower")
        scattered = _any(database, "SELECT 1 FROM run GROUP BY subject HAVING count(*) > 1")
        for number, subject, text in database.execute(
            "SELECT number, subject, entries FROM run ORDER BY number"
        ):
            entries = [text]
            if scattered:
                query = "SELECT number, entries FROM run WHERE subject = ? ORDER BY number"
                runs = database.execute(query, (subject,)).fetchall()
                if runs[0][0] != number:
                    continue
                entries = [run for _, run in runs]
            found = [tuple(entry) for text in entries for entry in json.loads(text)]
            if has_narrower:
                query = "SELECT parent FROM narrower WHERE child = ? ORDER BY rowid"
                found += [
                    ("parents", "", parent) for (parent,) in database.execute(query, (subject,))
                ]
            yield subject, list(dict.fromkeys(found))


@contextmanager
def _full_disk_told() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise temporary_failure(error) from error


def _any(database: sqlite3.Connection, query: str) -> bool:
    return database.execute(query + " LIMIT 1").fetchone() is not None


def _concept(subject: str, entries: Iterable[Entry], problems: Problems) -> Concept | None:
    fields: dict[str, list[Tagged]] = {}
    for field, tag, text in entries:
        if "\0" in text:
            problems.error(f"a text of {subject} holds a NUL character: remove it")
        else:
            fields.setdefault(field, []).append((tag, text.strip()))
    types = {type_ for _, type_ in fields.get("types", ())}
    if _CONCEPT not in types and (types & _OTHER_TYPES or "names" not in fields):
        return None
    if subject.startswith(_BLANK):
        name = next((text for _, text in fields.get("names") or fields.get("labels") or ()), "")
        problems.count("concepts left out that are blank nodes: give each an IRI", name)
        return None
    id_ = _own_id(subject)
    if any(value in ("true", "1") for _, value in fields.get("deprecated", ())):
        problems.count("deprecated concepts left out", id_)
        return None
    names, surplus = _one_a_language(fields.get("names") or fields.get("labels") or ())
    if not names:
        problems.count("concepts without a name left out", id_)
        return None
    for tag, _ in surplus:
        problems.count(f"concepts with several prefLabels in {tag or 'no language'!r}", id_)
    return Concept(
        id=id_,
        names=names,
        alternative_names=_filled((*surplus, *fields.get("alternative_names", ()))),
        hidden_names=_filled(fields.get("hidden_names", ())),
        definitions=_filled(fields.get("definitions") or fields.get("descriptions") or ()),
        scope_notes=_filled(fields.get("scope_notes", ())),
        parents=tuple(_own_id(parent) for _, parent in fields.get("parents", ())),
        notations=tuple(notation for _, notation in fields.get("notations", ()) if notation),
    )


def _one_a_language(texts: Iterable[Tagged]) -> tuple[tuple[Tagged, ...], list[Tagged]]:
    names: dict[str, str] = {}
    surplus = []
    for tag, text in _filled(texts):
        if names.setdefault(tag, text) != text:
            surplus.append((tag, text))
    return tuple(names.items()), surplus


def _filled(texts: Iterable[Tagged]) -> tuple[Tagged, ...]:
    return tuple({text: None for text in texts if text[1]})


def _own_id(iri: str) -> str:
    if iri.startswith(OWN_IRI):
        return unquote(iri.removeprefix(OWN_IRI))
    return iri.removeprefix(BASE_IRI) or iri
