"""SKOS: every serialization, languages, hierarchy, what is malformed, and back again."""

from __future__ import annotations

import gzip
import itertools
import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import irr.vocabularies.skos
from irr.errors import ConfigurationError, LabelSetError, OutputError
from irr.labels import LabelSet
from irr.types import Label
from irr.vocabularies import read_vocabulary
from irr.vocabularies.concept import Concept
from irr.vocabularies.lines import concept_to_json
from irr.vocabularies.write import write_vocabulary

pytest.importorskip("pyoxigraph", reason="pyoxigraph is not installed")

THESAURUS = """\
@prefix skos: <http://www.w3.org/2004/02/skos/core#> .
@prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix dct: <http://purl.org/dc/terms/> .
@prefix e: <http://e/> .
e:scheme a skos:ConceptScheme ; skos:prefLabel "the scheme"@en ; skos:hasTopConcept e:animals .
e:animals a skos:Concept ;
    skos:prefLabel "animals"@en, "eläimet"@fi, "动物"@zh-Hans ;
    skos:definition "living things that move"@en ; skos:narrower e:cats ; skos:notation "59" .
e:cats a skos:Concept ;
    skos:prefLabel "cats"@en-GB, "kissat"@fi ;
    skos:altLabel "felines"@en, "kissaeläimet"@fi, "Felidae" ;
    skos:hiddenLabel "catz"@en ; skos:scopeNote "not the musical"@en .
e:dogs skos:prefLabel "koirat"@fi ; skos:broader e:animals , e:pets .
e:old a skos:Concept ; skos:prefLabel "quaggas"@en ; owl:deprecated true .
e:nameless a skos:Concept ; skos:altLabel "who"@en .
e:cats skos:broader e:animals .
"""
ENGLISH = [
    Label("http://e/animals", "animals", (), "living things that move"),
    Label(
        "http://e/cats",
        "cats",
        ("felines", "Felidae", "catz"),
        "not the musical",
        ("http://e/animals",),
    ),
    Label("http://e/dogs", "koirat", (), "", ("http://e/animals", "http://e/pets")),
]


def put(folder: Path, name: str, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def test_turtle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path, "t.ttl", THESAURUS)
    assert list(LabelSet.read(path)) == ENGLISH
    assert sorted(record.message for record in caplog.records) == [
        f"{path}: 1 concepts without a name left out: http://e/nameless",
        f"{path}: 1 deprecated concepts left out: http://e/old",
        f"{path}: 1 labels without a name in 'en' have one in 'fi': koirat",
    ]


@pytest.mark.parametrize(
    ("name", "serialization"),
    [
        ("a.nt", "nt"),
        ("a.nq", "nquads"),
        ("a.rdf", "pretty-xml"),
        ("a.xml", "xml"),
        ("a.jsonld", "json-ld"),
        ("a.json", "json-ld"),
        ("a.nt.gz", "nt"),
        ("thesaurus", "nt"),
        ("thesaurus.txt", "nt"),
    ],
)
def test_every_serialization_by_another_librarys_hand(
    tmp_path: Path, name: str, serialization: str
) -> None:
    rdflib = pytest.importorskip("rdflib", reason="rdflib is not installed")
    graph = rdflib.Dataset() if serialization == "nquads" else rdflib.Graph()
    graph.parse(data=THESAURUS, format="turtle")
    path = put(tmp_path, name, graph.serialize(format=serialization))
    found = {label.id: label for label in LabelSet.read(path)}
    assert found.keys() == {label.id for label in ENGLISH}
    for expected in ENGLISH:
        label = found[expected.id]
        assert (label.name, label.description) == (expected.name, expected.description)
        assert set(label.alternative_names) == set(expected.alternative_names)
        assert set(label.parents) == set(expected.parents)


