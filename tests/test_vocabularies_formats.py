"""ESCO, MeSH, ICD-10-CM, Annif, Hugging Face: small files in the real formats."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from test_vocabularies_skos import put

import irr.vocabularies.lines
from irr.cli import main
from irr.errors import ConfigurationError, LabelSetError, OutputError
from irr.labels import LabelSet
from irr.types import Label
from irr.vocabularies import read_vocabulary
from irr.vocabularies.sniff import recognise
from irr.vocabularies.write import write_vocabulary

SKILLS = (
    "conceptType,conceptUri,skillType,reuseLevel,preferredLabel,altLabels,hiddenLabels,status,"
    "modifiedDate,scopeNote,definition,inScheme,description\n"
    "KnowledgeSkillCompetence,http://data.europa.eu/esco/skill/1,skill/competence,sector-specific,"
    'manage musical staff,"manage staff of music\ncoordinate duties of musical staff",,released,'
    '2023-11-30T15:53:37.136Z,,,"http://data.europa.eu/esco/concept-scheme/skills",'
    "Assign and manage staff tasks in areas such as scoring.\n"
    "KnowledgeSkillCompetence,http://data.europa.eu/esco/skill/2,knowledge,cross-sector,"
    "Haskell,,haskel,released,2023-11-30T15:53:37.136Z,the language,,s,\n"
    "KnowledgeSkillCompetence,http://data.europa.eu/esco/skill/3,knowledge,cross-sector,"
    "gone,,,obsolete,2023-11-30T15:53:37.136Z,,,s,\n"
)
BROADER = (
    "conceptType,conceptUri,conceptLabel,broaderType,broaderUri,broaderLabel\n"
    "KnowledgeSkillCompetence,http://data.europa.eu/esco/skill/1,a,SkillGroup,http://g/S4.8,b\n"
    "KnowledgeSkillCompetence,http://data.europa.eu/esco/skill/1,a,SkillGroup,http://g/S4.9,b\n"
)
MESH = """<?xml version="1.0"?>
<!DOCTYPE DescriptorRecordSet SYSTEM
  "https://www.nlm.nih.gov/databases/dtd/nlmdescriptorrecordset_20260101.dtd">
<DescriptorRecordSet LanguageCode = "eng">
<DescriptorRecord DescriptorClass = "1">
 <DescriptorUI>D000900</DescriptorUI>
 <DescriptorName><String>Anti-Bacterial Agents</String></DescriptorName>
 <TreeNumberList><TreeNumber>D27.505.122</TreeNumber></TreeNumberList>
 <ConceptList>
  <Concept PreferredConceptYN="N"><ConceptUI>M2</ConceptUI><ScopeNote>no</ScopeNote>
   <TermList><Term><TermUI>T3</TermUI><String>Antibiotics</String></Term></TermList></Concept>
  <Concept PreferredConceptYN="Y"><ConceptUI>M1</ConceptUI>
   <ScopeNote>Substances that inhibit
    the growth of bacteria.
   </ScopeNote>
   <TermList>
    <Term><TermUI>T1</TermUI><String>Anti-Bacterial Agents</String></Term>
    <Term><TermUI>T2</TermUI><String>Antibacterial Agents</String></Term>
   </TermList></Concept>
 </ConceptList>
</DescriptorRecord>
<DescriptorRecord DescriptorClass = "1">
 <DescriptorUI>D000890</DescriptorUI>
 <DescriptorName><String>Anti-Infective Agents</String></DescriptorName>
 <TreeNumberList><TreeNumber>D27.505</TreeNumber><TreeNumber>D27</TreeNumber></TreeNumberList>
