"""The preparation scripts: counts on the real data, and the protocol on small files."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "eval"))
RAW_ESCO = Path(__file__).parents[2] / "shared" / "data" / "esco"


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


esco = script("prepare_esco")
icd = script("prepare_icd10cm")
preparation = script("preparation")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "skills_en_label.txt").write_text(
        " use SQL\nJava\nuse tools, with care", encoding="utf-8"
    )
    (folder / "esco_priors.json").write_text('{"Java ": 0.5, "gone": 0.1}', encoding="utf-8")
    annotations = (
        "sentence,span,sub_span,label\n"
        "Knows SQL\x85 and Java,SQL,, use SQL\nother,x,,LABEL NOT PRESENT\n"
        '"Knows SQL\x85 and Java",Java,,Java\nKnows SQL\x85 and Java,SQL,,use SQL\n'
        "lone,x,,UNDERSPECIFIED\nlone,y,,COBOL\n"
    )
    (folder / "house_test_annotations.csv").write_text(annotations, encoding="utf-8")
    return folder


def test_esco_protocol(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert esco.main(["--source", str(raw), "--output", str(out)]) == 0
    names = ["use SQL", "Java", "use tools, with care"]
    assert rows(out / "labels.jsonl") == [{"id": name, "name": name} for name in names]
    assert json.loads((out / "priors.json").read_text(encoding="utf-8")) == {"Java": 0.5}
    assert rows(out / "house_test.jsonl") == [
        {"id": "house_test-1", "text": "Knows SQL\x85 and Java", "labels": ["use SQL", "Java"]},
        {"id": "house_test-2", "text": "lone", "labels": ["COBOL"]},
    ]
    said = capsys.readouterr().err
    assert "2 documents of 6 rows; dropped 2 rows and 1 documents without a label" in said
    assert "not in the label set, kept: 'COBOL', 1 documents" in said
    assert "1 priors; 1 dropped" in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("skills_en_label.txt", b"a\nb\na\n", "skills_en_label.txt:3: label 'a' is already"),
        ("skills_en_label.txt", b"\n \n", "holds no label"),
        ("skills_en_label.txt", b"caf\xe9", "is not UTF-8 (byte 3)"),
        ("esco_priors.json", b"[1]", "must be one JSON object"),
        ("esco_priors.json", b'{"a": null}', "must be one JSON object"),
        ("house_test_annotations.csv", b"sentence,span\nx,y\n", "lacks the column 'label'"),
        ("house_test_annotations.csv", b"sentence,label\nx\n", "csv:2: a row needs"),
    ],
)
def test_esco_errors(
    raw: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (raw / name).write_bytes(content)
    out = raw.parent / "out"
    assert esco.main(["--source", str(raw), "--output", str(out)]) == 3
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not out.exists()


def test_esco_without_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert esco.main(["--source", str(tmp_path), "--output", str(tmp_path / "out")]) == 3
    assert "skills_en_label.txt: no such file" in capsys.readouterr().err


def test_an_output_that_cannot_be_written(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = raw.parent / "taken"
    taken.write_text("")
    assert esco.main(["--source", str(raw), "--output", str(taken)]) == 4
    assert capsys.readouterr().err == f"error: cannot write to {taken}: File exists\n"


def test_what_is_no_utf8_is_replaced_or_an_error(tmp_path: Path) -> None:
    preparation.write_jsonl(tmp_path / "a", [{"text": "é\udcff"}], errors="replace")
    assert (tmp_path / "a").read_bytes() == '{"text": "é?"}\n'.encode()
    with pytest.raises(UnicodeEncodeError):
        preparation.write_jsonl(tmp_path / "b", [{"text": "é\udcff"}])


@pytest.mark.skipif(not RAW_ESCO.is_dir(), reason="the raw ESCO files are not here")
def test_esco_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert esco.main(["--source", str(RAW_ESCO), "--output", str(tmp_path)]) == 0
    labels = {row["id"] for row in rows(tmp_path / "labels.jsonl")}
    assert len(labels) == 13_896
    for name, documents in (("house_validation", 61), ("tech_validation", 75)):
        gold = rows(tmp_path / f"{name}.jsonl")
        assert len(gold) == len({row["id"] for row in gold}) == documents
        assert all(row["labels"] and labels.issuperset(row["labels"]) for row in gold)
    assert "kept" not in capsys.readouterr().err


def test_icd10cm(tmp_path: Path) -> None:
    pytest.importorskip("simple_icd_10_cm")
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        arguments = ["--output", str(tmp_path / name), "--seed", seed, "--notes", "50"]
        assert icd.main(arguments) == 0
    labels = {row["id"]: row["name"] for row in rows(tmp_path / "a" / "labels.jsonl")}
    assert len(labels) == len(rows(tmp_path / "a" / "labels.jsonl")) == 26_592
    assert labels["A00.0"] == "Cholera due to Vibrio cholerae 01, biovar cholerae"
    terms = {row["text"]: row["labels"] for row in rows(tmp_path / "a" / "terms.jsonl")}
    assert len(terms) == 10_641
    assert terms["Classical cholera"] == ["A00.0"]
    assert all(set(codes) <= labels.keys() for codes in terms.values())
    notes = rows(tmp_path / "a" / "notes.jsonl")
    assert len(notes) == 50
    assert notes == rows(tmp_path / "b" / "notes.jsonl") != rows(tmp_path / "c" / "notes.jsonl")
    assert {len(row["labels"]) for row in notes} >= {3, 4, 5}


def test_icd10cm_note_has_one_sentence_a_term() -> None:
    terms = [
        icd.Term("Ague.", ("B54",), frozenset("1")),
        icd.Term("Gout", ("M10",), frozenset("2")),
    ]
    row = icd.note_row(7, terms)
    assert row == {"id": "note-7", "text": "Ague. Gout.", "labels": ["B54", "M10"]}


def test_icd10cm_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert icd.main(["--output", str(tmp_path), "--notes", "-1"]) == 2
    assert capsys.readouterr().err == "error: --notes must be 0 or more, not -1\n"


@pytest.mark.parametrize(
    "text",
    [
        'sentence,span,sub_span,label\n"SQL, Java",SQL,,use SQL\n"SQL, Java",Java,,Java\n',
        'sentence,label\n"SQL, Java",use SQL\n"SQL, Java",Java\n',
        ',Label, Sentence \n0,use SQL,"SQL, Java"\n1,Java,"SQL, Java"\n',
    ],
)
def test_esco_annotations_by_span_or_by_sentence(raw: Path, tmp_path: Path, text: str) -> None:
    (raw / "techwolf_test_annotations.csv").write_text(text, encoding="utf-8")
    assert esco.main(["--source", str(raw), "--output", str(tmp_path / "out")]) == 0
    assert rows(tmp_path / "out" / "techwolf_test.jsonl") == [
        {"id": "techwolf_test-1", "text": "SQL, Java", "labels": ["use SQL", "Java"]}
    ]


biodex = script("prepare_biodex")
trove = script("prepare_trove")


@pytest.mark.parametrize(
    ("reactions", "found"),
    [
        ("Pain", ["Pain"]),
        ("Pain, Injury, head, Ache", ["Pain", "Injury, head", "Ache"]),
        ("Injury, Pain", ["Injury", "Pain"]),
        ("Injury, head, severe", ["Injury, head, severe"]),
        ("Injury, head,Pain", ["Injury, head", "Pain"]),
        ("pain, PAIN, Pain", ["Pain"]),
        ("no such, term", ["no such", "term"]),
        ("Off label, use, Off label", ["Off label", "use"]),
        ("", []),
        (" , ", []),
    ],
)
def test_biodex_reactions(reactions: str, found: list[str]) -> None:
    terms = biodex.Terms(["Pain", "Injury", "Injury, head", "Injury, head, severe", "Off label"])
    assert terms.split(reactions) == found


def test_biodex_prefers_the_exact_wording() -> None:
    terms = biodex.Terms(["IgA", "IGA"])
    assert [terms.split(text) for text in ("IGA", "IgA", "iga")] == [["IGA"], ["IgA"], ["IgA"]]


def test_biodex_text() -> None:
    row = {"title": "A title. ", "abstract": None, "fulltext": "Body", "reactions": ""}
    assert biodex.text_of(row) == "A title.\n\nBody"
    assert biodex.text_of({**row, "fulltext_processed": "As read"}) == "As read"


@pytest.fixture
def raw_biodex(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "reaction_terms.txt").write_text("Pain\nInjury, head", encoding="utf-8")
    (folder / "biodex_priors.json").write_text('{"Pain": 0.5, "gone": 0.1}', encoding="utf-8")
    for split, size in (("validation", 5), ("test", 260)):
        made = [
            {"title": f"{split} {i}", "fulltext": "a", "reactions": "Injury, head, Rash"}
            for i in range(size)
        ]
        text = "".join(json.dumps(row) + "\n" for row in made)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_biodex(raw_biodex: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert biodex.main(["--source", str(raw_biodex), "--output", str(out)]) == 0
    assert [row["name"] for row in rows(out / "labels.jsonl")] == ["Pain", "Injury, head"]
    assert json.loads((out / "priors.json").read_text(encoding="utf-8")) == {"Pain": 0.5}
    validation, test = (rows(out / f"{split}.jsonl") for split in ("validation", "test"))
    assert (len(validation), len(test)) == (5, 260)
    assert validation[0] == {
        "id": "validation-1",
        "text": "validation 0\n\na",
        "labels": ["Injury, head", "Rash"],
    }
    said = capsys.readouterr().err
    assert "5 documents, 10 reactions; 5 of them are 1 terms that are not in the label set" in said
    assert "not in the label set: 'Rash', 260 documents" in said


def test_biodex_published_sample(raw_biodex: Path, tmp_path: Path) -> None:
    """As the published code draws it: one generator for the process, validation shuffled first."""
    import random

    out = tmp_path / "out"
    assert biodex.main(["--source", str(raw_biodex), "--output", str(out)]) == 0
    validation, test = (rows(out / f"{split}.jsonl") for split in ("validation", "test"))
    random.seed(42)
    random.shuffle(validation)
    random.shuffle(test)
    assert rows(out / "test_250.jsonl") == test[:250]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.jsonl", '{"reactions": "Pain"}\n', "test.jsonl:1: has no text"),
        ("test.jsonl", '{"title": "a", "reactions": ["Pain"]}\n', "'reactions' must be one string"),
        ("test.jsonl", "7\n", "test.jsonl:1: expected an object"),
        ("test.jsonl", "", "test.jsonl: holds no documents"),
        ("biodex_priors.json", "[1]", "must be one JSON object"),
        ("reaction_terms.txt", "Pain\nPain\n", "reaction_terms.txt:2: the id 'Pain'"),
    ],
)
def test_biodex_errors(
    raw_biodex: Path, name: str, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw_biodex / name).write_text(content, encoding="utf-8")
    out = raw_biodex.parent / "out"
    assert biodex.main(["--source", str(raw_biodex), "--output", str(out)]) == 3
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not out.exists()


@pytest.mark.skipif(not RAW_ESCO.is_dir(), reason="the raw BioDEX files are not here")
def test_biodex_terms(raw_biodex: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("reaction_terms.txt", "biodex_priors.json"):
        real = RAW_ESCO.parent / "biodex" / name
        (raw_biodex / name).write_bytes(real.read_bytes())
    out = tmp_path / "out"
    assert biodex.main(["--source", str(raw_biodex), "--output", str(out)]) == 0
    assert len(rows(out / "labels.jsonl")) == 24_313
    assert "5876 priors; 122 dropped" in capsys.readouterr().err


DESCRIPTION = """\
Title
=====