def test_a_language_is_also_its_variants(tmp_path: Path) -> None:
    path = put(tmp_path, "t.ttl", THESAURUS)
    assert LabelSet.read(path, language="fi").names == ["eläimet", "kissat", "koirat"]
    assert LabelSet.read(path, language="EN-gb").names == ["animals", "cats", "koirat"]
    assert LabelSet.read(path, language="zh").names == ["动物", "cats", "koirat"]
    cats = LabelSet.read(path, language="fi")[1]
    assert cats.alternative_names == ("kissaeläimet", "Felidae")


def test_a_language_that_no_name_has(tmp_path: Path) -> None:
    path = put(tmp_path, "t.ttl", THESAURUS)
    with pytest.raises(ConfigurationError, match=r"no name is in the language 'de': .*fi \(3\)"):
        LabelSet.read(path, language="de")


def test_without_english_the_most_frequent_language(tmp_path: Path) -> None:
    lines = [f'<http://e/{i}> <{PREF}> "{text}"@{tag} .' for i, text, tag in SWEDISH]
    path = put(tmp_path, "a.nt", "\n".join(lines))
    assert LabelSet.read(path).names == ["en", "x", "kolme"]


PREF = "http://www.w3.org/2004/02/skos/core#prefLabel"
SWEDISH = [
    (1, "en", "sv"),
    (1, "yksi", "fi"),
    (2, "två", "sv-FI"),
    (3, "kolme", "fi"),
    (2, "x", "sv"),
]


def test_several_names_in_a_language_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = put(tmp_path, "a.nt", f'<a:1> <{PREF}> "cat"@en .\n<a:1> <{PREF}> "feline"@en .\n')
    assert list(LabelSet.read(path)) == [Label("a:1", "cat", ("feline",))]
    assert "1 concepts with several prefLabels in 'en': a:1" in caplog.text


def test_labels_of_rdfs_where_skos_has_none(tmp_path: Path) -> None:
    content = f"""<a:1> a <{PREF[:-9]}Concept> ;
        <http://www.w3.org/2000/01/rdf-schema#label> "cat" ;
        <{PREF[:-9]}definition> [ <http://www.w3.org/1999/02/22-rdf-syntax-ns#value> "no" ] ;
        <http://purl.org/dc/terms/description> "purrs" ."""
    path = put(tmp_path, "a.ttl", content)
    assert list(LabelSet.read(path)) == [Label("a:1", "cat", (), "purrs")]


def test_bom_and_crlf(tmp_path: Path) -> None:
    path = put(tmp_path, "a.ttl", "\ufeff" + THESAURUS.replace("\n", "\r\n"))
    assert list(LabelSet.read(path)) == ENGLISH


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("a.nt", f'<a:1> <{PREF}> "x" .\n<a:2> <{PREF}> "y .\n', 2, "malformed n-triples at"),
        ("a.nt", f'<a:1> <{PREF}> "x" .\n<a:2> "y" "z" .\n', 2, "mend the line or remove it"),
        ("a.nt", f'<a:1> <{PREF}> "x" .\n'.encode() + b'<a:2> <a:b> "\xff" .\n', 2, "UTF-8"),
        ("a.ttl", "@prefix a: <a:> .\n\na:1 a:2 .\n", 3, "the rest cannot be read"),
        ("a.rdf", RDF_XML := f'<rdf:RDF xmlns:rdf="{PREF}">\n<a>\n</b></rdf:RDF>', 3, "mismatched"),
        ("a.rdf", RDF_XML[: RDF_XML.index("</b>")], 3, "no element found"),
        ("a.jsonld", '{"@context": {},\n "@id": }', 2, "malformed json-ld"),
        ("a.jsonld", '{"@context": "http://e/c", "@id": "a:1"}', None, "@context is a URL"),
        ("a.nt.gz", None, None, "broken gzip"),
        ("a.nt", "", None, "holds no labels"),
        ("a.ttl", "# nothing\n", None, "holds no labels"),
        ("a.ttl", '<a:1> <a:p> "x" .', None, "holds no labels"),
        ("a.nt", f'<a:1> <{PREF}> "a\\u0000b" .\n', None, "NUL character"),
    ],
)
def test_errors(
    tmp_path: Path, name: str, content: str | bytes | None, line: int | None, message: str
) -> None:
    if content is None:
        path = tmp_path / name
        path.write_bytes(gzip.compress(f'<a:1> <{PREF}> "x" .\n'.encode() * 999)[:-9])
    else:
        path = put(tmp_path, name, content)
    with pytest.raises(LabelSetError) as caught:
        LabelSet.read(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)
    assert message in str(caught.value)