</DescriptorRecord>
</DescriptorRecordSet>
"""
ORDER = "\n".join(
    f"{number:05} {code:<7} {flag} {short:<60} {long}"
    for number, code, flag, short, long in [
        (1, "A00", 0, "Cholera", "Cholera"),
        (2, "A000", 1, "Cholera due to V. cholerae", "Cholera due to Vibrio cholerae 01"),
        (3, "T360X1A", 1, "Poisoning by penicillins, init", "Poisoning by penicillins, initial"),
    ]
)
TABULAR = """<?xml version="1.0" encoding="utf-8"?>
<ICD10CM.tabular>
  <version>2026</version>
  <chapter><name>1</name><desc>Certain infectious diseases (A00-B99)</desc>
    <sectionIndex>
      <sectionRef first="A00" last="A09" id="A00-A09">Intestinal</sectionRef>
    </sectionIndex>
    <section id="A00-A09"><desc>Intestinal infectious diseases (A00-A09)</desc>
      <diag><name>A00</name><desc>Cholera</desc>
        <excludes1><note>carrier of cholera (Z22.1)</note></excludes1>
        <diag><name>A00.0</name><desc>Cholera due to biovar cholerae</desc>
          <inclusionTerm><note>Classical cholera (acute)</note></inclusionTerm></diag>
        <diag><name>A00.9</name><desc>Cholera, unspecified</desc></diag>
      </diag>
    </section>
    <section id="B20"><desc>HIV disease (B20)</desc>
      <diag><name>B20</name><desc>HIV disease</desc><includes><note>AIDS</note></includes></diag>
    </section>
  </chapter>