[![build](badge)](link) more

# Heading

Reads [files](http://x) and
writes `others <http://y>`_ fast.

```python
import x

run()
```

.. note::

    indented

| a | b |

Second.

Third.

Fourth.
"""


def package(folder: Path, name: str, summary: str, classifiers: list[str], body: str = "") -> None:
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", f"Summary: {summary}"]
    lines += [f"Classifier: {classifier}" for classifier in classifiers]
    (info / "METADATA").write_text("\n".join(lines) + "\n\n" + body, encoding="utf-8")


def test_trove_prose() -> None:
    assert trove.prose(DESCRIPTION) == "Reads files and writes others fast.\n\nSecond.\n\nThird."


def test_trove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trove_classifiers", reason="the labels come from this package")
    site = tmp_path / "site"
    sql = "Topic :: Database"
    package(site, "Zeta", "Asks databases", [sql, sql, "Private :: Do Not Upload"], DESCRIPTION)
    package(site, "alpha-beta", "Tests", ["Topic :: Software Development :: Testing"])
    package(site, "untold", "", [sql])
    package(site, "unlabelled", "Something", [])
    monkeypatch.setattr("sys.path", [str(site)])
    out = tmp_path / "out"
    assert trove.main(["--output", str(out)]) == 0
    first, second = rows(out / "installed.jsonl")
    testing = "Topic :: Software Development :: Testing"
    assert first == {"id": "alpha-beta", "text": "Tests", "labels": [testing]}
    assert second["id"] == "Zeta" and second["labels"] == [sql, "Private :: Do Not Upload"]
    assert second["text"].startswith("Asks databases\n\nReads files and writes others fast.")
    labels = {row["id"]: row for row in rows(out / "labels.jsonl")}
    assert labels[testing]["parents"] == ["Topic :: Software Development"]
    said = capsys.readouterr().err
    assert "2 documents" in said and "left out 2 packages" in said
    assert "kept: 'Private :: Do Not Upload', 1 documents" in said


def test_trove_is_the_same_again(tmp_path: Path) -> None:
    pytest.importorskip("trove_classifiers", reason="the labels come from this package")
    for name in "ab":
        assert trove.main(["--output", str(tmp_path / name)]) == 0
    for name in ("labels.jsonl", "installed.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert rows(tmp_path / "a" / "installed.jsonl")