def test_every_malformed_line_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    good = [f'<a:{i}> <{PREF}> "x{i}" .\n' for i in range(4)]
    path = put(tmp_path, "a.nt", f"{good[0]}what?\n{good[1]}{good[2]}<a:1> .\n{good[3]}")
    with read_vocabulary(path, strict=False) as vocabulary:
        assert [concept.id for concept in vocabulary] == ["a:0", "a:1", "a:2", "a:3"]
        assert [error.line for error in vocabulary.problems.errors] == [2, 5]


def test_entities_that_explode_are_refused(tmp_path: Path) -> None:
    names = "abcdefghijklmnopqrstuvwxyz"
    pairs = itertools.pairwise(names)
    entities = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">\n' for a, b in pairs)
    path = put(
        tmp_path,
        "a.rdf",
        f'<?xml version="1.0"?>\n<!DOCTYPE rdf:RDF [<!ENTITY a "lol">\n{entities}]>\n'
        f'<rdf:RDF xmlns:rdf="x">&z;</rdf:RDF>',
    )
    with pytest.raises(LabelSetError, match="malformed XML"):
        LabelSet.read(path)


def test_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyoxigraph", None)
    with pytest.raises(ConfigurationError, match=r'pip install "irr\[formats\]"'):
        LabelSet.read(put(tmp_path, "t.ttl", THESAURUS))


# A text in SKOS and in JSON lines: anything but NUL, half characters, and white space around it.
TEXTS = (
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0")
        | st.sampled_from("\"\\|\t\r\n\u2028\u0085\u200f'<>@^"),
        min_size=1,
        max_size=12,
    )
    .map(str.strip)
    .filter(bool)
)
TAGS = st.sampled_from(["", "en", "en-gb", "zh-hans", "ar", "x-odd"])
TAGGED = st.lists(st.tuples(TAGS, TEXTS), max_size=4, unique=True).map(tuple)
IDS = st.one_of(TEXTS, st.integers(0, 99).map("http://e/{}".format), TEXTS.map("urn:irr:".__add__))


@st.composite
def concepts(draw: st.DrawFn) -> list[Concept]:
    ids = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
    names = st.lists(st.tuples(TAGS, TEXTS), min_size=1, unique_by=lambda name: name[0])
    return [
        Concept(
            id=id_,
            names=tuple(draw(names)),
            alternative_names=draw(TAGGED),
            hidden_names=draw(TAGGED),
            definitions=draw(TAGGED),
            scope_notes=draw(TAGGED),
            parents=tuple(draw(st.lists(st.sampled_from(ids), unique=True))),
            notations=tuple(draw(st.lists(TEXTS, unique=True, max_size=2))),
        )
        for id_ in ids
    ]


def by_language(concept: Concept) -> dict[str, object]:
    """All that a concept says, in an order of its own."""
    fields = {name: sorted(getattr(concept, name)) for name in Concept._fields if name != "line"}
    return fields | {"id": concept.id}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(concepts(), st.sampled_from([".ttl", ".nt", ".ttl.gz"]))
def test_anything_survives_skos(
    tmp_path_factory: pytest.TempPathFactory, given_concepts: list[Concept], ending: str
) -> None:
    folder = tmp_path_factory.mktemp("skos")
    start = folder / "a.jsonl"
    one_definition = [
        concept._replace(
            definitions=tuple(dict(concept.definitions).items()),
            scope_notes=tuple(dict(concept.scope_notes).items()),
        )
        for concept in given_concepts
    ]
    lines = [concept_to_json(concept) + "\n" for concept in one_definition]
    start.write_text("".join(lines), encoding="utf-8", newline="")
    first = read_vocabulary(start)
    assert list(map(by_language, first)) == list(map(by_language, one_definition))
    write_vocabulary(first, folder / f"b{ending}")
    with read_vocabulary(folder / f"b{ending}") as second:
        assert list(map(by_language, second)) == list(map(by_language, one_definition))
        write_vocabulary(second, folder / "c.jsonl")
    assert list(map(by_language, read_vocabulary(folder / "c.jsonl"))) == list(
        map(by_language, one_definition)
    )