</ICD10CM.tabular>
"""


def test_esco_with_its_broader_relations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "broaderRelationsSkillPillar_en.csv", BROADER)
    path = put(tmp_path, "skills_en.csv", "\ufeff" + SKILLS)
    assert list(LabelSet.read(path)) == [
        Label(
            "http://data.europa.eu/esco/skill/1",
            "manage musical staff",
            ("manage staff of music", "coordinate duties of musical staff"),
            "Assign and manage staff tasks in areas such as scoring.",
            ("http://g/S4.8", "http://g/S4.9"),
        ),
        Label("http://data.europa.eu/esco/skill/2", "Haskell", ("haskel",), "the language"),
    ]
    assert "1 concepts not left in ESCO's release (status): gone" in caplog.text


def test_esco_without_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path, "skills_en.csv.gz", SKILLS)
    assert not any(label.parents for label in LabelSet.read(path))
    assert "not beside the file: broaderRelationsSkillPillar_en.csv" in caplog.text
    with read_vocabulary(path) as vocabulary:
        assert [concept.names[0][0] for concept in vocabulary] == ["en", "en"]


def test_mesh(tmp_path: Path) -> None:
    pytest.importorskip("defusedxml", reason="defusedxml is not installed")
    path = put(tmp_path, "desc2026.xml", MESH)
    assert list(LabelSet.read(path)) == [
        Label(
            "D000900",
            "Anti-Bacterial Agents",
            ("Antibiotics", "Antibacterial Agents"),
            "Substances that inhibit the growth of bacteria.",
            ("D000890",),
        ),
        Label("D000890", "Anti-Infective Agents"),
    ]


def test_icd10cm_order_file(tmp_path: Path) -> None:
    path = put(tmp_path, "icd10cm-order-2026.txt", ORDER.replace("\n", "\r\n"))
    assert list(LabelSet.read(path)) == [
        Label("A00", "Cholera"),
        Label(
            "A00.0",
            "Cholera due to Vibrio cholerae 01",
            ("Cholera due to V. cholerae",),
            "",
            ("A00",),
        ),
        Label("T36.0X1A", "Poisoning by penicillins, initial", ("Poisoning by penicillins, init",)),
    ]


def test_icd10cm_tabular_list(tmp_path: Path) -> None:
    pytest.importorskip("defusedxml", reason="defusedxml is not installed")
    path = put(tmp_path, "icd10cm-tabular-2026.xml.gz", TABULAR)
    assert list(LabelSet.read(path)) == [
        Label("A00", "Cholera", (), "", ("A00-A09",)),
        Label(
            "A00.0",
            "Cholera due to biovar cholerae",
            ("Classical cholera (acute)", "Classical cholera"),
            "",
            ("A00",),
        ),
        Label("A00.9", "Cholera, unspecified", (), "", ("A00",)),
        Label("B20", "HIV disease", ("AIDS",), "", ("1",)),
    ]


def test_the_tabular_list_agrees_with_its_package(tmp_path: Path) -> None:
    icd = pytest.importorskip("simple_icd_10_cm", reason="simple-icd-10-cm is not installed")
    pytest.importorskip("defusedxml", reason="defusedxml is not installed")
    data = next((Path(icd.__file__).parent / "data").glob("*tabular*.xml"))
    found = {label.id: label for label in LabelSet.read(data)}
    packaged = LabelSet.read("icd10cm")
    for label in packaged:
        # The file has two spaces in some texts, and ours has one.
        others = tuple(" ".join(name.split()) for name in label.alternative_names)
        assert found[label.id] == replace(label, alternative_names=others)


ANNIF_TSV = "<http://e/1>\teläimet\t59\n<http://e/2>\tkissat\n<http://e/3>\t\n"
ANNIF_CSV = "uri,label_fi,label_sv,notation\nhttp://e/1,kissat,katter,59\nhttp://e/2,koirat,,\n"


def test_annif_tsv(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path, "yso.tsv", ANNIF_TSV)
    assert list(LabelSet.read(path)) == [
        Label("http://e/1", "eläimet"),
        Label("http://e/2", "kissat"),
    ]
    assert "1 deprecated subjects (without a label) left out: http://e/3 (line 3)" in caplog.text
    plain = put(tmp_path, "plain.tsv", ANNIF_TSV.replace("<", "").replace(">", ""))
    assert LabelSet.read(plain).ids == ["http://e/1", "http://e/2"]


def test_annif_csv(tmp_path: Path) -> None:
    path = put(tmp_path, "yso.csv", ANNIF_CSV)
    assert LabelSet.read(path).names == ["kissat", "koirat"]
    assert LabelSet.read(path, language="sv").names == ["katter", "koirat"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", ANNIF_CSV), ("a.tsv", ANNIF_TSV.replace("<http://e/3>\t\n", ""))],
)
def test_annif_in_and_out_unchanged(tmp_path: Path, name: str, content: str) -> None:
    path = put(tmp_path, name, content)
    with read_vocabulary(path) as vocabulary:
        assert not write_vocabulary(vocabulary, tmp_path / f"b-{name}")
    assert (tmp_path / f"b-{name}").read_bytes() == path.read_bytes()


def test_what_annif_has_no_place_for_is_counted(tmp_path: Path) -> None:
    row = {"id": "1", "name": "cat", "alternative_names": ["feline", "puss"], "parents": ["9"]}
    row |= {"language": "en", "translations": {"fi": {"name": "kissa"}}}
    path = put(tmp_path, "a.jsonl", json.dumps(row))
    with read_vocabulary(path) as vocabulary:
        lost = write_vocabulary(vocabulary, tmp_path / "b.tsv")
    assert lost == {"alternative names": 2, "parents": 1, "names in other languages": 1}
    assert (tmp_path / "b.tsv").read_text() == "<1>\tcat\n"


FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "topics": {"feature": {"names": ["World", "Sports"], "_type": "ClassLabel"}, "_type": "List"},
}


def test_huggingface_classes(tmp_path: Path) -> None:
    path = put(tmp_path, "dataset_info.json", json.dumps({"features": FEATURES}))
    expected = [Label("World", "World"), Label("Sports", "Sports")]
    assert list(LabelSet.read(path)) == list(LabelSet.read(tmp_path)) == expected


def test_huggingface_without_or_with_several_classes(tmp_path: Path) -> None:
    put(tmp_path, "dataset_info.json", json.dumps({"features": {"text": FEATURES["text"]}}))
    with pytest.raises(LabelSetError, match=r"one feature of type ClassLabel.*; found: none"):
        LabelSet.read(tmp_path)
    two = {"a": FEATURES["topics"], "b": FEATURES["topics"]}
    put(tmp_path, "dataset_info.json", json.dumps({"features": two}))
    with pytest.raises(LabelSetError, match="found: a, b"):
        LabelSet.read(tmp_path)
    put(tmp_path, "dataset_info.json", json.dumps({"features": two | {"label": two["a"]}}))
    assert LabelSet.read(tmp_path).names == ["World", "Sports"]


def test_huggingface_saved_by_their_package(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    classes = datasets.ClassLabel(names=["World", "Sports"])
    features = datasets.Features({"text": datasets.Value("string"), "label": classes})
    rows = datasets.Dataset.from_dict({"text": ["a"], "label": [1]}, features=features)
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "two")
    for folder in ("one", "two"):
        assert LabelSet.read(tmp_path / folder).names == ["World", "Sports"]


@pytest.mark.parametrize(
    ("form", "name", "content", "lines", "message"),
    [
        ("esco", "a.csv", "name\nx\n", [1], "no column for the conceptUri"),
        ("annif-csv", "a.csv", "uri,label\n", [1], "no column for the label_en"),
        ("annif-csv", "a.csv", "uri,label_en\n,x\nu\nhttp://e/1,y\n", [2, 3], "empty uri"),
        ("annif-tsv", "a.tsv", "<a:1>\tx\nabc\n<a:2>\ta\tb\tc\n", [2, 3], "has no tab"),
        ("icd10cm-order", "a.txt", f"{ORDER}\nA00 Cholera\n\n", [4], "columns: number 1-5"),
        ("mesh", "a.xml", "<x/>", [None], "has the root element 'x'"),
        ("mesh", "a.xml", MESH.replace("</DescriptorRecordSet>", ""), [28], "no element found"),
        (
            "mesh",
            "a.xml",
            "<DescriptorRecordSet><DescriptorRecord/></DescriptorRecordSet>",
            [None],
            "DescriptorRecord 1 (empty) has no DescriptorUI",
        ),
        (
            "mesh",
            "a.xml",
            '<!DOCTYPE x [<!ENTITY a "b">]><DescriptorRecordSet>&a;</DescriptorRecordSet>',
            [None],
            "declares entities",
        ),
        ("icd10cm-tabular", "a.xml", MESH, [None], "not 'ICD10CM.tabular'"),
        ("turtle", "a.txt", "cats\ndogs\n", [1], "malformed turtle"),
        ("jsonl", "a.txt", "cats\n[]\n", [1, 2], "malformed JSON"),
        ("txt", "a.txt", "a\n\nb\rc\nd\xe4\n", [2, 3], "empty name"),
        ("csv", "a.csv", 'id,name\n1\n2,"b"x\n3,c\n', [2, 3], "has 1 cells"),
        ("huggingface", "a.json", "[]", [None], "is not a data set's description"),
    ],
)
def test_all_that_is_malformed_is_told_with_its_line(
    tmp_path: Path, form: str, name: str, content: str, lines: list[int | None], message: str
) -> None:
    if form in ("mesh", "icd10cm-tabular"):
        pytest.importorskip("defusedxml", reason="defusedxml is not installed")
    path = put(tmp_path, name, content)
    if form == "turtle":
        pytest.importorskip("pyoxigraph", reason="pyoxigraph is not installed")
    with read_vocabulary(path, form, strict=False) as vocabulary:
        list(vocabulary)
        assert [error.line for error in vocabulary.problems.errors] == lines
        assert message in str(vocabulary.problems.errors[0])
    with pytest.raises(LabelSetError) as caught:
        LabelSet.read(path, form)
    assert caught.value.line == lines[0]


def test_what_was_told_is_not_told_again(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", "name\na,b\nc\n")
    with read_vocabulary(path, strict=False) as vocabulary:
        assert [concept.id for concept in vocabulary] == ["c"]
        assert [concept.id for concept in vocabulary] == ["c"]
        assert len(vocabulary.problems.errors) == 1


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    path = put(tmp_path, "a.txt", "a\n")
    with pytest.raises(ConfigurationError, match="no label format 'skos': name one of txt, csv"):
        LabelSet.read(path, "skos")


def test_without_defusedxml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "defusedxml.ElementTree", None)
    with pytest.raises(ConfigurationError, match=r'pip install "irr\[formats\]"'):
        LabelSet.read(put(tmp_path, "a.xml", MESH))


def test_a_text_of_uris_stays_a_text(tmp_path: Path) -> None:
    path = put(tmp_path, "a.txt", "http://e/1\nhttp://e/2\n")
    assert LabelSet.read(path).names == ["http://e/1", "http://e/2"]


@pytest.mark.parametrize("name", ["b.json", "b"])
def test_endings_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with (
        read_vocabulary(put(tmp_path, "a.txt", "a\n")) as vocabulary,
        pytest.raises(ConfigurationError, match=r"must end in \.jsonl, \.ttl"),
    ):
        write_vocabulary(vocabulary, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_name_that_tsv_cannot_hold_leaves_no_file(tmp_path: Path) -> None:
    with (
        read_vocabulary(put(tmp_path, "a.jsonl", '"a"\n"b\\tc"\n')) as vocabulary,
        pytest.raises(ConfigurationError, match="holds a tab or line break"),
    ):
        write_vocabulary(vocabulary, tmp_path / "b.tsv")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


STREAMED = {
    "jsonl": '{"name": "cats", "language": "en", "translations": {"fi": {"name": "kissat"}}}\n',
    "annif-csv": "uri,label_fi,label_en\ncats,kissat,cats\n",
    "mesh": MESH.replace("Anti-Bacterial Agents", "cats").replace("Anti-Infective Agents", "dogs"),
}


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Callable[[str, bytes], Path]]:
    """Makes named pipes that somebody writes into, once."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    writers: list[Thread] = []

    def make(name: str, content: bytes) -> Path:
        path = tmp_path / name
        os.mkfifo(path)
        writers.append(Thread(target=path.write_bytes, args=[content], daemon=True))
        writers[-1].start()
        return path

    yield make
    for writer in writers:
        writer.join()


@pytest.mark.parametrize("form", STREAMED)
@pytest.mark.parametrize("packed", [False, True])
def test_a_pipe_can_be_gone_through_again(
    pipe: Callable[[str, bytes], Path], form: str, packed: bool
) -> None:
    if form == "mesh":
        pytest.importorskip("defusedxml", reason="defusedxml is not installed")
    content = STREAMED[form].encode()
    path = pipe("p.gz" if packed else "p", gzip.compress(content) if packed else content)
    with read_vocabulary(path, form) as vocabulary:
        first = [label.name for _, label in vocabulary.labelled()]
        assert first[0] == "cats"
        assert [label.name for _, label in vocabulary.labelled()] == first


def test_a_pipe_is_converted_whole(pipe: Callable[[str, bytes], Path], tmp_path: Path) -> None:
    content = "".join(f"label {number}\n" for number in range(100_000))
    target = tmp_path / "a.jsonl"
    assert main(["labels", str(pipe("a.txt", content.encode())), "--convert", str(target)]) == 0
    assert LabelSet.read(target).names == content.splitlines()


def test_standard_input_is_converted_whole(tmp_path: Path) -> None:
    pytest.importorskip("pyoxigraph", reason="pyoxigraph is not installed")
    target = tmp_path / "a.jsonl"
    command = [sys.executable, "-m", "irr", "labels", "-", "--labels-format", "n-triples"]
    line = '<a:1> <http://www.w3.org/2004/02/skos/core#prefLabel> "x" .\n'
    subprocess.run(
        [*command, "--convert", str(target)], input=line.encode(), check=True, capture_output=True
    )
    assert list(LabelSet.read(target)) == [Label("a:1", "x")]