def test_skos_to_skos_keeps_all_languages(tmp_path: Path) -> None:
    rdflib = pytest.importorskip("rdflib", reason="rdflib is not installed")
    path = put(tmp_path, "a.ttl", THESAURUS)
    with read_vocabulary(path) as vocabulary:
        write_vocabulary(vocabulary, tmp_path / "b.rdf")
    before, after = rdflib.Graph().parse(path), rdflib.Graph().parse(tmp_path / "b.rdf")
    skos = rdflib.namespace.SKOS
    kept = {rdflib.URIRef(label.id) for label in ENGLISH}
    relations = (skos.prefLabel, skos.altLabel, skos.hiddenLabel, skos.broader, skos.notation)
    said = {
        (s, p, str(o), getattr(o, "language", None) and o.language.lower())
        for s, p, o in before
        if s in kept and p in relations
    }
    assert said <= {(s, p, str(o), getattr(o, "language", None)) for s, p, o in after}
    assert set(after.subjects(rdflib.RDF.type, skos.Concept)) == kept


LANGUAGES = f"""\
<http://e/a> <{PREF}> "Tier"@de .
<http://e/a> <{PREF}> "Animal"@en .
<http://e/b> <{PREF}> "Hund"@de .
<http://e/b> <{PREF}> "Dog"@en .
"""


def read_all(path: Path, form: str | None = None) -> tuple[list[Concept], list[str], list[str]]:
    """The concepts, the warnings and the errors of a file."""
    with read_vocabulary(path, form, strict=False) as vocabulary:
        concepts = list(vocabulary)
        problems = vocabulary.problems
        return concepts, list(problems.warnings()), [str(error) for error in problems.errors]


def test_skos_in_json_lines_has_the_same_default_names(tmp_path: Path) -> None:
    path = put(tmp_path, "a.nt", LANGUAGES)
    with read_vocabulary(path) as vocabulary:
        write_vocabulary(vocabulary, tmp_path / "a.jsonl")
    for form in ("nt", "jsonl"):
        labels = LabelSet.read(tmp_path / f"a.{form}")
        assert labels.names == ["Animal", "Dog"]
        assert LabelSet.read(tmp_path / f"a.{form}", language="de").names == ["Tier", "Hund"]
        with pytest.raises(ConfigurationError, match=r"it has de \(2\), en \(2\)"):
            LabelSet.read(tmp_path / f"a.{form}", language="xx")


SKOS_CORE = "http://www.w3.org/2004/02/skos/core#"
RELATIVE = {
    "a.ttl": f'@prefix s: <{SKOS_CORE}> . @prefix : <#> .\n<#c1> s:prefLabel "x" .\n'
    ':c2 s:prefLabel "y" ; s:broader <#c1> .\n',
    "a.rdf": '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    f'xmlns:s="{SKOS_CORE}">'
    '<s:Concept rdf:about="#c1"><s:prefLabel>x</s:prefLabel></s:Concept>'
    '<s:Concept rdf:ID="c2"><s:prefLabel>y</s:prefLabel><s:broader rdf:resource="#c1"/>'
    "</s:Concept></rdf:RDF>",
    "a.jsonld": f'{{"@context": {{"@vocab": "{SKOS_CORE}"}}, "@graph": ['
    '{"@id": "#c1", "prefLabel": "x"}, '
    '{"@id": "#c2", "prefLabel": "y", "broader": {"@id": "#c1"}}]}',
}