def test_a_pipe_that_the_temporary_folder_cannot_hold(pipe: Callable[[str, bytes], Path]) -> None:
    resource = pytest.importorskip("resource", reason="no limits of resources here")
    path = pipe("a.txt", b"cats\n" * 100_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="environment variable TMPDIR"):
            LabelSet.read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_fewer_concepts_than_there_were_leave_the_old_file(tmp_path: Path) -> None:
    path = put(tmp_path, "a.txt", "cats\ndogs\n")
    target = put(tmp_path, "b.jsonl", "old")
    with (
        read_vocabulary(path) as vocabulary,
        pytest.raises(OutputError, match="gave 2 labels where it gave 3 before"),
    ):
        write_vocabulary(vocabulary, target, expected=3)
    assert target.read_text() == "old"


@pytest.mark.parametrize(
    ("rows", "language", "names"),
    [
        ([{"name": "cats"}, {"name": "language"}], None, ["cats", "language"]),
        (
            [{"name": "cats", "translations": {"fi": {"name": "kissat"}}}, {"name": "dogs"}],
            None,
            ["cats", "dogs"],
        ),
        (
            [{"name": "cats", "translations": {"FI": {"name": "kissat"}}}, {"name": "dogs"}],
            "fi",
            ["kissat", "dogs"],
        ),
        (
            [
                {"name": "Hund", "language": "de", "translations": {"en": {"name": "dog"}}},
                {"name": "cat", "language": "en", "translations": {"de": {"name": "Katze"}}},
            ],
            None,
            ["dog", "cat"],
        ),
    ],
)
def test_the_language_of_json_lines(
    tmp_path: Path, rows: list[dict[str, object]], language: str | None, names: list[str]
) -> None:
    path = put(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert LabelSet.read(path, language=language).names == names


def test_a_key_between_two_chunks_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "a.jsonl", '{"name": "Hund", "language": "de"}\n{"name": "cat"}\n')
    monkeypatch.setattr(irr.vocabularies.lines, "_CHUNK", 5)
    with read_vocabulary(path) as vocabulary:
        assert vocabulary.languages == ({"de": 1, "": 1}, "de")