@pytest.mark.parametrize("name", RELATIVE)
def test_relative_iris_are_ids_as_they_stand(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name, RELATIVE[name])
    expected = [Label("#c1", "x"), Label("#c2", "y", parents=("#c1",))]
    assert list(LabelSet.read(path)) == expected
    with read_vocabulary(path) as vocabulary:
        write_vocabulary(vocabulary, tmp_path / "again.ttl")
    assert list(LabelSet.read(tmp_path / "again.ttl")) == expected


def test_a_base_in_the_file_is_followed(tmp_path: Path) -> None:
    path = put(tmp_path, "a.ttl", f'@base <http://e/> . <#c1> <{PREF}> "x" .')
    assert LabelSet.read(path).ids == ["http://e/#c1"]


def test_blank_nodes_are_counted(tmp_path: Path) -> None:
    path = put(tmp_path, "a.nt", f'<a:1> <{PREF}> "x"@en .\n_:b <{PREF}> "y"@fi .\n')
    concepts, warnings, errors = read_all(path)
    assert [concept.id for concept in concepts] == ["a:1"]
    kind = "concepts left out that are blank nodes: give each an IRI"
    assert (warnings, errors) == ([f"{path}: 1 {kind}: y"], [])


def test_malformed_language_tags_of_json_ld_are_counted(tmp_path: Path) -> None:
    names = '[{"@value": "x", "@language": "en_US"}, {"@value": "y", "@language": "en-US"}]'
    path = put(tmp_path, "a.jsonld", f'{{"@id": "a:1", "{PREF}": {names}}}')
    concepts, warnings, _ = read_all(path)
    assert concepts[0].names == (("en-us", "y"),)
    kind = "texts left out whose language tag 'en_US' is not as in BCP 47"
    assert warnings == [f"{path}: 1 {kind}: x"]


@pytest.mark.parametrize(
    ("tag", "iri", "line"),
    [("en_US", "http://e/a", 3), ("en", "http://e/a b", 2)],
)
def test_errors_of_rdf_xml_name_the_line(tmp_path: Path, tag: str, iri: str, line: int) -> None:
    content = (
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        f'xmlns:s="{SKOS_CORE}">\n<s:Concept rdf:about="{iri}">\n'
        f'<s:prefLabel xml:lang="{tag}">x</s:prefLabel></s:Concept></rdf:RDF>'
    )
    with pytest.raises(LabelSetError) as caught:
        LabelSet.read(put(tmp_path, "a.rdf", content))
    assert caught.value.line == line


@pytest.mark.parametrize("name", ["a.ttl", "a.rdf", "a.nt"])
def test_utf_16_is_told(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name, LANGUAGES.encode("utf-16"))
    with pytest.raises(LabelSetError, match="looks like UTF-16: save it as UTF-8"):
        LabelSet.read(path)


@pytest.mark.parametrize("character", ["\x0b", "\r", "\uffff"])
def test_what_xml_cannot_hold_is_refused(tmp_path: Path, character: str) -> None:
    path = put(tmp_path, "a.jsonl", json.dumps({"id": "a:1", "name": f"x{character}y"}))
    with (
        read_vocabulary(path) as vocabulary,
        pytest.raises(ConfigurationError, match=rf"a:1\) holds U\+{ord(character):04X}"),
    ):
        write_vocabulary(vocabulary, tmp_path / "b.rdf")
    assert not (tmp_path / "b.rdf").exists()
    with read_vocabulary(path) as vocabulary:
        write_vocabulary(vocabulary, tmp_path / "b.nt")
    assert LabelSet.read(tmp_path / "b.nt").names == [f"x{character}y"]


def test_a_full_folder_of_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource", reason="no limits of resources here")
    monkeypatch.setattr(irr.vocabularies.skos, "_CACHE_KIB", 1)
    monkeypatch.setattr(irr.vocabularies.skos, "_BATCH", 100)
    lines = (f'<http://e/{number}> <{PREF}> "{"x" * 100}" .\n' for number in range(5000))
    path = put(tmp_path, "a.nt", "".join(lines))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot write to the folder of temporary files"):
            LabelSet.read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