def test_a_carriage_return_in_annif_csv(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", '{"id": "a:1", "name": "x\\ry"}\n')
    with read_vocabulary(path) as vocabulary:
        write_vocabulary(vocabulary, tmp_path / "b.csv")
    assert LabelSet.read(tmp_path / "b.csv").names == ["x\ry"]


def test_ids_with_spaces_in_annif_tsv(tmp_path: Path) -> None:
    path = put(tmp_path, "a.txt", "use SQL\nbake bread\n")
    with read_vocabulary(path) as vocabulary:
        write_vocabulary(vocabulary, tmp_path / "b.tsv")
    assert list(LabelSet.read(tmp_path / "b.tsv")) == list(LabelSet.read(path))


def test_ids_with_angle_brackets_are_not_for_annif_tsv(tmp_path: Path) -> None:
    path = put(tmp_path, "a.txt", "a > b\n")
    with (
        read_vocabulary(path) as vocabulary,
        pytest.raises(ConfigurationError, match="'a > b' has an angle bracket"),
    ):
        write_vocabulary(vocabulary, tmp_path / "b.tsv")


def test_n_triples_with_tabs_are_not_annifs(tmp_path: Path) -> None:
    assert recognise(put(tmp_path, "a.nt", '<a:1>\t<a:2>\t"x" .\n')) == "n-triples"


def test_language_tags_of_annif_csv_are_in_their_usual_case(tmp_path: Path) -> None:
    content = "uri,label_zh-Hant,label_en-GB\na:1,貓,cats\n"
    with read_vocabulary(put(tmp_path, "a.csv", content)) as vocabulary:
        write_vocabulary(vocabulary, tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text(encoding="utf-8") == content


def test_a_language_twice_in_annif_csv(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", "uri,label_en,label_EN\na:1,cats,dogs\n")
    with pytest.raises(LabelSetError, match="has the column 'label_en' twice"):
        LabelSet.read(path)


def test_mesh_in_another_language(tmp_path: Path) -> None:
    pytest.importorskip("defusedxml", reason="defusedxml is not installed")
    path = put(tmp_path, "a.xml", MESH.replace('"eng"', '"ger"'))
    with read_vocabulary(path) as vocabulary:
        assert {tag for concept in vocabulary for tag, _ in concept.names} == {"de"}


def test_a_bad_row_among_the_broader_relations_of_esco(tmp_path: Path) -> None:
    path = put(tmp_path, "skills_en.csv", SKILLS)
    relations = put(tmp_path, "broaderRelationsSkillPillar_en.csv", BROADER + "a,b\n")
    with read_vocabulary(path, strict=False) as vocabulary:
        concepts = list(vocabulary)
        errors = [(error.path, error.line) for error in vocabulary.problems.errors]
    assert [concept.parents for concept in concepts] == [("http://g/S4.8", "http://g/S4.9"), ()]
    assert errors == [(str(relations), 4)]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", b"cats\n\xff\ndogs\n"), ("a.csv", b"name\ncats\n\xff\ndogs\n")],
)
def test_where_reading_ends_is_told(tmp_path: Path, name: str, content: bytes) -> None:
    with read_vocabulary(put(tmp_path, name, content), strict=False) as vocabulary:
        assert [concept.id for concept in vocabulary] == ["cats"]
        (error,) = vocabulary.problems.errors
    assert str(error).endswith("Save the file as UTF-8; nothing after it was read")
